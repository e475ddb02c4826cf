// The thread pool the kernels run on: torch's own, handed in by the torch layer so that csrc/cpu stays free of torch.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

using RangeFunction = void (*)(void* context, int64_t begin, int64_t end);

struct ThreadPool {
  // Splits [0, size) into ranges of at least `grain` and runs them; returns when all are done.
  void (*run)(int64_t size, int64_t grain, RangeFunction body, void* context) = nullptr;
  int (*threads)() = nullptr;
};

// Serial until the torch layer installs its pool.
ThreadPool& thread_pool();

// parallel_for(size, grain, [&](int64_t begin, int64_t end) { ... }).
template <class F>
void parallel_for(int64_t size, int64_t grain, F&& body) {
  if (size <= 0) return;
  thread_pool().run(
      size, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); }, &body);
}

// Shares [0, count) on `slots` threads: body(slot, share). Each slot takes a stretch of neighbouring shares in order,
// as a fixed division would have it; a thread that is through helps the others with their last ones. Where cores differ
// in speed, as on machines that others use too, nobody waits for the slowest longer than for one share.
template <class F>
void parallel_shares(int64_t slots, int64_t count, F&& body) {
  constexpr int64_t kMostSlots = 64;
  if (slots > kMostSlots || count <= slots) {
    return parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot)
        for (int64_t i = count * slot / slots; i < count * (slot + 1) / slots; ++i) body(slot, i);
    });
  }
  // What is left of a slot's stretch: the next share, and behind the last one, in one word. By the compiler's builtins:
  // std::atomic's functions could be shared between units for different processors.
  struct alignas(64) Stretch {
    uint64_t left;
    int64_t take(bool from_the_end) {
      uint64_t now = __atomic_load_n(&left, __ATOMIC_RELAXED);
      for (;;) {
        const uint64_t next = now >> 32, end = now & 0xffffffff;
        if (next >= end) return -1;
        const uint64_t then = from_the_end ? now - 1 : now + (uint64_t{1} << 32);
        if (__atomic_compare_exchange_n(&left, &now, then, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
          return static_cast<int64_t>(from_the_end ? end - 1 : next);
        }
      }
    }
  };
  Stretch stretches[kMostSlots];
  for (int64_t slot = 0; slot < slots; ++slot) {
    stretches[slot].left =
        static_cast<uint64_t>(count * slot / slots) << 32 | static_cast<uint64_t>(count * (slot + 1) / slots);
  }
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      for (int64_t i = 0; i < slots; ++i) {
        Stretch& stretch = stretches[(slot + i) % slots];
        for (int64_t share; (share = stretch.take(i > 0)) >= 0;) body(slot, share);
      }
    }
  });
}

}  // namespace fastconv::cpu
