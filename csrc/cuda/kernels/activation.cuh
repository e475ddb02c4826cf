// y = act(x), y = dy * act'(x), y = dy * act''(x), over tensors of any strides, in place too. Memory-bound: a thread
// moves one pack of up to 16 bytes, and which activation it is, is decided at run time by all threads alike.
#pragma once

#include "../../common/calls.h"
#include "merged_axes.cuh"

namespace fastconv::cuda {

template <class T, int kPack_, bool kBackward_>
struct ActivationConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_;
  static constexpr bool kBackward = kBackward_;
  static_assert(kPack * sizeof(T) <= 16);
};

enum ActivationOperand { kActivationY, kActivationX, kActivationDy, kActivationParam, kActivationOperands };

struct ActivationParams {
  AxisIndex<kActivationOperands> index;
  Activation act;
  int order;
  const void* x;
  const void* dy;
  void* y;
  // The activation's parameter: one value, or a tensor of the accumulate type (per channel) or of x's type (full). In a
  // pack it is `param_step` elements apart: 0 or 1.
  double param;
  const void* channel_param;
  const void* full_param;
  int param_step;
};

template <class Config>
__global__ void __launch_bounds__(kFlatThreads) activation_kernel(const ActivationParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack;
  const int64_t item = flat_thread();
  if (item >= params.index.count) return;
  int64_t offset[kActivationOperands];
  params.index.locate(item, offset);
  const Pack<T, kPack> x = load_pack<kPack>(static_cast<const T*>(params.x) + offset[kActivationX]);
  Pack<T, kPack> dy = {};
  if constexpr (Config::kBackward) {
    dy = load_pack<kPack>(static_cast<const T*>(params.dy) + offset[kActivationDy]);
  }
  Acc param[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    const int64_t at = offset[kActivationParam] + e * params.param_step;
    param[e] = params.channel_param ? static_cast<const Acc*>(params.channel_param)[at]
               : params.full_param  ? to_accumulate(static_cast<const T*>(params.full_param)[at])
                                    : static_cast<Acc>(params.param);
  }
  Pack<T, kPack> y;
  visit_activation(params.act, [&](auto f) {
    using F = decltype(f);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const Acc v = to_accumulate(x.value[e]);
      Acc result;
      if constexpr (Config::kBackward) {
        const Acc slope = params.order == 1 ? F::template grad<Acc>(v, param[e]) : F::template grad2<Acc>(v, param[e]);
        result = to_accumulate(dy.value[e]) * slope;
      } else {
        result = F::template apply<Acc>(v, param[e]);
      }
      y.value[e] = from_accumulate<T>(result);
    }
  });
  store_pack<kPack>(static_cast<T*>(params.y) + offset[kActivationY], y);
}

inline MergedAxes<kActivationOperands> activation_axes(const ActivationCall& call) {
  MergedAxes<kActivationOperands> merged;
  for (int d = 0; d < 4; ++d) {
    const int64_t dy = call.order > 0 ? call.dy.stride[d] : call.y.stride[d];
    const int64_t param = call.param_kind == ParamKind::kFull         ? call.full_param.stride[d]
                          : call.param_kind == ParamKind::kPerChannel ? (d == 1)
                                                                      : 0;
    merged.add({call.y.size[d], {call.y.stride[d], call.x.stride[d], dy, param}});
  }
  merged.merge();
  return merged;
}

template <class Config>
void launch_activation(const ActivationCall& call, const MergedAxes<kActivationOperands>& merged,
                       const LaunchConfig& base) {
  ActivationParams params;
  params.index = AxisIndex<kActivationOperands>(merged, Config::kPack);
  params.act = call.act;
  params.order = call.order;
  params.x = call.x.data, params.dy = call.dy.data, params.y = call.y.data;
  params.param = call.param;
  params.channel_param = call.param_kind == ParamKind::kPerChannel ? call.channel_param : nullptr;
  params.full_param = call.param_kind == ParamKind::kFull ? call.full_param.data : nullptr;
  params.param_step = static_cast<int>(merged.axis[0].stride[kActivationParam]);
  launch("activation", flat_launch(base, params.index.count), activation_kernel<Config>, params);
}

}  // namespace fastconv::cuda
