// The 32-bit address in the shared state space that PTX instructions take.
#pragma once

#include <cstdint>

#include "cuda.h"

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)
__forceinline__ uint32_t shared_address(const void* p, emulator::Caller caller = emulator::Caller::here()) {
  return emulator::shared_address(p, caller);
}
#else
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

}  // namespace fastconv::cuda
