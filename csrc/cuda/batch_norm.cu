// BatchNorm, residual and activation in one pass.
#include "algorithms.h"
#include "kernels/batch_norm.cuh"

namespace fastconv::cuda {

void batch_norm_act(const BatchNormCall& call, const CallContext& context) {
  if (call.x.numel() == 0) return;
  LaunchConfig config = norm_launch(call, context);
  config.footprint.writes("y", call.y);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    const TensorView operands[] = {call.x, call.epilogue.residual, call.epilogue.full_param, call.y};
    map_channels<T>("batch_norm_act", operands, NormForward<Acc>{norm_params<Acc>(call)}, config);
  });
}

}  // namespace fastconv::cuda
