// The algorithm tables of the CPU, in order of preference; each is in its <op>.cpp.
#pragma once

#include "../common/algorithm_table.h"
#include "../common/fused_calls.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {

// When Winograd's algorithm is taken unasked. Multiply-adds of an image below which the few microseconds to be gained
// are not worth another rounding; and pixels of an image that a call wants which has to transform the filters itself,
// some 40 ns a filter and channel: they earn that back twice over.
constexpr int64_t kWinogradWork = 2 << 20;
constexpr int64_t kWinogradUnpackedPixels = 2500;

// The rows `amx` and `avx512_bf16` of conv2d and upsample_conv2d: why the kernels `there`, null for none, do not serve
// a call, and whether its groups fill their tiles.
Reasons unless_bf16(const Conv2dCall& call, const Bf16Kernels* there);
bool fills_tiles(const ConvProblem& problem);

const AlgorithmTable<GemmCall>& gemm_algorithms();
const AlgorithmTable<Conv2dCall>& conv2d_algorithms();
const AlgorithmTable<Conv2dStatsCall>& conv2d_stats_algorithms();
const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms();
const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms();
const AlgorithmTable<Conv2dWeightGradCall>& conv2d_weight_grad_algorithms();
// Blocks (fused_blocks.cpp). Row "depth_first" is the fused kernel, "parts" the block's convolutions one after the
// other through tensors in the workspace: a planner takes a block where select_algorithm gives it "depth_first".
const AlgorithmTable<InvertedResidualCall>& inverted_residual_algorithms();
const AlgorithmTable<DepthwisePointwiseCall>& depthwise_pointwise_algorithms();
const AlgorithmTable<ConvMaxPoolCall>& conv_max_pool_algorithms();

}  // namespace fastconv::cpu
