// Gradients of max and average pooling.
#include "algorithms.h"
#include "kernels/pool_backward.cuh"

namespace fastconv::cuda {
namespace {

template <bool kMax>
void run_pool_backward(const char* name, const PoolCall& call, const CallContext& context) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.H * c.W == 0) return;
  check_pool_extents(name, c);
  LaunchConfig config;
  config.stream = context.stream;
  TensorView indices = call.indices;
  indices.dtype = DType::kFloat64;  // as wide as an index
  config.footprint.reads("dy", call.x).reads("indices", indices).writes("dx", call.y);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int kPack = kWidestPack<T>;
    const bool packs = runs_in_packs(call.x, 1, kPack, 16) && runs_in_packs(call.y, 1, kPack, 16) &&
                       runs_in_packs(call.indices, 1, kPack, 16);
    packs ? launch_pool_backward<PoolBackwardConfig<T, kPack, kMax>>(name, call, config)
          : launch_pool_backward<PoolBackwardConfig<T, 1, kMax>>(name, call, config);
  });
}

}  // namespace

void max_pool2d_backward(const PoolCall& call, const CallContext& context) {
  run_pool_backward<true>("max_pool2d_backward", call, context);
}

void avg_pool2d_backward(const PoolCall& call, const CallContext& context) {
  run_pool_backward<false>("avg_pool2d_backward", call, context);
}

}  // namespace fastconv::cuda
