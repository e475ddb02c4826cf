// What the CUDA backend offers to the torch layer: its algorithm tables, of the same type as the CPU's. The same
// function exists twice: in the extension itself when nvcc built the kernels (backend "cuda"), and in the shared
// library fastconv/_emulated.so, which the host compiler built from the same sources (backend "cuda_emulated").
#pragma once

#include "../common/algorithm_table.h"

namespace fastconv::cuda {

const AlgorithmTable<GemmCall>& gemm_algorithms();
const AlgorithmTable<Conv2dCall>& conv2d_algorithms();

// Changes whenever a struct that crosses the library's border does: the two sides must come from one build.
constexpr uint64_t kBackendAbi =
    sizeof(GemmCall) | sizeof(Conv2dCall) << 16 | sizeof(CallContext) << 32 | sizeof(Algorithm<GemmCall>) << 40;

struct Backend {
  uint64_t abi;  // kBackendAbi of the side that fills it
  const AlgorithmTable<GemmCall>* gemm;
  const AlgorithmTable<Conv2dCall>* conv2d;
};

}  // namespace fastconv::cuda

// The one exported symbol. Never null, never changes.
extern "C" __attribute__((visibility("default"))) const fastconv::cuda::Backend* fastconv_cuda_backend();
