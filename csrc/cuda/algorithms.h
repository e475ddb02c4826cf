// Every row and kernel that csrc/cuda/*.cu defines; backend.cpp puts them in order.
#pragma once

#include "../common/algorithm_table.h"

namespace fastconv::cuda {

extern const Algorithm<GemmCall> kGemmMma;
extern const Algorithm<GemmCall> kGemmMmaSplitK;
extern const Algorithm<GemmCall> kGemmMmaTf32;
extern const Algorithm<GemmCall> kGemmMmaTf32SplitK;
extern const Algorithm<GemmCall> kGemmSimt;

extern const Algorithm<Conv2dCall> kConv2dDirect;

}  // namespace fastconv::cuda
