// Named barriers: `threads` of the block's threads, whole warps, meet at barrier kId. Numbers are constants because
// ptxas reserves all sixteen barriers for one it does not know; number 0 is the barrier of __syncthreads().
#pragma once

#include "cuda.h"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_barriers.h"
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

template <int kId>
__forceinline__ void named_barrier_sync(int threads, emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kId >= 1 && kId < emulator::kNamedBarriers);
  emulator::named_barrier_sync(kId, threads, caller);
}
template <int kId>
__forceinline__ void named_barrier_arrive(int threads, emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kId >= 1 && kId < emulator::kNamedBarriers);
  emulator::named_barrier_arrive(kId, threads, caller);
}

#else

template <int kId>
__device__ __forceinline__ void named_barrier_sync(int threads) {
  static_assert(kId >= 1 && kId < 16);
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "r"(threads) : "memory");
}
// Counts the thread as arrived without waiting for the others.
template <int kId>
__device__ __forceinline__ void named_barrier_arrive(int threads) {
  static_assert(kId >= 1 && kId < 16);
  asm volatile("bar.arrive %0, %1;" ::"n"(kId), "r"(threads) : "memory");
}

#endif

}  // namespace fastconv::cuda
