// What the tensor-core kernels that gather one operand from an image share (conv_mma.cuh, weight_grad_mma.cuh).
#pragma once

#include "gemm_mma.cuh"

namespace fastconv::cuda {

// Blocks on one multiprocessor: leaves up to 255, 168 or 128 registers a thread. The gather needs more of them beside
// the accumulators than GEMM does.
template <class Config>
constexpr int kGatherMinBlocks = (Config::kWarpM * Config::kWarpN > 2048    ? 256
                                  : Config::kWarpM * Config::kWarpN == 2048 ? 384
                                                                            : 512) /
                                 Config::kThreads;

// Whether a coordinate lies in an image, by one comparison: a negative one is a large unsigned one.
__device__ __forceinline__ bool is_inside(int at, int extent) {
  return static_cast<unsigned>(at) < static_cast<unsigned>(extent);
}

}  // namespace fastconv::cuda
