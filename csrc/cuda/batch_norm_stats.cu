// Batch statistics.
#include "kernels/batch_norm_stats.cuh"

#include "algorithms.h"

namespace fastconv::cuda {

void batch_norm_stats(const BatchNormStatsCall& call, const CallContext& context) {
  if (call.x.numel() == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  const size_t bytes = static_cast<size_t>(call.x.size[1]) * dtype_size(accumulate_dtype(call.dtype));
  config.footprint.reads("x", call.x).writes("mean", call.mean, bytes).writes("var", call.var, bytes);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    const TensorView operands[] = {call.x};
    const MomentTerm<T> term{call.x.as<const T>(), call.x.stride[1]};
    const StoreMoments<T> finish{term, static_cast<Acc*>(call.mean), static_cast<Acc*>(call.var)};
    reduce_channels<T>("batch_norm_stats", operands, term, finish, false, context, config);
  });
}

}  // namespace fastconv::cuda
