// The host's side of TMA's im2col copies of a convolution's input (tma_im2col.cuh): what they cannot read, and the
// tensor map for the rest.
#pragma once

#include <string>

#include "../../common/algorithm_table.h"
#include "../primitives/tensor_map.h"
#include "../primitives/wgmma.cuh"
#include "layout.cuh"

namespace fastconv::cuda {

// Along one axis: where base pixels begin and end, as im2col's corners, and how far taps reach.
struct Im2colAxis {
  int64_t lower, upper, reach;
};

inline Im2colAxis im2col_axis(int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  // The last base pixel itself: what a stride leaves over at the image's end changes nothing, but may pass the limit.
  return {-pad, (out - 1) * stride - pad - (in - 1), (filter - 1) * dilation};
}
inline Im2colAxis im2col_axis_h(const ConvProblem& p) {
  return im2col_axis(p.H, p.P, p.R, p.stride_h, p.pad_top, p.dilation_h);
}
inline Im2colAxis im2col_axis_w(const ConvProblem& p) {
  return im2col_axis(p.W, p.Q, p.S, p.stride_w, p.pad_left, p.dilation_w);
}

// What there are no bits for, along one axis.
inline void refuse_im2col_axis(Reasons& reasons, const char* name, const Im2colAxis& axis) {
  constexpr int64_t kCorner = 128, kMaxReach = 254;
  const auto outside = [](int64_t corner) { return corner < -kCorner || corner >= kCorner; };
  if (outside(axis.lower)) {
    reasons.push_back(std::string("the first window begins at ") + std::to_string(axis.lower) + " along " + name +
                      ", outside im2col's -128 to 127");
  }
  if (outside(axis.upper)) {
    reasons.push_back(std::string("the last window begins ") + std::to_string(axis.upper) +
                      " from the image's end along " + name + ", outside im2col's -128 to 127");
  }
  if (axis.reach > kMaxReach) {
    reasons.push_back(std::string("the filter reaches ") + std::to_string(axis.reach) + " pixels along " + name +
                      ", above im2col's 254");
  }
}

// What stands against reading x through the window of `p`.
inline void refuse_im2col(Reasons& reasons, const ConvProblem& p) {
  constexpr int64_t kMaxStride = 8;
  if (p.C == 0 || p.H * p.W == 0) reasons.push_back("x has no channels or no pixels");
  if (p.stride_h > kMaxStride || p.stride_w > kMaxStride) {
    reasons.push_back("a stride of " + std::to_string(p.stride_h) + "x" + std::to_string(p.stride_w) +
                      " is above im2col's 8");
  }
  refuse_im2col_axis(reasons, "H", im2col_axis_h(p));
  refuse_im2col_axis(reasons, "W", im2col_axis_w(p));
}

// Whether TMA takes x, of 16-bit elements and `channels` in a group, from where it lies; else it takes a packed copy.
inline bool im2col_reads_in_place(const TensorView& x, int64_t channels) {
  constexpr int64_t kMaxStride = int64_t{1} << 39;  // 2^40 bytes
  bool forward = in_whole_chunks<half_t>(x, channels);
  for (const int axis : {0, 2, 3}) {
    forward = forward && (x.size[axis] == 1 || (x.stride[axis] > 0 && x.stride[axis] < kMaxStride));
  }
  return forward;
}

// x, channels contiguous, for copies of `channels` channels of `pixels` pixels, which lie `step` apart.
inline TensorMap image_map(const TensorView& x, const Im2colAxis& h, const Im2colAxis& w, int64_t step_h,
                           int64_t step_w, uint32_t channels, uint32_t pixels) {
  Im2colMapSpec spec{x.data, x.dtype, 4, {}, {}, {}, {}, {}, channels, pixels, kSwizzleBytes};
  const int axes[4] = {1, 3, 2, 0};
  for (int d = 0; d < 4; ++d) {
    spec.extent[d] = static_cast<uint64_t>(x.size[axes[d]]);
    // An axis of one entry may have any stride, and gets what a dense tensor would have.
    spec.stride[d] = d == 0                 ? 1
                     : x.size[axes[d]] == 1 ? spec.extent[d - 1] * spec.stride[d - 1]
                                            : static_cast<uint64_t>(x.stride[axes[d]]);
  }
  spec.lower_corner[0] = static_cast<int>(w.lower), spec.lower_corner[1] = static_cast<int>(h.lower);
  spec.upper_corner[0] = static_cast<int>(w.upper), spec.upper_corner[1] = static_cast<int>(h.upper);
  spec.step[0] = static_cast<uint32_t>(step_w), spec.step[1] = static_cast<uint32_t>(step_h);
  return make_im2col_map("x", spec);
}
inline TensorMap image_map(const TensorView& x, const ConvProblem& p, uint32_t channels, uint32_t pixels) {
  return image_map(x, im2col_axis_h(p), im2col_axis_w(p), p.stride_h, p.stride_w, channels, pixels);
}

}  // namespace fastconv::cuda
