// A warpgroup gives registers back, and others take them: producers that only issue copies need few, consumers that
// hold accumulators many. Every thread of the warpgroup executes it; kRegisters is a multiple of 8. sm_90a only.
#pragma once

#include "cuda.h"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_registers.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

template <int kRegisters>
__forceinline__ void release_registers(emulator::Caller caller = emulator::Caller::here()) {
  emulator::set_max_registers(kRegisters, false, caller);
}
template <int kRegisters>
__forceinline__ void claim_registers(emulator::Caller caller = emulator::Caller::here()) {
  emulator::set_max_registers(kRegisters, true, caller);
}

#else

template <int kRegisters>
__device__ __forceinline__ void release_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  __trap();
#endif
}
// Waits until that many are free.
template <int kRegisters>
__device__ __forceinline__ void claim_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  __trap();
#endif
}

#endif

}  // namespace fastconv::cuda
