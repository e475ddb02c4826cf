// Vec<float> and Vec<double> as small arrays: the fallback that exists on every machine (arm64 included, where the
// compiler turns the loops into NEON). This file also says what each operation of the folder means.
#pragma once

#include <cmath>

#include "../../common/dtypes.h"
#include "../../common/host_device.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr const char* kIsaName = "scalar";
constexpr int kVectorBytes = 16;
// Rows of the GEMM microkernel's register tile (its width is two vectors).
#if defined(__aarch64__)
constexpr int kTileRows = 12;  // 32 registers
#else
constexpr int kTileRows = 6;
#endif

template <class T>
struct Vec {
  using Scalar = T;
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  typedef T Native __attribute__((vector_size(kVectorBytes)));
  using Mask = decltype(Native{} < Native{});
  Native v;

  FC_INLINE Vec() = default;
  FC_INLINE Vec(Native value) : v(value) {}
  template <class S>
  FC_INLINE explicit Vec(S s) : v(static_cast<T>(s) - Native{}) {}  // broadcast

  // Unaligned load of kLanes elements, widened to T; the partial form reads n < kLanes and fills with zeros.
  template <class Storage>
  static FC_INLINE Vec load(const Storage* p) {
    return load_partial(p, kLanes);
  }
  static FC_INLINE Vec load(const T* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  template <class Storage>
  static FC_INLINE Vec load_partial(const Storage* p, int64_t n) {
    Vec r(T(0));
    for (int i = 0; i < kLanes; ++i)
      if (i < n) r.v[i] = to_accumulate(p[i]);
    return r;
  }
  // Stores with the narrowing cast (nearest even); the partial form writes the first n elements only.
  template <class Storage>
  FC_INLINE void store(Storage* p) const {
    store_partial(p, kLanes);
  }
  FC_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
  template <class Storage>
  FC_INLINE void store_partial(Storage* p, int64_t n) const {
    for (int i = 0; i < kLanes; ++i)
      if (i < n) p[i] = from_accumulate<Storage>(v[i]);
  }
  FC_INLINE T reduce_add() const {
    T sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += v[i];
    return sum;
  }
};

using VecF = Vec<float>;
using VecD = Vec<double>;

#define FC_VEC       \
  template <class T> \
  FC_INLINE Vec<T>
#define FC_MASK      \
  template <class T> \
  FC_INLINE typename Vec<T>::Mask
FC_VEC operator+(Vec<T> a, Vec<T> b) { return a.v + b.v; }
FC_VEC operator-(Vec<T> a, Vec<T> b) { return a.v - b.v; }
FC_VEC operator*(Vec<T> a, Vec<T> b) { return a.v * b.v; }
FC_VEC operator/(Vec<T> a, Vec<T> b) { return a.v / b.v; }
FC_VEC fma(Vec<T> a, Vec<T> b, Vec<T> c) { return a.v * b.v + c.v; }

// Comparisons give a mask per lane; false where an operand is NaN.
FC_MASK operator<(Vec<T> a, Vec<T> b) { return a.v < b.v; }
FC_MASK operator>(Vec<T> a, Vec<T> b) { return a.v > b.v; }
FC_MASK operator<=(Vec<T> a, Vec<T> b) { return a.v <= b.v; }
FC_MASK operator>=(Vec<T> a, Vec<T> b) { return a.v >= b.v; }
FC_MASK is_nan(Vec<T> a) { return a.v != a.v; }
// a where the mask is set, else b.
template <class Mask, class T>
FC_INLINE Vec<T> select(Mask m, Vec<T> a, Vec<T> b) {
  return m ? a.v : b.v;
}

// Maximum and minimum that keep a NaN of the first argument.
FC_VEC max_nan(Vec<T> v, Vec<T> bound) { return v.v < bound.v ? bound.v : v.v; }
FC_VEC min_nan(Vec<T> v, Vec<T> bound) { return v.v > bound.v ? bound.v : v.v; }

// For |a| < 2^22 (2^51): adding 1.5 * 2^23 (2^52) leaves no bits for a fraction. Without SSE4.1 rint() is a call.
FC_INLINE VecF round_even(VecF a) { return (a + VecF(12582912.0f)) - VecF(12582912.0f); }
FC_INLINE VecD round_even(VecD a) { return (a + VecD(6755399441055744.0)) - VecD(6755399441055744.0); }
// a * 2^n for a whole number n in [-160, 160]; in two steps, so that results near the ends of the range come out right.
FC_INLINE VecF scale_by_power_of_two(VecF a, VecF n) {
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  const Bits whole = __builtin_convertvector(n.v, Bits), half = whole >> 1;
  const Bits first = (half + 127) << 23, second = (whole - half + 127) << 23;
  VecF f, s;
  __builtin_memcpy(&f.v, &first, sizeof first);
  __builtin_memcpy(&s.v, &second, sizeof second);
  return a * f * s;
}
FC_VEC abs(Vec<T> a) { return select(a.v < 0, Vec<T>(-a.v), a); }
// The larger of both; a NaN of either stays.
FC_VEC max_propagate(Vec<T> best, Vec<T> v) { return select(v.v > best.v, v, select(is_nan(v), v, best)); }
FC_MASK either(Vec<T>, typename Vec<T>::Mask a, typename Vec<T>::Mask b) { return a | b; }
// Lanes i < n with p[i] == value.
FC_MASK lanes_equal(Vec<T>, const int64_t* p, int64_t n, int64_t value) {
  typename Vec<T>::Mask m{};
  for (int i = 0; i < Vec<T>::kLanes; ++i) m[i] = i < n && p[i] == value ? -1 : 0;
  return m;
}
// Makes the compiler hold a loaded value in a register, where it would read memory again at every use.
template <class T>
FC_INLINE void hold(Vec<T>& a) {
#if defined(__x86_64__)
  asm("" : "+x"(a.v));
#elif defined(__aarch64__)
  asm("" : "+w"(a.v));
#else
  (void)a;
#endif
}
// even = a[0], a[2], ..., b[0], b[2], ...; odd = the others.
template <class T>
FC_INLINE void deinterleave(Vec<T> a, Vec<T> b, Vec<T>& even, Vec<T>& odd) {
  constexpr int kHalf = Vec<T>::kLanes / 2;
  for (int i = 0; i < kHalf; ++i) {
    even.v[i] = a.v[2 * i], odd.v[i] = a.v[2 * i + 1];
    even.v[kHalf + i] = b.v[2 * i], odd.v[kHalf + i] = b.v[2 * i + 1];
  }
}
#undef FC_VEC
#undef FC_MASK

// permute(a, lane_order(a, lanes))[i] = a[lanes[i]]
template <class T>
FC_INLINE const int32_t* lane_order(Vec<T>, const int32_t* lanes) {
  return lanes;
}
template <class T>
FC_INLINE Vec<T> permute(Vec<T> a, const int32_t* order) {
  Vec<T> r;
  for (int i = 0; i < Vec<T>::kLanes; ++i) r.v[i] = a.v[order[i]];
  return r;
}

// Transposes a block of kTransposeBlock x kTransposeBlock: in[i][j] -> out[j][i]; strides in elements.
constexpr int kTransposeBlock = 4;
FC_INLINE void transpose_block(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  for (int i = 0; i < kTransposeBlock; ++i)
    for (int j = 0; j < kTransposeBlock; ++j) out[j * out_stride + i] = in[i * in_stride + j];
}

}  // namespace fastconv::cpu::FASTCONV_ISA
