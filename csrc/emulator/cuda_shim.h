// The CUDA C++ vocabulary for the host compiler: keywords, built-in variables, synchronisation, warp functions,
// atomics. A kernel source that includes this instead of cuda_runtime.h compiles unchanged and runs one fiber per
// CUDA thread. Device instructions that have no C++ spelling (PTX) do not belong here but beside their inline PTX, in
// the primitives of the kernel library.
#pragma once

#ifndef FASTCONV_EMULATED
#error "cuda_shim.h is for the emulated build: compile with -DFASTCONV_EMULATED"
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "device.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
// A block-scope thread_local is static, which is what __shared__ means, and the linker gathers all of them in one
// segment (PT_TLS), which is how the checker knows shared memory from the rest.
#define __shared__ thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

typedef struct CUstream_st* cudaStream_t;

#define threadIdx (::fastconv::emulator::self().thread_index)
#define blockIdx (::fastconv::emulator::self().block_index)
#define blockDim (::fastconv::emulator::self().block_extent)
#define gridDim (::fastconv::emulator::self().grid_extent)
constexpr int warpSize = 32;

using std::max;
using std::min;

inline void __syncthreads(fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  fastconv::emulator::block_barrier(caller);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  fastconv::emulator::warp_barrier(mask, caller);
}
// Fences order memory; they do not make threads wait, so they do not make an access race-free here.
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace fastconv::emulator {
template <class T>
inline T typed_shuffle(unsigned mask, Shuffle kind, T value, int operand, int width, Caller caller) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "shuffles move 32 or 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, kind, bits, operand, width, caller);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T, class Update>
inline T atomic_update(T* address, Update update, Caller caller) {
  T old;
  const AtomicUpdate apply = [](void* value, void* state) {
    *static_cast<T*>(value) = (*static_cast<Update*>(state))(*static_cast<T*>(value));
  };
  atomic_access(address, sizeof(T), &old, apply, &update, caller);
  return old;
}
}  // namespace fastconv::emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                     fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::typed_shuffle(mask, fastconv::emulator::Shuffle::kIndex, value, lane, width, caller);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32,
                        fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::typed_shuffle(mask, fastconv::emulator::Shuffle::kUp, value, delta, width, caller);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32,
                          fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::typed_shuffle(mask, fastconv::emulator::Shuffle::kDown, value, delta, width, caller);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                         fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::typed_shuffle(mask, fastconv::emulator::Shuffle::kXor, value, lanes, width, caller);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::ballot(mask, predicate != 0, caller);
}
inline int __any_sync(unsigned mask, int predicate,
                      fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::ballot(mask, predicate != 0, caller) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::ballot(mask, predicate == 0, caller) == 0;
}

template <class T>
inline T atomicAdd(T* address, T value, fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::atomic_update(address, [=](T old) { return static_cast<T>(old + value); }, caller);
}
template <class T>
inline T atomicMax(T* address, T value, fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::atomic_update(address, [=](T old) { return std::max(old, value); }, caller);
}
template <class T>
inline T atomicExch(T* address, T value, fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::atomic_update(address, [=](T) { return value; }, caller);
}
template <class T>
inline T atomicCAS(T* address, T expected, T value,
                   fastconv::emulator::Caller caller = fastconv::emulator::Caller::here()) {
  return fastconv::emulator::atomic_update(address, [=](T old) { return old == expected ? value : old; }, caller);
}

template <class T>
inline T __ldg(const T* address) {
  return *address;
}
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float v) { return expf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((static_cast<Wide>(a) * b) >> 64);
}
inline float __uint_as_float(unsigned v) {
  float f;
  memcpy(&f, &v, sizeof f);
  return f;
}
inline unsigned __float_as_uint(float v) {
  unsigned u;
  memcpy(&u, &v, sizeof u);
  return u;
}
