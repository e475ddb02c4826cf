// The algorithm tables of the CPU, in order of preference; each is in its <op>.cpp.
#pragma once

#include "../common/algorithm_table.h"

namespace fastconv::cpu {

const AlgorithmTable<GemmCall>& gemm_algorithms();
const AlgorithmTable<Conv2dCall>& conv2d_algorithms();
const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms();
const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms();
const AlgorithmTable<Conv2dWeightGradCall>& conv2d_weight_grad_algorithms();

}  // namespace fastconv::cpu
