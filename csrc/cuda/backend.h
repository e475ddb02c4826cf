// What the CUDA backend offers to the torch layer: algorithm tables and single kernels, of the same types as the CPU's.
// The same function exists twice: in the extension itself when nvcc built the kernels (backend "cuda"), and in the
// shared library fastconv/_emulated.so, which the host compiler built from the same sources (backend "cuda_emulated").
#pragma once

#include "../common/algorithm_table.h"
#include "../common/fused_calls.h"
#include "../common/op_kernels.h"

namespace fastconv::cuda {

struct Backend {
  uint64_t abi;  // kBackendAbi of the side that fills it
  const AlgorithmTable<GemmCall>* gemm;
  const AlgorithmTable<Conv2dCall>* conv2d;
  const AlgorithmTable<Conv2dStatsCall>* conv2d_stats;
  const AlgorithmTable<Conv2dCall>* upsample_conv2d;
  const AlgorithmTable<Conv2dInputGradCall>* conv2d_input_grad;
  const AlgorithmTable<Conv2dWeightGradCall>* conv2d_weight_grad;
  const AlgorithmTable<InvertedResidualCall>* inverted_residual;
  const AlgorithmTable<DepthwisePointwiseCall>* depthwise_pointwise;
  const OpKernels* kernels;
  OpKernels::Kernel<CombineCall> combine;  // for network plans
};

// Changes whenever a struct that crosses the library's border does: the two sides must come from one build.
template <class... Structs>
constexpr uint64_t sizes_hash() {
  uint64_t hash = 0;
  ((hash = hash * 1000003 + sizeof(Structs)), ...);
  return hash;
}
constexpr uint64_t kBackendAbi =
    sizes_hash<GemmCall, Conv2dCall, Conv2dInputGradCall, Conv2dWeightGradCall, PoolCall, ActivationCall,
               PreluParamGradCall, SoftmaxCall, Im2colCall, UpsampleCall, ChannelSumCall, BatchNormCall,
               BatchNormStatsCall, Conv2dStatsCall, BatchNormGradCall, CombineCall, InvertedResidualCall,
               DepthwisePointwiseCall, CallContext, Algorithm<GemmCall>, OpKernels, Backend>();

}  // namespace fastconv::cuda

// The one exported symbol. Never null, never changes.
extern "C" __attribute__((visibility("default"))) const fastconv::cuda::Backend* fastconv_cuda_backend();
