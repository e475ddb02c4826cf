// parallel_shares on threads of the test's own, one for each slot: who took which share, and when.
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "../../csrc/cpu/parallel.h"

namespace {

std::atomic<int64_t> running{0};

void run(int64_t size, int64_t, fastconv::cpu::RangeFunction body, void* context) {
  std::vector<std::thread> threads;
  running = size;
  for (int64_t i = 0; i < size; ++i) {
    threads.emplace_back([=] {
      body(context, i, i + 1);
      --running;
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

namespace fastconv::cpu {

ThreadPool& thread_pool() {
  static ThreadPool pool{run, [] { return 1; }};
  return pool;
}

}  // namespace fastconv::cpu

// How often each share was taken, by which slot, and as the how manieth. `slow`, unless negative, stays in its first
// share until all others have gone home, and nobody is through with one before it has begun.
extern "C" void shares_run(int64_t slots, int64_t count, int64_t slow, int64_t* times, int64_t* taker, int64_t* order) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> begun{slow < 0};
  fastconv::cpu::parallel_shares(slots, count, [&](int64_t slot, int64_t share) {
    __atomic_add_fetch(&times[share], 1, __ATOMIC_RELAXED);
    taker[share] = slot;
    order[share] = next++;
    if (slot == slow && !begun) {
      begun = true;
      while (running > 1) std::this_thread::yield();
    }
    while (!begun) std::this_thread::yield();
  });
}
