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

}  // namespace fastconv::cpu
