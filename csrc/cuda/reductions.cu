// Gradients of a bias and of PReLU's parameter.
#include "algorithms.h"
#include "kernels/channel_sum.cuh"

namespace fastconv::cuda {

void channel_sum(const ChannelSumCall& call, const CallContext& context) {
  const int64_t K = call.dy.size[1];
  if (K == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("dy", call.dy).writes("sum", call.sum, static_cast<size_t>(K) * dtype_size(call.dtype));
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* sum = static_cast<T*>(call.sum);
    if (call.dy.numel() == 0) return launch("channel_sum", flat_launch(config, K), zero_sums_kernel<T>, sum, K);
    const TensorView operands[] = {call.dy};
    reduce_channels<T>("channel_sum", operands, ChannelSumTerm{}, StoreSum<T>{sum}, false, context, config);
  });
}

void prelu_param_grad(const PreluParamGradCall& call, const CallContext& context) {
  const int64_t count = call.dparam.numel();
  if (count == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", call.x).reads("dy", call.dy);
  config.footprint.writes("dparam", call.dparam.data, static_cast<size_t>(count) * dtype_size(call.dtype));
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* dparam = call.dparam.as<T>();
    // dparam is dense, whatever shape it has.
    if (call.x.numel() == 0) {
      return launch("prelu_param_grad", flat_launch(config, count), zero_sums_kernel<T>, dparam, count);
    }
    if (call.param_kind == ParamKind::kFull) return launch_prelu_position<T>(call, config);
    const TensorView operands[] = {call.x, call.dy};
    reduce_channels<T>("prelu_param_grad", operands, PreluParamTerm{}, StoreSum<T>{dparam},
                       call.param_kind == ParamKind::kScalar, context, config);
  });
}

}  // namespace fastconv::cuda
