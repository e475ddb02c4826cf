// Every row and kernel that csrc/cuda/*.cu defines; backend.cpp puts them in order.
#pragma once

#include "../common/algorithm_table.h"

namespace fastconv::cuda {

extern const Algorithm<GemmCall> kGemmMma;
extern const Algorithm<GemmCall> kGemmMmaSplitK;
extern const Algorithm<GemmCall> kGemmMmaTf32;
extern const Algorithm<GemmCall> kGemmMmaTf32SplitK;
extern const Algorithm<GemmCall> kGemmSimtSplitK;
extern const Algorithm<GemmCall> kGemmSimt;
extern const Algorithm<GemmCall> kGemmWgmma;

extern const Algorithm<Conv2dCall> kConv2dMma, kConv2dMmaTf32, kConv2dDirect;
extern const Algorithm<Conv2dCall> kUpsamplePhaseMma, kUpsampleGatherMma;
extern const Algorithm<Conv2dInputGradCall> kInputGradMma, kInputGradMmaTf32;
extern const Algorithm<Conv2dCall> kConv2dDepthwise;
extern const Algorithm<Conv2dInputGradCall> kConv2dInputGradDepthwise;
extern const Algorithm<Conv2dWeightGradCall> kConv2dWeightGradDepthwise;

// Single kernels (csrc/common/op_kernels.h).
void max_pool2d(const PoolCall& call, const CallContext& context);
void max_pool2d_backward(const PoolCall& call, const CallContext& context);
void avg_pool2d(const PoolCall& call, const CallContext& context);
void avg_pool2d_backward(const PoolCall& call, const CallContext& context);
void activation(const ActivationCall& call, const CallContext& context);
void prelu_param_grad(const PreluParamGradCall& call, const CallContext& context);
void softmax(const SoftmaxCall& call, const CallContext& context);
void softmax_backward(const SoftmaxCall& call, const CallContext& context);
void upsample_nearest2d(const UpsampleCall& call, const CallContext& context);
void upsample_nearest2d_backward(const UpsampleCall& call, const CallContext& context);
void channel_sum(const ChannelSumCall& call, const CallContext& context);

}  // namespace fastconv::cuda
