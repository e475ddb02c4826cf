// Element types: storage types, the type each is accumulated in, and the visitor from a run-time DType to a C++ type.
// half_t and bfloat16_t hold bits only; arithmetic happens in their accumulate type. Conversions round to nearest even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "host_device.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastconv {

enum class DType : int8_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

struct half_t {
  uint16_t bits;
};
struct bfloat16_t {
  uint16_t bits;
};

template <class T>
struct accumulate_type {
  using type = float;
};
template <>
struct accumulate_type<double> {
  using type = double;
};
// float32 for every storage type of at most 32 bits, float64 for float64.
template <class T>
using accumulate_t = typename accumulate_type<T>::type;

template <class T>
struct TypeTag {
  using type = T;
};

constexpr const char* dtype_name(DType dtype) {
  return dtype == DType::kFloat32   ? "float32"
         : dtype == DType::kFloat64 ? "float64"
         : dtype == DType::kFloat16 ? "float16"
                                    : "bfloat16";
}

constexpr size_t dtype_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

constexpr DType accumulate_dtype(DType dtype) { return dtype == DType::kFloat64 ? dtype : DType::kFloat32; }

// Calls f(TypeTag<T>{}) with the storage type of `dtype`: the one place to add an element type.
template <class F>
auto visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(TypeTag<double>{});
    case DType::kFloat16:
      return f(TypeTag<half_t>{});
    case DType::kBFloat16:
      return f(TypeTag<bfloat16_t>{});
    default:
      return f(TypeTag<float>{});
  }
}

namespace detail {
FC_HOST_DEVICE FC_INLINE uint32_t float_bits(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}
FC_HOST_DEVICE FC_INLINE float bits_float(uint32_t u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}

FC_HOST_DEVICE FC_INLINE float half_bits_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));  // inf, nan
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + 0x38000000u));           // normal
  // Subnormal: magnitude * 2^-24 is exact in float.
  return bits_float(sign | float_bits(static_cast<float>(magnitude) * 5.9604644775390625e-08f));
}

FC_HOST_DEVICE FC_INLINE uint16_t float_to_half_bits(float v) {
  const uint32_t u = float_bits(v);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // nan
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to inf
  if (magnitude < 0x38800000u) {                        // half subnormal: let the float adder round at 2^-24
    const float shifted = bits_float(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(float_bits(shifted) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

FC_HOST_DEVICE FC_INLINE uint16_t float_to_bfloat16_bits(float v) {
  const uint32_t u = float_bits(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);  // keep nan a nan
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
}  // namespace detail

FC_HOST_DEVICE FC_INLINE float to_accumulate(float v) { return v; }
FC_HOST_DEVICE FC_INLINE double to_accumulate(double v) { return v; }
FC_HOST_DEVICE FC_INLINE float to_accumulate(bfloat16_t v) {
  return detail::bits_float(static_cast<uint32_t>(v.bits) << 16);
}
FC_HOST_DEVICE FC_INLINE float to_accumulate(half_t v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));
#else
  return detail::half_bits_to_float(v.bits);
#endif
}

// The narrowing cast at the end of every kernel.
template <class T>
FC_HOST_DEVICE FC_INLINE T from_accumulate(accumulate_t<T> v);
template <>
FC_HOST_DEVICE FC_INLINE float from_accumulate<float>(float v) {
  return v;
}
template <>
FC_HOST_DEVICE FC_INLINE double from_accumulate<double>(double v) {
  return v;
}
template <>
FC_HOST_DEVICE FC_INLINE half_t from_accumulate<half_t>(float v) {
#if defined(__CUDA_ARCH__)
  return half_t{__half_as_ushort(__float2half_rn(v))};
#else
  return half_t{detail::float_to_half_bits(v)};
#endif
}
template <>
FC_HOST_DEVICE FC_INLINE bfloat16_t from_accumulate<bfloat16_t>(float v) {
  return bfloat16_t{detail::float_to_bfloat16_bits(v)};
}

}  // namespace fastconv
