// torch's unfold and fold: columns[n][(c * R + r) * S + s][p * Q + q] and x[n, c, h, w] at the place that tap (r, s)
// of output (p, q) reads. Unfolding copies; folding gathers, one thread an image row, so that the sums have a fixed
// order. Channels-last images are transposed in blocks of kImageChannels x kImageRun.
#pragma once

#include "../cpu_kernels.h"
#include "pixel_runs.h"
#include "tap_range.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kImageChannels = 16;  // one cache line of float
constexpr int64_t kImageRun = 256;

// out[c * out_stride + i] = in[c + i * in_stride] for i < n, c < channels.
template <class T>
FC_INLINE void transpose_to_rows(const T* in, int64_t in_stride, int64_t n, int64_t channels, T* out,
                                 int64_t out_stride) {
  // Half precision is transposed in float registers, which pays where they are wide.
  if constexpr (sizeof(T) > 2 || kTransposeBlock > 4) {
    runs_detail::transpose_run(in, in_stride, n, channels, out, out_stride);
  } else {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < channels; ++c) out[c * out_stride + i] = in[c + i * in_stride];
  }
}

template <class T>
void im2col_typed(const Im2colCall& call) {
  const ConvProblem& p = call.problem;
  const TensorView& image = call.image;
  const int64_t block = image.stride[1] == 1 && p.C > 1 ? kImageChannels : 1, blocks = ceil_div(p.C, block);
  const int64_t taps = p.R * p.S, pixels = p.P * p.Q;
  parallel_for(p.N * blocks * taps, ceil_div(16384, pixels * block), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t tap = task % taps, r = tap / p.S, s = tap % p.S;
      const int64_t c = task / taps % blocks * block, n = task / taps / blocks;
      const int64_t channels = p.C - c < block ? p.C - c : block;
      const TapRange range = tap_range(s * p.dilation_w - p.pad_left, p.stride_w, p.W, p.Q);
      T* out = static_cast<T*>(call.columns) + ((n * p.C + c) * taps + tap) * pixels;
      const int64_t out_stride = taps * pixels;  // between channels
      for (int64_t row = 0; row < p.P; ++row, out += p.Q) {
        const int64_t h = row * p.stride_h - p.pad_top + r * p.dilation_h;
        const bool inside = h >= 0 && h < p.H && range.begin < range.end;
        const int64_t first = inside ? range.begin : 0, last = inside ? range.end : 0;
        for (int64_t i = 0; i < channels; ++i) {
          for (int64_t q = 0; q < first; ++q) out[i * out_stride + q] = from_accumulate<T>(0);
          for (int64_t q = last; q < p.Q; ++q) out[i * out_stride + q] = from_accumulate<T>(0);
        }
        if (!inside) continue;
        const int64_t w = first * p.stride_w - p.pad_left + s * p.dilation_w;
        const T* in = image.as<const T>() + image.offset(n, c, h, w);
        const int64_t step = p.stride_w * image.stride[3];
        if (block > 1) {
          transpose_to_rows(in, step, last - first, channels, out + first, out_stride);
        } else if (step == 1) {
          __builtin_memcpy(out + first, in, static_cast<size_t>(last - first) * sizeof(T));
        } else {
          for (int64_t q = first; q < last; ++q) out[q] = in[(q - first) * step];
        }
      }
    }
  });
}

inline void im2col(const Im2colCall& call, const CallContext&) {
  const ConvProblem& p = call.problem;
  if (p.N * p.C * p.R * p.S * p.P * p.Q == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { im2col_typed<typename decltype(tag)::type>(call); });
}

// acc[0 .. n) += the taps of row (n, c, h) from image column w0 on.
template <class T>
FC_INLINE void fold_row(const ConvProblem& p, const T* columns, int64_t h, int64_t w0, int64_t n,
                        accumulate_t<T>* acc) {
  using V = Vec<accumulate_t<T>>;
  for (int64_t r = 0; r < p.R; ++r) {
    const int64_t at = h + p.pad_top - r * p.dilation_h;
    if (at < 0 || at % p.stride_h != 0 || at / p.stride_h >= p.P) continue;
    for (int64_t s = 0; s < p.S; ++s) {
      const T* row = columns + ((r * p.S + s) * p.P + at / p.stride_h) * p.Q;
      const int64_t base = s * p.dilation_w - p.pad_left - w0;  // q lands on acc[q * stride_w + base]
      const TapRange range = tap_range(base, p.stride_w, n, p.Q);
      int64_t q = range.begin;
      if (p.stride_w == 1) {
        for (; q + V::kLanes <= range.end; q += V::kLanes)
          (V::load(acc + q + base) + V::load(row + q)).store(acc + q + base);
      }
      for (; q < range.end; ++q) acc[q * p.stride_w + base] += to_accumulate(row[q]);
    }
  }
}

template <class T>
void col2im_typed(const Im2colCall& call) {
  using Acc = accumulate_t<T>;
  const ConvProblem& p = call.problem;
  const TensorView& image = call.image;
  // Channels last: a block of channels is folded, then written together, a whole cache line a pixel.
  const int64_t block = image.stride[1] == 1 && p.C > 1 ? kImageChannels : 1, blocks = ceil_div(p.C, block);
  const int64_t taps = p.R * p.S;
  parallel_for(p.N * blocks * p.H, ceil_div(16384, p.W * block * taps), [&](int64_t begin, int64_t end) {
    Acc acc[kImageChannels * kImageRun];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t h = task % p.H, c = task / p.H % blocks * block, n = task / p.H / blocks;
      const int64_t channels = p.C - c < block ? p.C - c : block;
      const T* columns = static_cast<const T*>(call.columns) + (n * p.C + c) * taps * p.P * p.Q;
      for (int64_t w = 0; w < p.W; w += kImageRun) {
        const int64_t width = p.W - w < kImageRun ? p.W - w : kImageRun;
        for (int64_t i = 0; i < channels; ++i) {
          for (int64_t j = 0; j < width; ++j) acc[i * kImageRun + j] = 0;
          fold_row(p, columns + i * taps * p.P * p.Q, h, w, width, acc + i * kImageRun);
        }
        T* out = image.as<T>() + image.offset(n, c, h, w);
        if (block == 1) {
          store_run(out, image.stride[3], width, acc);
          continue;
        }
        for (int64_t j = 0; j < width; ++j, out += image.stride[3])
          for (int64_t i = 0; i < channels; ++i) out[i] = from_accumulate<T>(acc[i * kImageRun + j]);
      }
    }
  });
}

inline void col2im(const Im2colCall& call, const CallContext&) {
  if (call.image.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { col2im_typed<typename decltype(tag)::type>(call); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
