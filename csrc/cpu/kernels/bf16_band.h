// Fills the band of bf16_task.h: rows of x of any layout, with zeros where the padding is and beyond the last channel.
#pragma once

#include "bf16_task.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

FC_INLINE void zero(bfloat16_t* p, int64_t n) {
  if (n > 0) __builtin_memset(p, 0, static_cast<size_t>(n) * sizeof(bfloat16_t));
}

// One pixel of `channels` adjacent channels, by masked vectors: a call of memcpy for each is slower.
FC_INLINE void copy_pixel(const bfloat16_t* from, int64_t channels, int64_t padded, bfloat16_t* to) {
  for (int64_t c = 0; c < padded; c += 32) {
    const int64_t there = smaller(32, larger(channels - c, 0)), wanted = smaller(32, padded - c);
    const auto mask = [](int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; };
    _mm512_mask_storeu_epi16(to + c, mask(wanted), _mm512_maskz_loadu_epi16(mask(there), from + c));
  }
}

// `pixels` pixels of a row of x from planes (NCHW).
FC_INLINE void gather_pixels(const bfloat16_t* from, int64_t pixel, int64_t channel, int64_t pixels, int64_t channels,
                             int64_t padded, bfloat16_t* to) {
  constexpr int64_t kBlock = 32;  // pixels whose channels stay in L1
  for (int64_t i = 0; i < pixels; i += kBlock) {
    const int64_t last = smaller(pixels, i + kBlock);
    for (int64_t c = 0; c < padded; ++c) {
      const bfloat16_t* in = from + c * channel;
      if (c < channels) {
        for (int64_t j = i; j < last; ++j) to[j * padded + c] = in[j * pixel];
      } else {
        for (int64_t j = i; j < last; ++j) to[j * padded + c] = bfloat16_t{0};
      }
    }
  }
}

// Dense pixels of a few channels (the stem's RGB), as many as fill a vector at a time.
inline void spread_pixels(const bfloat16_t* from, int64_t pixels, int64_t channels, int64_t padded, bfloat16_t* to) {
  const int64_t at_once = 32 / padded;
  alignas(64) uint16_t lanes[32];
  __mmask32 wanted = 0;
  for (int64_t i = 0; i < 32; ++i) {
    const int64_t pixel = i / padded, c = i % padded;
    lanes[i] = static_cast<uint16_t>(pixel * channels + c);
    if (pixel < at_once && c < channels) wanted |= __mmask32{1} << i;
  }
  const auto mask = [](int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; };
  const __m512i order = _mm512_load_si512(lanes);
  for (int64_t i = 0; i < pixels; i += at_once) {
    const int64_t count = smaller(at_once, pixels - i);
    const __m512i in = _mm512_maskz_loadu_epi16(mask(count * channels), from + i * channels);
    _mm512_mask_storeu_epi16(to + i * padded, mask(count * padded), _mm512_maskz_permutexvar_epi16(wanted, order, in));
  }
}

// The same from three or four planes.
inline void interleave_pixels(const bfloat16_t* from, int64_t plane, int64_t pixels, int64_t channels, bfloat16_t* to) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int64_t i = 0; i < pixels; i += 16) {
    const int64_t count = smaller(16, pixels - i);
    const __mmask16 mask = count >= 16 ? __mmask16(0xffff) : static_cast<__mmask16>((1u << count) - 1);
    const auto load = [&](int64_t c) {
      return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(c < channels ? mask : __mmask16(0), from + c * plane + i));
    };
    const __m512i first = _mm512_or_si512(load(0), _mm512_slli_epi32(load(1), 16));
    const __m512i second = _mm512_or_si512(load(2), _mm512_slli_epi32(load(3), 16));
    const auto tail = [&](int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); };
    _mm512_mask_storeu_epi32(to + i * 4, tail(2 * count), _mm512_permutex2var_epi32(first, low, second));
    _mm512_mask_storeu_epi32(to + i * 4 + 32, tail(2 * count - 16), _mm512_permutex2var_epi32(first, high, second));
  }
}

// The first `pixels` stored pixels of row h of the channels of a group.
inline void fill_pixels(const Task& t, const Geometry& g, int64_t n, int64_t group, int64_t h, int64_t pixels,
                        bfloat16_t* to) {
  const TensorView& x = t.x;
  const bfloat16_t* from = x.as<const bfloat16_t>() + x.offset(n, group * t.C, h, 0);
  if (x.stride[3] == 1 && (t.C == 3 || t.C == 4)) return interleave_pixels(from, x.stride[1], pixels, t.C, to);
  if (x.stride[1] != 1 && t.C > 1) {
    return gather_pixels(from, x.stride[3], x.stride[1], pixels, t.C, g.padded_c, to);
  }
  if (x.stride[3] == t.C && g.padded_c == t.C) {
    __builtin_memcpy(to, from, static_cast<size_t>(pixels * t.C) * sizeof(bfloat16_t));
    return;
  }
  if (x.stride[3] == t.C && g.padded_c <= 16) return spread_pixels(from, pixels, t.C, g.padded_c, to);
  for (int64_t i = 0; i < pixels; ++i) copy_pixel(from + i * x.stride[3], t.C, g.padded_c, to + i * g.padded_c);
}

// Row h of the upsampled channels of a group, one band row of g.row elements; h outside of x: zeros.
inline void fill_row(const Task& t, const Geometry& g, int64_t n, int64_t group, int64_t h, bfloat16_t* to) {
  const TensorView& x = t.x;
  if (h < 0 || h >= x.size[2] * t.scale_h) return zero(to, g.row);
  const int64_t width = g.row / g.padded_c, first = smaller(t.pad_left, width);
  const int64_t pixels = larger(0, smaller(x.size[3] * t.scale_w, width - first));
  const int64_t stored = ceil_div(pixels, t.scale_w);
  zero(to, first * g.padded_c);
  zero(to + (first + pixels) * g.padded_c, (width - first - pixels) * g.padded_c);
  to += first * g.padded_c;
  // Stored pixels at the right end, from where they are repeated to the left: none is written before it was read.
  bfloat16_t* const last = to + (pixels - stored) * g.padded_c;
  fill_pixels(t, g, n, group, h / t.scale_h, stored, last);
  if (t.scale_w == 1) return;
  for (int64_t i = 0; i < pixels; ++i) {
    const bfloat16_t* pixel = last + i / t.scale_w * g.padded_c;
    if (pixel != to + i * g.padded_c) copy_pixel(pixel, g.padded_c, g.padded_c, to + i * g.padded_c);
  }
}

// The input rows of output rows [p, p + rows), rows at most `capacity`, which the planes are laid out for.
inline void fill_band(const Task& t, const Geometry& g, int64_t n, int64_t group, int64_t p, int64_t rows,
                      int64_t capacity, bfloat16_t* band) {
  for (int64_t plane = 0; plane < g.planes; ++plane) {
    const int64_t phase = plane * t.dilation_h % t.stride_h;
    bfloat16_t* to = band + plane * (capacity + g.more_rows) * g.row;
    for (int64_t i = 0; i < rows + g.more_rows; ++i, to += g.row) {
      const int64_t h = (p + i) * t.stride_h + phase - t.pad_top;
      // Upsampled rows repeat the one before.
      if (i > 0 && t.stride_h == 1 && h > 0 && h % t.scale_h != 0 && h < t.x.size[2] * t.scale_h) {
        __builtin_memcpy(to, to - g.row, static_cast<size_t>(g.row) * sizeof(bfloat16_t));
      } else {
        fill_row(t, g, n, group, h, to);
      }
    }
    zero(to, g.overlap * g.padded_c);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
