// Small NCHW planes, sixteen channels at a time, to pixels of sixteen channels and back: how kernels with vectors along
// channels serve images too narrow for vectors along columns. About 0.3 cycles an element, in L2.
#pragma once

#include "../../common/tensor_view.h"
#include "lanes.h"

namespace fastconv::cpu::FASTCONV_ISA::work {

constexpr int64_t kLaneChannels = 16;
constexpr int64_t kMaxPixels = 1024;  // sixteen planes: 64 KiB. At 35 x 35 column lanes are ahead again.

inline bool is_run(const TensorView& planes) {
  const int64_t pixels = planes.size[2] * planes.size[3];
  return planes.stride[3] == 1 && (planes.size[2] == 1 || planes.stride[2] == planes.size[3]) &&
         pixels >= kTransposeBlock && pixels <= kMaxPixels;
}

// Pixels of kLaneChannels channels in scratch, one image.
inline TensorView pixels_view(void* scratch, int64_t H, int64_t W) {
  TensorView view;
  view.data = scratch;
  view.size[0] = 1, view.size[1] = kLaneChannels, view.size[2] = H, view.size[3] = W;
  view.stride[1] = 1, view.stride[2] = W * kLaneChannels, view.stride[3] = kLaneChannels;
  return view;
}

// rows[i][j] -> columns[j][i] for i < height <= kLaneChannels, in whole blocks; the last block along the width is moved
// back to end with it, so that nothing behind a row is read or written.
inline void transpose_rows(const float* in, int64_t in_pitch, int64_t height, int64_t width, float* out,
                           int64_t out_pitch) {
  for (int64_t j = 0; j < width; j += kTransposeBlock) {
    const int64_t at = min(j, width - kTransposeBlock);
    int64_t i = 0;
    for (; i + kTransposeBlock <= height; i += kTransposeBlock) {
      transpose_block(in + i * in_pitch + at, in_pitch, out + at * out_pitch + i, out_pitch);
    }
    for (; i < height; ++i)
      for (int64_t s = at; s < at + kTransposeBlock; ++s) out[s * out_pitch + i] = in[i * in_pitch + s];
  }
}
inline void transpose_columns(const float* in, int64_t in_pitch, int64_t height, int64_t width, float* out,
                              int64_t out_pitch) {
  for (int64_t j = 0; j < width; j += kTransposeBlock) {
    const int64_t at = min(j, width - kTransposeBlock);
    int64_t i = 0;
    for (; i + kTransposeBlock <= height; i += kTransposeBlock) {
      transpose_block(in + at * in_pitch + i, in_pitch, out + i * out_pitch + at, out_pitch);
    }
    for (; i < height; ++i)
      for (int64_t s = at; s < at + kTransposeBlock; ++s) out[i * out_pitch + s] = in[s * in_pitch + i];
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA::work
