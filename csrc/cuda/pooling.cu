// Max and average pooling, plain, adaptive and global.
#include "algorithms.h"
#include "kernels/pool_rows.cuh"
#include "kernels/pool_windows.cuh"

namespace fastconv::cuda {
namespace {

template <class T, PoolKind kKind>
void run_pool(const char* name, const PoolCall& call, const LaunchConfig& config) {
  constexpr int kPack = kWidestPack<T>;
  const bool packs = runs_in_packs(call.x, 1, kPack, 16) && runs_in_packs(call.y, 1, kPack, 16) &&
                     runs_in_packs(call.indices, 1, kPack, 16);
  if (packs) return launch_pool<PoolConfig<T, kPack, kKind>>(name, call, config);
  if constexpr (kPack > 2) {  // not double, which is there for gradient checks
    if (launch_pool_rows<PoolRowsConfig<T, kKind, 2>>(name, call, config)) return;
    // Averages of overlapping windows are not what networks have.
    if constexpr (kKind != PoolKind::kAverage) {
      if (launch_pool_rows<PoolRowsConfig<T, kKind, 3>>(name, call, config)) return;
    }
  }
  launch_pool<PoolConfig<T, 1, kKind>>(name, call, config);
}

LaunchConfig pool_launch(const PoolCall& call, const CallContext& context) {
  LaunchConfig config;
  config.stream = context.stream;
  TensorView indices = call.indices;
  indices.dtype = DType::kFloat64;  // as wide as an index
  config.footprint.reads("x", call.x).writes("y", call.y).writes("indices", indices);
  return config;
}

}  // namespace

void max_pool2d(const PoolCall& call, const CallContext& context) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.P * c.Q == 0) return;
  check_pool_extents("max_pool2d", c);
  const PoolAxis vertical = vertical_axis(c);
  const int64_t reach = vertical.adaptive ? vertical.most_taps() : (c.window_h - 1) * vertical.dilation + 1;
  if (call.indices.present() && reach * c.W > 0x7fffffff) {
    throw NotServed("max_pool2d: no algorithm serves this problem:\n  windows: " + std::to_string(reach) +
                    " rows of a window x W = " + std::to_string(c.W) + " are above 2^31 - 1");
  }
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    call.indices.present() ? run_pool<T, PoolKind::kMaxWithIndices>("max_pool2d", call, pool_launch(call, context))
                           : run_pool<T, PoolKind::kMax>("max_pool2d", call, pool_launch(call, context));
  });
}

void avg_pool2d(const PoolCall& call, const CallContext& context) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.P * c.Q == 0) return;
  check_pool_extents("avg_pool2d", c);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run_pool<T, PoolKind::kAverage>("avg_pool2d", call, pool_launch(call, context));
  });
}

}  // namespace fastconv::cuda
