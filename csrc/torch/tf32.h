// Whether float32 may be multiplied in TF32: torch's own settings, which its stable ABI does not tell, read in Python.
#pragma once

#include "../common/dtypes.h"

namespace fastconv::ops {

enum class Fp32Use { kMatmul, kConv };

// torch.backends.cuda.matmul.fp32_precision and torch.backends.cudnn.conv.fp32_precision. Set by module.cpp; false
// where no Python runs (AOTInductor in C++).
extern bool (*tf32_allowed)(Fp32Use use);

// Fills call.allow_tf32. Tensors of the CPU, emulated kernels included, are always multiplied in full.
template <class Call>
void fill_tf32(Call& call, bool on_gpu, Fp32Use use) {
  call.allow_tf32 = on_gpu && call.dtype == DType::kFloat32 && tf32_allowed(use);
}

}  // namespace fastconv::ops
