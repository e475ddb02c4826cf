// The operations that have one kernel a backend, as a table of functions: every backend fills one. A null entry means
// that the backend does not serve the operation. Operations with a choice have algorithm tables instead.
#pragma once

#include "calls.h"

namespace fastconv {

struct OpKernels {
  template <class Call>
  using Kernel = void (*)(const Call&, const CallContext&);

  Kernel<PoolCall> max_pool2d = nullptr;
  Kernel<PoolCall> max_pool2d_backward = nullptr;
  Kernel<PoolCall> avg_pool2d = nullptr;
  Kernel<PoolCall> avg_pool2d_backward = nullptr;

  Kernel<ActivationCall> activation = nullptr;
  Kernel<PreluParamGradCall> prelu_param_grad = nullptr;
  Kernel<SoftmaxCall> softmax = nullptr;
  Kernel<SoftmaxCall> softmax_backward = nullptr;
  Kernel<Im2colCall> im2col = nullptr;
  Kernel<Im2colCall> col2im = nullptr;
  Kernel<UpsampleCall> upsample_nearest2d = nullptr;
  Kernel<UpsampleCall> upsample_nearest2d_backward = nullptr;
  Kernel<ChannelSumCall> channel_sum = nullptr;

  Kernel<BatchNormStatsCall> batch_norm_stats = nullptr;
  Kernel<BatchNormCall> batch_norm_act = nullptr;
  Kernel<BatchNormGradCall> batch_norm_act_backward = nullptr;
};

}  // namespace fastconv
