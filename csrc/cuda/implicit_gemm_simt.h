// The implicit GEMM on CUDA cores as several tables use it: kernels/implicit_gemm_simt.cuh, compiled once, in
// conv2d_implicit_gemm.cu.
#pragma once

#include "model.h"
#include "phases.h"

namespace fastconv::cuda {

// What the kernel cannot count, beside the coordinates of phase_extent_reasons().
Reasons implicit_gemm_simt_reasons(const PhasedConv& c);

// Its tile, and what it takes: 128 x 128 (for float alone), 64 x 64 or, for few channels, 64 x 32.
TilePlan plan_implicit_gemm_simt(const PhasedConv& c);

// Weights in the storage type.
void implicit_gemm_simt(const PhasedConv& c, const CallContext& context);

// Below this many output channels a group most of a tile would be empty; the rows "direct" have narrower tiles.
constexpr int64_t kLeastImplicitGemmChannels = 16;

}  // namespace fastconv::cuda
