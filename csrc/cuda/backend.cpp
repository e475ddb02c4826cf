// The CUDA backend's tables. Within a table the first row with nothing against it, and preferred, serves a call.
#include "backend.h"

#include "algorithms.h"

namespace fastconv::cuda {

const AlgorithmTable<GemmCall>& gemm_algorithms() {
  static const AlgorithmTable<GemmCall> table = {kGemmVector,  kGemmWgmmaSplitK,     kGemmWgmma,     kGemmMmaSplitK,
                                                 kGemmMma,     kGemmWgmmaTf32SplitK, kGemmWgmmaTf32, kGemmMmaTf32SplitK,
                                                 kGemmMmaTf32, kGemmSimtSplitK,      kGemmSimt};
  return table;
}

const AlgorithmTable<Conv2dCall>& conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {
      kConv2dDepthwise,    kConv2dPointwise, kConv2dStemMma,  kConv2dGroupedMma,  kConv2dWgmma,
      kConv2dMma,          kConv2dMmaTf32,   kConv2dWinograd, kConv2dWinograd4x4, kConv2dWinograd2x2,
      kConv2dImplicitGemm, kConv2dIm2col,    kConv2dDirect};
  return table;
}

namespace {

const AlgorithmTable<Conv2dStatsCall>& conv2d_stats_algorithms() {
  static const AlgorithmTable<Conv2dStatsCall> table = {kConv2dStatsWgmma, kConv2dStatsParts};
  return table;
}

const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms() {
  static const AlgorithmTable<Conv2dCall> table = {kUpsamplePhaseWgmma, kUpsamplePhaseMma, kUpsampleGatherMma,
                                                   kUpsamplePhase,      kUpsampleGather,   kConv2dDirect};
  return table;
}

const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms() {
  static const AlgorithmTable<Conv2dInputGradCall> table = {
      kConv2dInputGradDepthwise, kInputGradWgmma, kInputGradMma, kInputGradMmaTf32, kInputGradPhases, kInputGradDirect};
  return table;
}

const AlgorithmTable<Conv2dWeightGradCall>& conv2d_weight_grad_algorithms() {
  static const AlgorithmTable<Conv2dWeightGradCall> table = {
      kConv2dWeightGradDepthwise, kWeightGradWgmma,        kWeightGradMma,
      kWeightGradMmaTf32,         kWeightGradImplicitGemm, kWeightGradDirect};
  return table;
}

const AlgorithmTable<InvertedResidualCall>& inverted_residual_algorithms() {
  static const AlgorithmTable<InvertedResidualCall> table = {kInvertedResidualFusedMma, kInvertedResidualParts};
  return table;
}

const AlgorithmTable<DepthwisePointwiseCall>& depthwise_pointwise_algorithms() {
  static const AlgorithmTable<DepthwisePointwiseCall> table = {kDepthwisePointwiseFusedMma, kDepthwisePointwiseParts};
  return table;
}

const OpKernels& op_kernels() {
  static const OpKernels kernels = [] {
    OpKernels k;
    k.max_pool2d = max_pool2d;
    k.max_pool2d_backward = max_pool2d_backward;
    k.avg_pool2d = avg_pool2d;
    k.avg_pool2d_backward = avg_pool2d_backward;
    k.activation = activation;
    k.prelu_param_grad = prelu_param_grad;
    k.softmax = softmax;
    k.softmax_backward = softmax_backward;
    k.upsample_nearest2d = upsample_nearest2d;
    k.upsample_nearest2d_backward = upsample_nearest2d_backward;
    k.channel_sum = channel_sum;
    k.batch_norm_stats = batch_norm_stats;
    k.batch_norm_act = batch_norm_act;
    k.batch_norm_act_backward = batch_norm_act_backward;
    k.im2col = im2col;
    k.col2im = col2im;
    return k;
  }();
  return kernels;
}

}  // namespace
}  // namespace fastconv::cuda

const fastconv::cuda::Backend* fastconv_cuda_backend() {
  using namespace fastconv::cuda;
  static const Backend backend{kBackendAbi,
                               &gemm_algorithms(),
                               &conv2d_algorithms(),
                               &conv2d_stats_algorithms(),
                               &upsample_conv2d_algorithms(),
                               &conv2d_input_grad_algorithms(),
                               &conv2d_weight_grad_algorithms(),
                               &inverted_residual_algorithms(),
                               &depthwise_pointwise_algorithms(),
                               &op_kernels(),
                               combine};
  return &backend;
}
