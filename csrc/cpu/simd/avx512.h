// Vec<float> and Vec<double> on AVX-512 (F, BW, DQ, VL): 16 and 8 lanes, 32 registers. See scalar.h for what each
// operation means; the three files in this folder offer the same names.
#pragma once

#include <immintrin.h>

#include "../../common/dtypes.h"
#include "../../common/host_device.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr const char* kIsaName = "avx512";
constexpr int kVectorBytes = 64;
// Register tile of the GEMM microkernel: 14 rows x 2 vectors = 28 accumulators, 2 weights, 1 broadcast of 32 registers.
constexpr int kTileRows = 14;

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  __m512 v;

  FC_INLINE Vec() = default;
  FC_INLINE Vec(__m512 value) : v(value) {}
  FC_INLINE explicit Vec(float s) : v(_mm512_set1_ps(s)) {}
  FC_INLINE explicit Vec(double s) : v(_mm512_set1_ps(static_cast<float>(s))) {}
  FC_INLINE explicit Vec(int s) : v(_mm512_set1_ps(static_cast<float>(s))) {}

  static FC_INLINE Mask first(int64_t n) { return n >= 16 ? Mask(0xffff) : n <= 0 ? Mask(0) : Mask((1u << n) - 1u); }

  static FC_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static FC_INLINE Vec load(const half_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FC_INLINE Vec load(const bfloat16_t* p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FC_INLINE Vec load_partial(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static FC_INLINE Vec load_partial(const half_t* p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static FC_INLINE Vec load_partial(const bfloat16_t* p, int64_t n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p));
  }
  FC_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FC_INLINE void store(half_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half()); }
  FC_INLINE void store(bfloat16_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16()); }
  FC_INLINE void store_partial(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  FC_INLINE void store_partial(half_t* p, int64_t n) const { _mm256_mask_storeu_epi16(p, first(n), narrow_half()); }
  FC_INLINE void store_partial(bfloat16_t* p, int64_t n) const { _mm256_mask_storeu_epi16(p, first(n), narrow_bf16()); }

  FC_INLINE float reduce_add() const { return _mm512_reduce_add_ps(v); }

 private:
  static FC_INLINE __m512 widen_bf16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  FC_INLINE __m256i narrow_half() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // Round to nearest even by hand: VCVTNEPS2BF16 would flush denormals and is not on every AVX-512 machine.
  FC_INLINE __m256i narrow_bf16() const {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), lsb);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = __mmask8;
  static constexpr int kLanes = 8;
  __m512d v;

  FC_INLINE Vec() = default;
  FC_INLINE Vec(__m512d value) : v(value) {}
  FC_INLINE explicit Vec(double s) : v(_mm512_set1_pd(s)) {}
  FC_INLINE explicit Vec(int s) : v(_mm512_set1_pd(s)) {}

  static FC_INLINE Mask first(int64_t n) { return n >= 8 ? Mask(0xff) : n <= 0 ? Mask(0) : Mask((1u << n) - 1u); }

  static FC_INLINE Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static FC_INLINE Vec load_partial(const double* p, int64_t n) { return _mm512_maskz_loadu_pd(first(n), p); }
  FC_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  FC_INLINE void store_partial(double* p, int64_t n) const { _mm512_mask_storeu_pd(p, first(n), v); }
  FC_INLINE double reduce_add() const { return _mm512_reduce_add_pd(v); }
};

using VecF = Vec<float>;
using VecD = Vec<double>;

FC_INLINE VecF operator+(VecF a, VecF b) { return _mm512_add_ps(a.v, b.v); }
FC_INLINE VecF operator-(VecF a, VecF b) { return _mm512_sub_ps(a.v, b.v); }
FC_INLINE VecF operator*(VecF a, VecF b) { return _mm512_mul_ps(a.v, b.v); }
FC_INLINE VecF operator/(VecF a, VecF b) { return _mm512_div_ps(a.v, b.v); }
FC_INLINE VecD operator+(VecD a, VecD b) { return _mm512_add_pd(a.v, b.v); }
FC_INLINE VecD operator-(VecD a, VecD b) { return _mm512_sub_pd(a.v, b.v); }
FC_INLINE VecD operator*(VecD a, VecD b) { return _mm512_mul_pd(a.v, b.v); }
FC_INLINE VecD operator/(VecD a, VecD b) { return _mm512_div_pd(a.v, b.v); }

FC_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
FC_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }

FC_INLINE __mmask16 operator<(VecF a, VecF b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
FC_INLINE __mmask16 operator>(VecF a, VecF b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
FC_INLINE __mmask16 operator<=(VecF a, VecF b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
FC_INLINE __mmask16 operator>=(VecF a, VecF b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
FC_INLINE __mmask8 operator<(VecD a, VecD b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ); }
FC_INLINE __mmask8 operator>(VecD a, VecD b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ); }
FC_INLINE __mmask8 operator<=(VecD a, VecD b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ); }
FC_INLINE __mmask8 operator>=(VecD a, VecD b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ); }
FC_INLINE __mmask16 is_nan(VecF a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }
FC_INLINE __mmask8 is_nan(VecD a) { return _mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q); }

FC_INLINE VecF select(__mmask16 m, VecF a, VecF b) { return _mm512_mask_blend_ps(m, b.v, a.v); }
FC_INLINE VecD select(__mmask8 m, VecD a, VecD b) { return _mm512_mask_blend_pd(m, b.v, a.v); }

// MAXPS returns its second operand when either is NaN: with `v` second, a NaN in v stays.
FC_INLINE VecF max_nan(VecF v, VecF bound) { return _mm512_max_ps(bound.v, v.v); }
FC_INLINE VecF min_nan(VecF v, VecF bound) { return _mm512_min_ps(bound.v, v.v); }
FC_INLINE VecD max_nan(VecD v, VecD bound) { return _mm512_max_pd(bound.v, v.v); }
FC_INLINE VecD min_nan(VecD v, VecD bound) { return _mm512_min_pd(bound.v, v.v); }

FC_INLINE VecF round_even(VecF a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FC_INLINE VecF scale_by_power_of_two(VecF a, VecF n) { return _mm512_scalef_ps(a.v, n.v); }
FC_INLINE VecF abs(VecF a) { return _mm512_abs_ps(a.v); }

FC_INLINE VecF max_propagate(VecF best, VecF v) {
  return _mm512_mask_max_ps(v.v, _mm512_cmp_ps_mask(v.v, v.v, _CMP_ORD_Q), v.v, best.v);
}
FC_INLINE VecD max_propagate(VecD best, VecD v) {
  return _mm512_mask_max_pd(v.v, _mm512_cmp_pd_mask(v.v, v.v, _CMP_ORD_Q), v.v, best.v);
}
FC_INLINE __mmask16 either(VecF, __mmask16 a, __mmask16 b) { return a | b; }
FC_INLINE __mmask8 either(VecD, __mmask8 a, __mmask8 b) { return a | b; }
FC_INLINE __mmask8 lanes_equal(VecD, const int64_t* p, int64_t n, int64_t value) {
  const __mmask8 there = VecD::first(n);
  return _mm512_mask_cmpeq_epi64_mask(there, _mm512_maskz_loadu_epi64(there, p), _mm512_set1_epi64(value));
}
FC_INLINE __mmask16 lanes_equal(VecF, const int64_t* p, int64_t n, int64_t value) {
  const unsigned low = lanes_equal(VecD(), p, n, value), high = lanes_equal(VecD(), p + 8, n - 8, value);
  return static_cast<__mmask16>(low | high << 8);
}
FC_INLINE void hold(VecF& a) { asm("" : "+v"(a.v)); }
FC_INLINE void hold(VecD& a) { asm("" : "+v"(a.v)); }
// even = a[0], a[2], ..., b[0], b[2], ...; odd = the others.
FC_INLINE void deinterleave(VecF a, VecF b, VecF& even, VecF& odd) {
  const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even = _mm512_permutex2var_ps(a.v, lanes, b.v);
  odd = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(lanes, _mm512_set1_epi32(1)), b.v);
}
FC_INLINE void deinterleave(VecD a, VecD b, VecD& even, VecD& odd) {
  const __m512i lanes = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  even = _mm512_permutex2var_pd(a.v, lanes, b.v);
  odd = _mm512_permutex2var_pd(a.v, _mm512_add_epi64(lanes, _mm512_set1_epi64(1)), b.v);
}

// permute(a, lane_order(a, lanes))[i] = a[lanes[i]]
FC_INLINE __m512i lane_order(VecF, const int32_t* lanes) { return _mm512_loadu_si512(lanes); }
FC_INLINE __m512i lane_order(VecD, const int32_t* lanes) {
  return _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)));
}
FC_INLINE VecF permute(VecF a, __m512i order) { return _mm512_permutexvar_ps(order, a.v); }
FC_INLINE VecD permute(VecD a, __m512i order) { return _mm512_permutexvar_pd(order, a.v); }

// Transposes a 16x16 block: in[i][j] -> out[j][i]; strides in elements.
FC_INLINE void transpose_block(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(in + i * in_stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + i * out_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_ps(out + (i + 4) * out_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_ps(out + (i + 8) * out_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_ps(out + (i + 12) * out_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
  }
}
constexpr int kTransposeBlock = 16;

}  // namespace fastconv::cpu::FASTCONV_ISA
