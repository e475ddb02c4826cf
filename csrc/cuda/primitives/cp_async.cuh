// cp.async: copies from global to shared memory that run beside the thread. A thread's copies since its last
// cp_async_commit() form a group; cp_async_wait<kPending>() waits until at most the kPending latest groups are on their
// way. The wait covers the calling thread's own copies only: a barrier must follow before others read. From sm_80 on.
#pragma once

#include "shared_address.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_copies.h"
#endif

namespace fastconv::cuda {

// 16 bytes, past the L1 cache; both addresses are multiples of 16. Where `valid` is false the target becomes zeros and
// `global` is not read: padding and tails without a branch.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
#if defined(FASTCONV_EMULATED)
  emulator::copy_async(shared, global, 16, valid);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  __trap();
#endif
}

// 4 bytes, through the L1 cache: the smallest copy there is.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid) {
#if defined(FASTCONV_EMULATED)
  emulator::copy_async(shared, global, 4, valid);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
#else
  __trap();
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if defined(FASTCONV_EMULATED)
  emulator::commit_copies();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  __trap();
#endif
}

template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  static_assert(kPending >= 0, "a number of groups");
#if defined(FASTCONV_EMULATED)
  emulator::wait_copies(kPending);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  __trap();
#endif
}

}  // namespace fastconv::cuda
