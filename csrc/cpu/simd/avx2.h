// Vec<float> and Vec<double> on AVX2 + FMA + F16C: 8 and 4 lanes, 16 registers. See scalar.h for what each operation
// means; the three files in this folder offer the same names.
#pragma once

#include <immintrin.h>

#include "../../common/dtypes.h"
#include "../../common/host_device.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr const char* kIsaName = "avx2";
constexpr int kVectorBytes = 32;
// 6 rows x 2 vectors = 12 accumulators, 2 weights, 1 broadcast of 16 registers.
constexpr int kTileRows = 6;

template <class T>
struct Vec;

// A mask is a vector whose lanes are all ones or all zeros.
struct MaskF {
  __m256 m;
};
struct MaskD {
  __m256d m;
};

template <>
struct Vec<float> {
  using Scalar = float;
  using Mask = MaskF;
  static constexpr int kLanes = 8;
  __m256 v;

  FC_INLINE Vec() = default;
  FC_INLINE Vec(__m256 value) : v(value) {}
  FC_INLINE explicit Vec(float s) : v(_mm256_set1_ps(s)) {}
  FC_INLINE explicit Vec(double s) : v(_mm256_set1_ps(static_cast<float>(s))) {}
  FC_INLINE explicit Vec(int s) : v(_mm256_set1_ps(static_cast<float>(s))) {}

  static FC_INLINE __m256i first(int64_t n) {
    const int count = n > 8 ? 8 : static_cast<int>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static FC_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static FC_INLINE Vec load(const half_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FC_INLINE Vec load(const bfloat16_t* p) {
    return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FC_INLINE Vec load_partial(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  template <class Half>
  static FC_INLINE Vec load_partial(const Half* p, int64_t n) {
    if (n >= 8) return load(p);
    Half lanes[8] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  FC_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FC_INLINE void store(half_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  FC_INLINE void store(bfloat16_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bf16()); }
  FC_INLINE void store_partial(float* p, int64_t n) const { _mm256_maskstore_ps(p, first(n), v); }
  template <class Half>
  FC_INLINE void store_partial(Half* p, int64_t n) const {
    if (n >= 8) return store(p);
    Half lanes[8];
    store(lanes);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }

  FC_INLINE float reduce_add() const {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
  }

 private:
  static FC_INLINE __m256 widen_bf16(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  FC_INLINE __m128i narrow_bf16() const {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i bits = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);
    return _mm256_castsi256_si128(packed);
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = MaskD;
  static constexpr int kLanes = 4;
  __m256d v;

  FC_INLINE Vec() = default;
  FC_INLINE Vec(__m256d value) : v(value) {}
  FC_INLINE explicit Vec(double s) : v(_mm256_set1_pd(s)) {}
  FC_INLINE explicit Vec(int s) : v(_mm256_set1_pd(s)) {}

  static FC_INLINE __m256i first(int64_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }

  static FC_INLINE Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static FC_INLINE Vec load_partial(const double* p, int64_t n) { return _mm256_maskload_pd(p, first(n)); }
  FC_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  FC_INLINE void store_partial(double* p, int64_t n) const { _mm256_maskstore_pd(p, first(n), v); }
  FC_INLINE double reduce_add() const {
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
  }
};

using VecF = Vec<float>;
using VecD = Vec<double>;

FC_INLINE VecF operator+(VecF a, VecF b) { return _mm256_add_ps(a.v, b.v); }
FC_INLINE VecF operator-(VecF a, VecF b) { return _mm256_sub_ps(a.v, b.v); }
FC_INLINE VecF operator*(VecF a, VecF b) { return _mm256_mul_ps(a.v, b.v); }
FC_INLINE VecF operator/(VecF a, VecF b) { return _mm256_div_ps(a.v, b.v); }
FC_INLINE VecD operator+(VecD a, VecD b) { return _mm256_add_pd(a.v, b.v); }
FC_INLINE VecD operator-(VecD a, VecD b) { return _mm256_sub_pd(a.v, b.v); }
FC_INLINE VecD operator*(VecD a, VecD b) { return _mm256_mul_pd(a.v, b.v); }
FC_INLINE VecD operator/(VecD a, VecD b) { return _mm256_div_pd(a.v, b.v); }

FC_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
FC_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }

FC_INLINE MaskF operator<(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FC_INLINE MaskF operator>(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
FC_INLINE MaskF operator<=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
FC_INLINE MaskF operator>=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
FC_INLINE MaskD operator<(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
FC_INLINE MaskD operator>(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
FC_INLINE MaskD operator<=(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
FC_INLINE MaskD operator>=(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
FC_INLINE MaskF is_nan(VecF a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
FC_INLINE MaskD is_nan(VecD a) { return {_mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q)}; }

FC_INLINE VecF select(MaskF m, VecF a, VecF b) { return _mm256_blendv_ps(b.v, a.v, m.m); }
FC_INLINE VecD select(MaskD m, VecD a, VecD b) { return _mm256_blendv_pd(b.v, a.v, m.m); }

// MAXPS returns its second operand when either is NaN: with `v` second, a NaN in v stays.
FC_INLINE VecF max_nan(VecF v, VecF bound) { return _mm256_max_ps(bound.v, v.v); }
FC_INLINE VecF min_nan(VecF v, VecF bound) { return _mm256_min_ps(bound.v, v.v); }
FC_INLINE VecD max_nan(VecD v, VecD bound) { return _mm256_max_pd(bound.v, v.v); }
FC_INLINE VecD min_nan(VecD v, VecD bound) { return _mm256_min_pd(bound.v, v.v); }

FC_INLINE VecF round_even(VecF a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// n must be a whole number. In two steps, so that results near the ends of the range (and denormals) come out right.
FC_INLINE VecF scale_by_power_of_two(VecF a, VecF n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a.v, first), second);
}
FC_INLINE VecF abs(VecF a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }

FC_INLINE VecF max_propagate(VecF best, VecF v) {
  return _mm256_blendv_ps(_mm256_max_ps(v.v, best.v), v.v, _mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
}
FC_INLINE VecD max_propagate(VecD best, VecD v) {
  return _mm256_blendv_pd(_mm256_max_pd(v.v, best.v), v.v, _mm256_cmp_pd(v.v, v.v, _CMP_UNORD_Q));
}
FC_INLINE MaskF either(VecF, MaskF a, MaskF b) { return {_mm256_or_ps(a.m, b.m)}; }
FC_INLINE MaskD either(VecD, MaskD a, MaskD b) { return {_mm256_or_pd(a.m, b.m)}; }
FC_INLINE MaskD lanes_equal(VecD, const int64_t* p, int64_t n, int64_t value) {
  const __m256i there = VecD::first(n);
  const __m256i loaded = _mm256_maskload_epi64(reinterpret_cast<const long long*>(p), there);
  return {_mm256_castsi256_pd(_mm256_and_si256(there, _mm256_cmpeq_epi64(loaded, _mm256_set1_epi64x(value))))};
}
FC_INLINE MaskF lanes_equal(VecF, const int64_t* p, int64_t n, int64_t value) {
  const __m256 low = _mm256_castpd_ps(lanes_equal(VecD(), p, n, value).m);
  const __m256 high = _mm256_castpd_ps(lanes_equal(VecD(), p + 4, n - 4, value).m);
  const __m256d halves = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(halves, 0xd8))};
}
FC_INLINE void hold(VecF& a) { asm("" : "+x"(a.v)); }
FC_INLINE void hold(VecD& a) { asm("" : "+x"(a.v)); }
// even = a[0], a[2], ..., b[0], b[2], ...; odd = the others.
FC_INLINE void deinterleave(VecF a, VecF b, VecF& even, VecF& odd) {
  const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  const __m256d o = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0xdd));
  even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
  odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
FC_INLINE void deinterleave(VecD a, VecD b, VecD& even, VecD& odd) {
  even = _mm256_permute4x64_pd(_mm256_unpacklo_pd(a.v, b.v), 0xd8);
  odd = _mm256_permute4x64_pd(_mm256_unpackhi_pd(a.v, b.v), 0xd8);
}

// permute(a, lane_order(a, lanes))[i] = a[lanes[i]]
FC_INLINE __m256i lane_order(VecF, const int32_t* lanes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
}
// Both halves of a double, as there is no permutation of doubles by a variable.
FC_INLINE __m256i lane_order(VecD, const int32_t* lanes) {
  const __m256i low =
      _mm256_slli_epi64(_mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes))), 1);
  return _mm256_or_si256(low, _mm256_slli_epi64(_mm256_add_epi64(low, _mm256_set1_epi64x(1)), 32));
}
FC_INLINE VecF permute(VecF a, __m256i order) { return _mm256_permutevar8x32_ps(a.v, order); }
FC_INLINE VecD permute(VecD a, __m256i order) {
  return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(a.v), order));
}

// Transposes an 8x8 block: in[i][j] -> out[j][i]; strides in elements.
FC_INLINE void transpose_block(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(in + i * in_stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
constexpr int kTransposeBlock = 8;

}  // namespace fastconv::cpu::FASTCONV_ISA
