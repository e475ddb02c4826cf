// Every row and kernel that csrc/cuda/*.cu defines; backend.cpp puts them in order.
#pragma once

#include "../common/algorithm_table.h"
#include "../common/fused_calls.h"

namespace fastconv::cuda {

extern const Algorithm<GemmCall> kGemmVector;
extern const Algorithm<GemmCall> kGemmMma;
extern const Algorithm<GemmCall> kGemmMmaSplitK;
extern const Algorithm<GemmCall> kGemmMmaTf32;
extern const Algorithm<GemmCall> kGemmMmaTf32SplitK;
extern const Algorithm<GemmCall> kGemmSimtSplitK;
extern const Algorithm<GemmCall> kGemmSimt;
extern const Algorithm<GemmCall> kGemmWgmma;
extern const Algorithm<GemmCall> kGemmWgmmaTf32;
extern const Algorithm<GemmCall> kGemmWgmmaSplitK;
extern const Algorithm<GemmCall> kGemmWgmmaTf32SplitK;
// Whole tables, for operations that end in a product, or have convolutions among their parts.
const AlgorithmTable<GemmCall>& gemm_algorithms();
const AlgorithmTable<Conv2dCall>& conv2d_algorithms();

extern const Algorithm<Conv2dCall> kConv2dDepthwise, kConv2dStemMma, kConv2dGroupedMma, kConv2dMma, kConv2dMmaTf32;
extern const Algorithm<Conv2dCall> kConv2dWgmma, kConv2dPointwise, kConv2dImplicitGemm, kConv2dIm2col, kConv2dDirect;
extern const Algorithm<Conv2dCall> kUpsamplePhaseWgmma, kUpsamplePhaseMma, kUpsampleGatherMma;
extern const Algorithm<Conv2dCall> kUpsamplePhase, kUpsampleGather;
extern const Algorithm<Conv2dInputGradCall> kConv2dInputGradDepthwise, kInputGradWgmma, kInputGradMma;
extern const Algorithm<Conv2dInputGradCall> kInputGradMmaTf32, kInputGradPhases, kInputGradDirect;
extern const Algorithm<Conv2dWeightGradCall> kConv2dWeightGradDepthwise, kWeightGradMma, kWeightGradMmaTf32;
extern const Algorithm<Conv2dWeightGradCall> kWeightGradWgmma, kWeightGradImplicitGemm, kWeightGradDirect;
extern const Algorithm<Conv2dStatsCall> kConv2dStatsWgmma, kConv2dStatsParts;
extern const Algorithm<Conv2dCall> kConv2dWinograd, kConv2dWinograd4x4, kConv2dWinograd2x2;

extern const Algorithm<InvertedResidualCall> kInvertedResidualFusedMma, kInvertedResidualParts;
extern const Algorithm<DepthwisePointwiseCall> kDepthwisePointwiseFusedMma, kDepthwisePointwiseParts;

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
void im2col(const Im2colCall& call, const CallContext& context);
void col2im(const Im2colCall& call, const CallContext& context);
void channel_sum(const ChannelSumCall& call, const CallContext& context);
void batch_norm_stats(const BatchNormStatsCall& call, const CallContext& context);
void batch_norm_act(const BatchNormCall& call, const CallContext& context);
void batch_norm_act_backward(const BatchNormGradCall& call, const CallContext& context);
void combine(const CombineCall& call, const CallContext& context);

}  // namespace fastconv::cuda
