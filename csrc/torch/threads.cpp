// torch's thread pool as the kernels' own: one setting (torch.set_num_threads) rules both, and a call from inside a
// parallel region of torch's runs serially, as torch's do.
#include "threads.h"

#include <torch/csrc/stable/ops.h>

#include "../cpu/parallel.h"

namespace fastconv::ops {

namespace {

struct Body {
  cpu::RangeFunction function;
  void* context;
};

void run(int64_t size, int64_t grain, cpu::RangeFunction function, void* context) {
  if (size <= grain) return function(context, 0, size);
  Body body{function, context};
  const auto call = [](int64_t begin, int64_t end, void* body) {
    static_cast<Body*>(body)->function(static_cast<Body*>(body)->context, begin, end);
  };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, size, grain, call, &body));
}

int threads() {
  uint32_t count;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&count));
  return static_cast<int>(count);
}

}  // namespace

void install_thread_pool() { cpu::thread_pool() = cpu::ThreadPool{run, threads}; }

}  // namespace fastconv::ops
