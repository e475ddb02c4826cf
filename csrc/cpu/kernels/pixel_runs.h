// Copies between tensors of any layout and storage type and scratch tiles of the accumulate type, [pixel][channel]:
// where transposition (NCHW), widening and narrowing (float16, bfloat16) and odd strides are dealt with, so that the
// kernels proper see one layout and one type.
//
//   load_pixels    view (pixel stride, channel stride) of T  ->  scratch [pixels][pitch] of Acc
//   store_pixels   scratch  ->  view
#pragma once

#include "../cpu_kernels.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Register tile width, in vectors; see microkernel.h.
constexpr int kPanelVectors = 2;

namespace runs_detail {

// A few channels, planes to pixels (the stem's RGB): a constant channel count lets the compiler use interleaving
// shuffles.
template <class T, int C>
void interleave(const T* __restrict src, int64_t channel_stride, int64_t pixels, accumulate_t<T>* __restrict dst,
                int64_t pitch) {
  if (pitch == C) {
    for (int64_t i = 0; i < pixels; ++i)
      for (int c = 0; c < C; ++c) dst[i * C + c] = to_accumulate(src[c * channel_stride + i]);
  } else {
    for (int64_t i = 0; i < pixels; ++i)
      for (int c = 0; c < C; ++c) dst[i * pitch + c] = to_accumulate(src[c * channel_stride + i]);
  }
}

constexpr int kBlock = kTransposeBlock;
static_assert(kBlock == Vec<float>::kLanes, "a row of a block is one vector");

// One block of at most kBlock x kBlock, from rows of `src` to columns of `dst`.
template <class Src, class Dst>
FC_INLINE void transpose_piece(const Src* src, int64_t src_stride, int64_t rows, int64_t columns, Dst* dst,
                               int64_t dst_stride) {
  using Acc = accumulate_t<Src>;
  if constexpr (sizeof(Acc) == sizeof(float)) {
    if (sizeof(Src) == sizeof(Acc) && sizeof(Dst) == sizeof(Acc) && rows == kBlock && columns == kBlock) {
      // Only reached for float; the casts keep the other instantiations well-formed.
      transpose_block(reinterpret_cast<const float*>(src), src_stride, reinterpret_cast<float*>(dst), dst_stride);
      return;
    }
    alignas(64) float in[kBlock * kBlock], out[kBlock * kBlock];
    using V = Vec<float>;
    for (int64_t i = 0; i < rows; ++i) {
      const Src* row = src + i * src_stride;
      (columns == kBlock ? V::load(row) : V::load_partial(row, columns)).store(in + i * kBlock);
    }
    transpose_block(in, kBlock, out, kBlock);
    for (int64_t j = 0; j < columns; ++j) store_run(dst + j * dst_stride, 1, rows, out + j * kBlock);
  } else {
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i) dst[j * dst_stride + i] = src[i * src_stride + j];
  }
}

// dst[j][i] = src[i][j] for i < rows, j < columns. Along the rows first: a band of kBlock rows is as many streams,
// which the hardware prefetches; the other way round every block would open new pages.
template <class Src, class Dst>
void transpose_run(const Src* src, int64_t src_stride, int64_t rows, int64_t columns, Dst* dst, int64_t dst_stride) {
  for (int64_t i = 0; i < rows; i += kBlock) {
    const int64_t rows_here = rows - i < kBlock ? rows - i : kBlock;
    for (int64_t j = 0; j < columns; j += kBlock) {
      const int64_t columns_here = columns - j < kBlock ? columns - j : kBlock;
      transpose_piece(src + i * src_stride + j, src_stride, rows_here, columns_here, dst + j * dst_stride + i,
                      dst_stride);
    }
  }
}

// Every (pixel, channel), the one with the smaller stride in the inner loop.
template <class F>
FC_INLINE void for_elements(int64_t pixels, int64_t channels, bool channels_inside, F&& f) {
  if (channels_inside) {
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t c = 0; c < channels; ++c) f(i, c);
  } else {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < pixels; ++i) f(i, c);
  }
}

}  // namespace runs_detail

template <class T>
void load_pixels(const T* src, int64_t pixel_stride, int64_t channel_stride, int64_t pixels, int64_t channels,
                 accumulate_t<T>* dst, int64_t pitch) {
  using namespace runs_detail;
  if (channel_stride == 1 || channels == 1) {
    if (pixel_stride == channels && pitch == channels) return load_run(src, 1, pixels * channels, dst);
    if (channels > 1 || pixel_stride != 1 || pitch != 1) {
      for (int64_t i = 0; i < pixels; ++i) load_run(src + i * pixel_stride, 1, channels, dst + i * pitch);
      return;
    }
  }
  if (pixel_stride == 1 || pixels == 1) {
    switch (channels) {
      case 2:
        return interleave<T, 2>(src, channel_stride, pixels, dst, pitch);
      case 3:
        return interleave<T, 3>(src, channel_stride, pixels, dst, pitch);
      case 4:
        return interleave<T, 4>(src, channel_stride, pixels, dst, pitch);
      default:
        return transpose_run(src, channel_stride, channels, pixels, dst, pitch);
    }
  }
  for_elements(pixels, channels, pixel_stride > channel_stride, [&](int64_t i, int64_t c) {
    dst[i * pitch + c] = to_accumulate(src[i * pixel_stride + c * channel_stride]);
  });
}

template <class T>
void store_pixels(const accumulate_t<T>* src, int64_t pitch, int64_t pixels, int64_t channels, T* dst,
                  int64_t pixel_stride, int64_t channel_stride) {
  using namespace runs_detail;
  if (channel_stride == 1 || channels == 1) {
    for (int64_t i = 0; i < pixels; ++i) store_run(dst + i * pixel_stride, 1, channels, src + i * pitch);
  } else if (pixel_stride == 1 || pixels == 1) {
    for (int64_t c = 0; c < channels; c += kBlock) {
      transpose_run(src + c, pitch, pixels, channels - c < kBlock ? channels - c : kBlock, dst + c * channel_stride,
                    channel_stride);
    }
  } else {
    for_elements(pixels, channels, pixel_stride > channel_stride, [&](int64_t i, int64_t c) {
      dst[i * pixel_stride + c * channel_stride] = from_accumulate<T>(src[i * pitch + c]);
    });
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
