// wgmma: a warpgroup's 64 x kN x 16 matrix product, d += a * b, with 16-bit operands in shared memory and f32
// accumulators in registers; or 64 x kN x 8 with floats, of which it reads the upper 19 bits (tf32). Thread t of the
// warpgroup holds, of column group j (8 columns),
//   d[4j], d[4j + 1]       row t / 32 * 16 + t % 32 / 4,   columns 8j + t % 4 * 2 and the next
//   d[4j + 2], d[4j + 3]   the row 8 further down
// The order of things: stores to operands, fence_proxy_async(), a barrier; wgmma_fence(d); products; wgmma_commit();
// wgmma_wait<kPending>(). Until the wait, d belongs to the tensor core and operands must stay. sm_90a only.
#pragma once

#include <type_traits>

#include "../../common/dtypes.h"
#include "shared_address.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_wgmma.h"
#endif

namespace fastconv::cuda {

// Which of an operand's directions is contiguous in shared memory.
enum class OperandMajor { kK, kMn };

// Tiles are those that TMA writes with a swizzle of 128 bytes: rows of 128 bytes, 64 elements (32 floats), of which 8
// make a pattern. Floats are K-major only. K-major: one row for each m (or n), 64 elements of K long; products advance
// along it. MN-major: one row for each k, 64 elements of M (or N) long, and one such tile after the other for
// further 64.
constexpr int kSwizzleBytes = 128, kSwizzlePatternBytes = 8 * kSwizzleBytes;

// The matrix descriptor of an operand that starts at `tile`, in a multiple of kSwizzlePatternBytes. `rows`: of an
// MN-major tile, the elements of K that it holds.
template <OperandMajor kMajor>
__device__ __forceinline__ uint64_t matrix_descriptor(const void* tile, int rows) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  const auto field = [](uint64_t bytes, int shift) { return (bytes & 0x3ffff) >> 4 << shift; };
  // Between groups of 8 rows; and, MN-major, between tiles of 64 elements of M or N.
  const uint64_t stride = kSwizzlePatternBytes, leading = kMajor == OperandMajor::kMn ? rows * kSwizzleBytes : 16;
  return field(shared_address(tile), 0) | field(leading, 16) | field(stride, 32) | kSwizzle128;
}

// What to add to a descriptor for the next 16 elements of K, or 8 floats.
template <OperandMajor kMajor>
constexpr uint64_t kDescriptorStep = (kMajor == OperandMajor::kMn ? 16 * kSwizzleBytes : 16 * 2) >> 4;

#if defined(FASTCONV_EMULATED)

template <int kSize>
__forceinline__ void wgmma_fence(float (&)[kSize]) {
  emulator::wgmma_fence();
}
__forceinline__ void wgmma_commit() { emulator::wgmma_commit_group(); }
template <int kPending>
__forceinline__ void wgmma_wait(emulator::Caller caller = emulator::Caller::here()) {
  emulator::wgmma_wait_group(kPending, caller);
}
template <int kPending, int kSize>
__forceinline__ void wgmma_wait(float (&)[kSize], emulator::Caller caller = emulator::Caller::here()) {
  emulator::wgmma_wait_group(kPending, caller);
}
template <class T, OperandMajor kMajorA, OperandMajor kMajorB, int kSize>
__forceinline__ void wgmma_k16(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate,
                               emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kSize == 32 || kSize == 64 || kSize == 128, "64, 128 or 256 columns");
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bfloat16_t>, "the 16-bit types");
  constexpr auto kType = std::is_same_v<T, half_t> ? emulator::WgmmaType::kHalf : emulator::WgmmaType::kBFloat16;
  emulator::wgmma(d, {kType, 2 * kSize, a, b, kMajorA == OperandMajor::kMn, kMajorB == OperandMajor::kMn, accumulate},
                  caller);
}

template <int kSize>
__forceinline__ void wgmma_k8_tf32(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate,
                                   emulator::Caller caller = emulator::Caller::here()) {
  static_assert(kSize == 32 || kSize == 64 || kSize == 128, "64, 128 or 256 columns");
  emulator::wgmma(d, {emulator::WgmmaType::kTf32, 2 * kSize, a, b, false, false, accumulate}, caller);
}

#else

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Keeps the compiler from moving accesses to d across.
template <int kSize>
__device__ __forceinline__ void pin_accumulators(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define FASTCONV_REGISTERS_64                                                                        \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define FASTCONV_REGISTERS_128                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "  \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "  \
  "%59, %60, %61, %62, %63}, "
#define FASTCONV_REGISTERS_256                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "  \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "  \
  "%59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "  \
  "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, "  \
  "%97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, "    \
  "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
#define FASTCONV_D8(i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FASTCONV_D_64 FASTCONV_D8(0), FASTCONV_D8(8), FASTCONV_D8(16), FASTCONV_D8(24)
#define FASTCONV_D_128 FASTCONV_D_64, FASTCONV_D8(32), FASTCONV_D8(40), FASTCONV_D8(48), FASTCONV_D8(56)
#define FASTCONV_D_256                                                                                 \
  FASTCONV_D_128, FASTCONV_D8(64), FASTCONV_D8(72), FASTCONV_D8(80), FASTCONV_D8(88), FASTCONV_D8(96), \
      FASTCONV_D8(104), FASTCONV_D8(112), FASTCONV_D8(120)
// %A, %B, %S, %TA, %TB: the operands that follow the accumulators.
#define FASTCONV_WGMMA(columns, type, A, B, S, TA, TB)                                                         \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #S                                       \
               ", 0;\n"                                                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type                         \
               " " FASTCONV_REGISTERS_##columns "%" #A ", %" #B ", accumulate, 1, 1, %" #TA ", %" #TB ";\n}"   \
               : FASTCONV_D_##columns                                                                          \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kMajorA == OperandMajor::kMn ? 1 : 0), \
                 "n"(kMajorB == OperandMajor::kMn ? 1 : 0))
// The same without the directions, which are K's.
#define FASTCONV_WGMMA_TF32(columns, A, B, S)                                            \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #S                 \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #columns                              \
               "k8.f32.tf32.tf32"                                                        \
               " " FASTCONV_REGISTERS_##columns "%" #A ", %" #B ", accumulate, 1, 1;\n}" \
               : FASTCONV_D_##columns                                                    \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))

#endif

// Before the first product and after every access to the accumulators: what ordinary instructions wrote to d is there.
template <int kSize>
__device__ __forceinline__ void wgmma_fence(float (&d)[kSize]) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  pin_accumulators(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

// The products since the last call form a group.
__device__ __forceinline__ void wgmma_commit() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

// Until all but the kPending latest groups have finished reading shared memory.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#else
  __trap();
#endif
}

// The same, and d may be used by ordinary instructions again.
template <int kPending, int kSize>
__device__ __forceinline__ void wgmma_wait(float (&d)[kSize]) {
  wgmma_wait<kPending>();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  pin_accumulators(d);
#endif
}

// d (64 x 2 * kSize) += a * b, or d = a * b where `accumulate` is false, over 16 elements of K.
template <class T, OperandMajor kMajorA, OperandMajor kMajorB, int kSize>
__device__ __forceinline__ void wgmma_k16(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kSize == 32 || kSize == 64 || kSize == 128, "64, 128 or 256 columns");
  static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bfloat16_t>, "the 16-bit types");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (std::is_same_v<T, half_t>) {
    if constexpr (kSize == 32) FASTCONV_WGMMA(64, f16, 32, 33, 34, 35, 36);
    if constexpr (kSize == 64) FASTCONV_WGMMA(128, f16, 64, 65, 66, 67, 68);
    if constexpr (kSize == 128) FASTCONV_WGMMA(256, f16, 128, 129, 130, 131, 132);
  } else {
    if constexpr (kSize == 32) FASTCONV_WGMMA(64, bf16, 32, 33, 34, 35, 36);
    if constexpr (kSize == 64) FASTCONV_WGMMA(128, bf16, 64, 65, 66, 67, 68);
    if constexpr (kSize == 128) FASTCONV_WGMMA(256, bf16, 128, 129, 130, 131, 132);
  }
#else
  __trap();
#endif
}

// The same over 8 elements of K, floats as tf32.
template <int kSize>
__device__ __forceinline__ void wgmma_k8_tf32(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kSize == 32 || kSize == 64 || kSize == 128, "64, 128 or 256 columns");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (kSize == 32) FASTCONV_WGMMA_TF32(64, 32, 33, 34);
  if constexpr (kSize == 64) FASTCONV_WGMMA_TF32(128, 64, 65, 66);
  if constexpr (kSize == 128) FASTCONV_WGMMA_TF32(256, 128, 129, 130);
#else
  __trap();
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#undef FASTCONV_WGMMA_TF32
#undef FASTCONV_WGMMA
#undef FASTCONV_D_256
#undef FASTCONV_D_128
#undef FASTCONV_D_64
#undef FASTCONV_D8
#undef FASTCONV_REGISTERS_256
#undef FASTCONV_REGISTERS_128
#undef FASTCONV_REGISTERS_64
#endif

#endif

}  // namespace fastconv::cuda
