// Convolution-like problems in phases on Hopper's warpgroup tensor cores (kernels/phases_wgmma.cuh): what the rows of
// conv2d_input_grad and upsample_conv2d share.
#pragma once

#include "conv_mma.h"

namespace fastconv::cuda {

// Adds what stands against the problem on the current device; it must fit the tables of phases.h.
void add_phases_wgmma_reasons(Reasons& reasons, const ConvMmaProblem& problem);
// Its tile, of 256, 128 or 64 columns, and what it takes.
TilePlan plan_phases_wgmma(const ConvMmaProblem& problem);

void run_phases_wgmma(const ConvMmaProblem& problem, const CallContext& context);

}  // namespace fastconv::cuda
