// fastconv/_emulated.so: the CUDA kernels, compiled by the host compiler and run by the emulator. Opened on first use.
#pragma once

#include "../cuda/backend.h"

namespace fastconv::ops {

// Throws NotServed when the library is not in this build, or comes from another one.
const cuda::Backend& emulated_backend();

}  // namespace fastconv::ops
