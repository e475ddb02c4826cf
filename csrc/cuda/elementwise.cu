// Activations and their derivatives.
#include "algorithms.h"
#include "kernels/activation.cuh"

namespace fastconv::cuda {
namespace {

template <class T, bool kBackward>
void run_activation(const ActivationCall& call, const LaunchConfig& config) {
  const MergedAxes<kActivationOperands> merged = activation_axes(call);
  // double is there for gradient checks; its exponentials are long enough once.
  if constexpr (sizeof(T) < 8) {
    constexpr int kPack = kWidestPack<T>;
    const int64_t param_step = merged.axis[0].stride[kActivationParam];
    const bool packs = merged.in_packs(kActivationY, call.y.data, kPack, 16) &&
                       merged.in_packs(kActivationX, call.x.data, kPack, 16) &&
                       (!kBackward || merged.in_packs(kActivationDy, call.dy.data, kPack, 16)) &&
                       (param_step == 0 || param_step == 1);
    if (packs) return launch_activation<ActivationConfig<T, kPack, kBackward>>(call, merged, config);
  }
  launch_activation<ActivationConfig<T, 1, kBackward>>(call, merged, config);
}

}  // namespace

void activation(const ActivationCall& call, const CallContext& context) {
  if (call.y.numel() == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  // In place y is x, and may be read as well as written.
  config.footprint.writes("y", call.y);
  if (call.x.data != call.y.data) config.footprint.reads("x", call.x);
  if (call.order > 0) config.footprint.reads("dy", call.dy);
  const size_t channel_bytes = static_cast<size_t>(call.x.size[1]) * dtype_size(accumulate_dtype(call.dtype));
  if (call.param_kind == ParamKind::kPerChannel) config.footprint.reads("alpha", call.channel_param, channel_bytes);
  if (call.param_kind == ParamKind::kFull) config.footprint.reads("alpha", call.full_param);
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    call.order > 0 ? run_activation<T, true>(call, config) : run_activation<T, false>(call, config);
  });
}

}  // namespace fastconv::cuda
