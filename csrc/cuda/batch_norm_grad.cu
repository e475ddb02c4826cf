// The gradients of BatchNorm with residual and activation: two reductions, then dx.
#include "algorithms.h"
#include "kernels/batch_norm.cuh"

namespace fastconv::cuda {

void batch_norm_act_backward(const BatchNormGradCall& call, const CallContext& context) {
  const BatchNormCall& forward = call.forward;
  if (forward.x.numel() == 0) return;
  const size_t bytes = static_cast<size_t>(forward.x.size[1]) * dtype_size(accumulate_dtype(forward.dtype));
  LaunchConfig config = norm_launch(forward, context);
  config.footprint.reads("dy", call.dy).writes("dx", call.dx).writes("dresidual", call.dresidual);
  config.footprint.writes("dweight", call.dweight, bytes).writes("dbias", call.dbias, bytes);
  visit_dtype(forward.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    const char* name = "batch_norm_act_backward";
    const NormParams<Acc> norm = norm_params<Acc>(forward);
    Acc *dweight = static_cast<Acc*>(call.dweight), *dbias = static_cast<Acc*>(call.dbias);
    const TensorView summed[] = {forward.x, forward.epilogue.residual, forward.epilogue.full_param, call.dy};
    reduce_channels<T>(name, summed, NormGradTerm<Acc>{norm}, StoreNormGrad<Acc>{norm, dweight, dbias}, false, context,
                       config);
    const int64_t count = forward.x.numel() / forward.x.size[1];
    const Acc share = call.batch_statistics ? static_cast<Acc>(1.0 / static_cast<double>(count)) : Acc(0);
    const TensorView mapped[] = {
        forward.x, forward.epilogue.residual, forward.epilogue.full_param, call.dy, call.dx, call.dresidual};
    map_channels<T>(name, mapped, NormBackward<Acc>{norm, dweight, dbias, share}, config);
  });
}

}  // namespace fastconv::cuda
