// The one header through which kernels see CUDA: the toolkit under nvcc, the emulator's vocabulary under the host
// compiler (-DFASTCONV_EMULATED). Kernel sources are otherwise the same for both.
#pragma once

#if defined(FASTCONV_EMULATED)
#include "../../emulator/cuda_shim.h"
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#error "csrc/cuda is compiled by nvcc, or by the host compiler with -DFASTCONV_EMULATED (docs/emulator.md)"
#endif
