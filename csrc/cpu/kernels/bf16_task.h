// What the bfloat16 engine computes (conv_engine.h's task for one dtype, with the taps on a grid):
//
//   y[n, g*K + k, p, q] = epilogue(sum over r, s, c of x[n, g*C + c, p * stride_h + r * dilation_h - pad_top,
//                                                                  q * stride_w + s * dilation_w - pad_left] * w)
//
// where x is the stored one repeated scale_h x scale_w times (upsample_conv2d): row h of it is the stored row h /
// scale_h. Here is also how its pixels are numbered. Where x cannot be read in place, a block of its rows is copied
// into a band in which every tap of every output pixel is a constant number of bytes from that of the pixel before,
// across rows as well:
//
//   row phase (row mod stride_h) | row | pixel, `pitch` outputs wide | channels of all steps
//
// The outputs of a block are then one run of "flat" pixels p * pitch + q, of which those with q >= Q are dropped. The
// zeros to the right of a row serve as those to the left of the next, so that few are.
#pragma once

#include "bf16_format.h"
#include "conv_task.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

struct Task {
  int64_t N = 0, P = 0, Q = 0, groups = 1, C = 0, K = 0, R = 1, S = 1;  // C and K of one group
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1, pad_top = 0, pad_left = 0;
  int64_t scale_h = 1, scale_w = 1;
  TensorView x, y;
  const void* packed = nullptr;  // see bf16_format.h
  EpilogueArgs epilogue;
};

// Single taps become plain views, and the pixels of a 1x1 convolution one long row.
inline Task simplify(const Task& given) {
  using namespace task_detail;
  Task t = given;
  TensorView* const views[] = {&t.x, &t.y, &t.epilogue.residual, &t.epilogue.full_param};
  if (t.epilogue.full_param.size[0] == 1) t.epilogue.full_param.stride[0] = 0;
  for (TensorView* v : views)
    if (v->size[3] == 1) v->stride[3] = v->stride[2];
  if (t.R == 1) {
    int64_t tap = -t.pad_top;
    fold_axis(t.x, 2, t.P, t.scale_h, t.stride_h, tap);
  }
  if (t.S == 1) {
    int64_t tap = -t.pad_left;
    fold_axis(t.x, 3, t.Q, t.scale_w, t.stride_w, tap);
  }
  const bool plain = t.R == 1 && t.S == 1 && t.stride_h == 1 && t.stride_w == 1 && t.pad_top == 0 && t.pad_left == 0 &&
                     t.scale_h == 1 && t.scale_w == 1 && t.x.size[2] == t.P && t.x.size[3] == t.Q;
  if (!plain) return t;
  // Pixels that have to be copied stay in rows, which make blocks.
  if (t.x.stride[1] != 1 || channel_steps(t.C).padded() != t.C) return t;
  bool rows = true, images = true;
  for (TensorView* v : views) rows = rows && row_follows_row(*v, t.Q);
  if (!rows) return t;
  for (TensorView* v : views) merge_rows(*v);
  t.Q *= t.P;
  t.P = 1;
  for (TensorView* v : views) images = images && image_follows_image(*v, t.Q);
  if (t.epilogue.full_param.present() && t.N > 1) images = images && t.epilogue.full_param.size[0] == t.N;
  if (!images) return t;
  for (TensorView* v : views) merge_images(*v);
  t.Q *= t.N;
  t.N = 1;
  return t;
}

// How pixels and taps are addressed; in elements.
struct Geometry {
  bool in_place = false;
  bool merged_taps = false;  // a step runs over several taps of a row
  int64_t channels = 0;      // of one step, even
  int64_t steps = 0;         // of the reduction
  int64_t pitch = 0;         // outputs from one row to the next, flat
  int64_t pixel = 0;         // from one output's first tap to the next one's
  int64_t row = 0;           // from one output row to the next
  int64_t padded_c = 0;      // of a pixel in the band
  int64_t planes = 1;        // row phases that taps meet
  int64_t more_rows = 0;     // of a plane, beyond the outputs
  int64_t overlap = 0;       // pixels of a row's right padding that lie in the next row

  explicit Geometry(const Task& t) {
    const ChannelSteps cut = channel_steps(t.C);
    padded_c = cut.padded();
    channels = cut.channels;
    steps = cut.count * t.R * t.S;
    in_place = t.R == 1 && t.S == 1 && t.stride_h == 1 && t.stride_w == 1 && t.pad_top == 0 && t.pad_left == 0 &&
               t.P == 1 && t.scale_h == 1 && t.scale_w == 1 && t.x.size[3] == t.Q && t.x.stride[1] == 1 &&
               padded_c == t.C;
    if (in_place) {
      pitch = t.Q;
      pixel = t.x.stride[3];
      row = pitch * pixel;
      return;
    }
    const int64_t width = (t.Q - 1) * t.stride_w + (t.S - 1) * t.dilation_w + 1;
    overlap = larger(0, smaller(t.pad_left, width - t.pad_left - t.x.size[3] * t.scale_w));
    pitch = larger(t.Q, ceil_div(width - overlap, t.stride_w));
    overlap = larger(0, width - pitch * t.stride_w);
    pixel = t.stride_w * padded_c;
    row = pitch * pixel;
    planes = smaller(t.R, t.stride_h);
    more_rows = (t.R - 1) * t.dilation_h / t.stride_h;
    // A step may run over the taps of a row, which lie side by side (three of 4 channels: 12).
    if (cut.count == 1 && t.dilation_w == 1 && t.S > 1) {
      const ChannelSteps merged = channel_steps(t.S * padded_c);
      if (merged.padded() == t.S * padded_c && merged.count < t.S) {
        channels = merged.channels;
        steps = t.R * merged.count;
        merged_taps = true;
      }
    }
  }

  // Where the first channel of every step of the reduction lies, in bytes from the first tap of the first; a plane has
  // `rows` + more_rows rows.
  void list_steps(const Task& t, int64_t rows, int64_t* offsets) const {
    int64_t count = 0;
    const int64_t item = sizeof(bfloat16_t);
    const auto row_of = [&](int64_t r) {
      const int64_t down = r * t.dilation_h;
      return (plane_of(t, down % t.stride_h) * (rows + more_rows) + down / t.stride_h) * row;
    };
    if (merged_taps) {
      for (int64_t r = 0; r < t.R; ++r)
        for (int64_t c = 0; c < t.S * padded_c; c += channels) offsets[count++] = (row_of(r) + c) * item;
      return;
    }
    for (int64_t c = 0; c < padded_c; c += channels)
      for (int64_t r = 0; r < t.R; ++r)
        for (int64_t s = 0; s < t.S; ++s) {
          offsets[count++] = ((in_place ? 0 : row_of(r)) + s * t.dilation_w * padded_c + c) * item;
        }
  }

  // The plane of a row phase: those that taps meet are numbered in the order in which they meet them.
  static int64_t plane_of(const Task& t, int64_t phase) {
    for (int64_t r = 0; r < t.R && r < t.stride_h; ++r)
      if (r * t.dilation_h % t.stride_h == phase) return r;
    return 0;
  }

  int64_t band_rows(int64_t rows) const { return planes * (rows + more_rows); }
};

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
