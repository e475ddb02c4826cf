// Convolution-like problems in one form that a single kernel can run, whatever they were:
//
//   out[n, oc, h.phases * i + fh, w.phases * j + fw] = epilogue(sum over ic, th, tw of
//       in[n, ic, h.input(fh, i, th), w.input(fw, j, tw)] * weight(fh, fw, oc, ic, th, tw))
//
// A phase (fh, fw) is every phases-th row and column of the output; within one, taps step evenly through the input and
// through the filter, so that all of it is plain addition in a kernel. One launch covers all phases.
//
//   forward             one phase, in = x
//   upsampled, gather   one phase, coordinates of the enlarged image, divided by the factor where x is read
//   upsampled, phase    one phase for each way the window can lie on the enlarged pixels; filters summed beforehand
//   input gradient,     one phase for each offset against the stride, in = dy; the filter's rows that hit that offset
//   transposed conv
#pragma once

#include <algorithm>
#include <numeric>

#include "../common/algorithm_table.h"

namespace fastconv::cuda {

// Along one axis, for every phase. All in rows (or columns).
constexpr int kMaxPhases = 8;
inline int most_of(const int (&values)[kMaxPhases]) { return *std::max_element(values, values + kMaxPhases); }

struct PhaseAxis {
  int phases = 1;
  int in_extent = 0;    // of the input, enlarged by `scale`
  int out_extent = 0;   // of the output
  int scale = 1;        // enlarged coordinate / scale = coordinate in memory
  int in_step = 1;      // input rows per output row of a phase
  int in_tap_step = 1;  // input rows per tap; may be negative
  int filter_tap_step = 1;
  // Per phase: output rows, taps (may be 0: the output is epilogue(0) there), the input row of tap 0 for output row 0,
  // and tap 0's row in the filter.
  int count[kMaxPhases] = {}, taps[kMaxPhases] = {}, in_base[kMaxPhases] = {}, filter_base[kMaxPhases] = {};

  FC_HOST_DEVICE int input(int phase, int i, int tap) const { return i * in_step + in_base[phase] + tap * in_tap_step; }
  FC_HOST_DEVICE int filter(int phase, int tap) const { return filter_base[phase] + tap * filter_tap_step; }
};

struct PhasedConv {
  int64_t N = 0, groups = 1;
  int64_t in_channels = 0, out_channels = 0;  // of one group
  DType dtype = DType::kFloat32;
  PhaseAxis h, w;
  TensorView in;   // (N, groups * in_channels, ., .)
  TensorView out;  // (N, groups * out_channels, ., .)
  // weight(fh, fw, oc, ic, th, tw) of group g lies at weights + g * w_stride_group
  //     + (fh * w.phases + fw) * w_stride_phase + oc * w_stride_out + ic * w_stride_in
  //     + h.filter(fh, th) * w_stride_h + w.filter(fw, tw) * w_stride_w.
  const void* weights = nullptr;
  int64_t w_stride_group = 0, w_stride_phase = 0, w_stride_out = 0, w_stride_in = 0, w_stride_h = 0, w_stride_w = 0;
  EpilogueArgs epilogue;  // its channel is g * out_channels + oc

  int phases() const { return h.phases * w.phases; }
};

namespace phase_detail {

inline int as_int(int64_t v) { return static_cast<int>(v); }

inline PhaseAxis forward_axis(int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t pad, int64_t dilation,
                              int64_t scale) {
  PhaseAxis a;
  a.scale = as_int(scale);
  a.in_extent = as_int(in * scale), a.out_extent = as_int(out);
  a.in_step = as_int(stride), a.in_tap_step = as_int(dilation);
  a.count[0] = a.out_extent, a.taps[0] = as_int(filter), a.in_base[0] = as_int(-pad);
  return a;
}

// Row h = phase + stride * i of dx takes dy's row p = (h + pad - r * dilation) / stride from every filter row r that
// makes this whole: every (stride / gcd(stride, dilation))-th, from the first on.
inline PhaseAxis input_grad_axis(int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t pad,
                                 int64_t dilation) {
  PhaseAxis a;
  const int64_t common = std::gcd(stride, dilation);
  a.phases = as_int(stride);
  a.in_extent = as_int(out), a.out_extent = as_int(in);
  a.in_tap_step = as_int(-dilation / common), a.filter_tap_step = as_int(stride / common);
  for (int64_t phase = 0; phase < stride; ++phase) {
    a.count[phase] = as_int(in > phase ? (in - phase + stride - 1) / stride : 0);
    int64_t first = 0;
    while (first < stride / common && (phase + pad - first * dilation) % stride != 0) ++first;
    if (first == stride / common || first >= filter) continue;  // no row of the filter lands here
    a.taps[phase] = as_int((filter - first - 1) / (stride / common) + 1);
    a.filter_base[phase] = as_int(first);
    a.in_base[phase] = as_int((phase + pad - first * dilation) / stride);
  }
  return a;
}

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Output row phase + phases * i starts its window at enlarged row phase * stride - pad + i * phases * stride, and
// phases * stride is a whole number of enlarged pixels: taps meet in the same stored rows for every i.
inline PhaseAxis upsample_axis(int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t pad, int64_t dilation,
                               int64_t scale) {
  PhaseAxis a;
  const int64_t common = std::gcd(stride, scale);
  a.phases = as_int(scale / common);
  a.in_extent = as_int(in), a.out_extent = as_int(out);
  a.in_step = as_int(stride / common);
  for (int64_t phase = 0; phase < a.phases; ++phase) {
    a.count[phase] = as_int(out > phase ? (out - phase + a.phases - 1) / a.phases : 0);
    const int64_t start = phase * stride - pad;
    a.in_base[phase] = as_int(floor_div(start, scale));
    a.taps[phase] = as_int(floor_div(start + (filter - 1) * dilation, scale) - a.in_base[phase] + 1);
  }
  return a;
}

inline int most_taps(const PhaseAxis& a) {
  int most = 0;
  for (int phase = 0; phase < a.phases; ++phase) most = most < a.taps[phase] ? a.taps[phase] : most;
  return most;
}

}  // namespace phase_detail

// Coordinates are computed in int, with room for a window beside the image; offsets are 64-bit.
inline Reasons phase_extent_reasons(const ConvProblem& p) {
  constexpr int64_t kMaxCoordinate = 0x20000000;
  Reasons reasons;
  const auto limit = [&](const char* name, int64_t extent) {
    if (extent > kMaxCoordinate)
      reasons.push_back(std::string(name) + " = " + std::to_string(extent) + " is above 2^29");
  };
  limit("N", p.N);
  limit("C", p.C);
  limit("K", p.K);
  limit("R * S", p.R * p.S);
  limit("H with its padding", p.H * p.scale_h + p.pad_top + p.pad_bottom);
  limit("W with its padding", p.W * p.scale_w + p.pad_left + p.pad_right);
  limit("P", p.P);
  limit("Q", p.Q);
  return reasons;
}

// conv2d, and upsample_conv2d with the products of the unfused pair.
inline PhasedConv forward_phases(const Conv2dCall& call) {
  using namespace phase_detail;
  const ConvProblem& p = call.problem;
  PhasedConv c;
  c.N = p.N, c.groups = p.groups, c.in_channels = p.channels_per_group(), c.out_channels = p.filters_per_group();
  c.dtype = call.dtype;
  c.h = forward_axis(p.H, p.P, p.R, p.stride_h, p.pad_top, p.dilation_h, p.scale_h);
  c.w = forward_axis(p.W, p.Q, p.S, p.stride_w, p.pad_left, p.dilation_w, p.scale_w);
  c.in = call.x, c.out = call.y, c.weights = call.w.data;
  c.w_stride_group = c.out_channels * call.w.stride[0];
  c.w_stride_out = call.w.stride[0], c.w_stride_in = call.w.stride[1];
  c.w_stride_h = call.w.stride[2], c.w_stride_w = call.w.stride[3];
  c.epilogue = call.epilogue;
  return c;
}

// Why the phases of the stride do not fit the tables above.
inline Reasons input_grad_phase_reasons(const ConvProblem& p) {
  Reasons reasons = phase_extent_reasons(p);
  if (p.stride_h > kMaxPhases || p.stride_w > kMaxPhases) {
    reasons.push_back("stride " + std::to_string(p.stride_h) + "x" + std::to_string(p.stride_w) + " makes more than " +
                      std::to_string(kMaxPhases) + " phases an axis");
  }
  return reasons;
}

// dx = dy * w: conv2d_input_grad and conv_transpose2d.
inline PhasedConv input_grad_phases(const Conv2dInputGradCall& call) {
  using namespace phase_detail;
  const ConvProblem& p = call.problem;
  PhasedConv c;
  c.N = p.N, c.groups = p.groups, c.in_channels = p.filters_per_group(), c.out_channels = p.channels_per_group();
  c.dtype = call.dtype;
  c.h = input_grad_axis(p.H, p.P, p.R, p.stride_h, p.pad_top, p.dilation_h);
  c.w = input_grad_axis(p.W, p.Q, p.S, p.stride_w, p.pad_left, p.dilation_w);
  c.in = call.dy, c.out = call.dx, c.weights = call.w.data;
  c.w_stride_group = c.in_channels * call.w.stride[0];
  c.w_stride_in = call.w.stride[0], c.w_stride_out = call.w.stride[1];
  c.w_stride_h = call.w.stride[2], c.w_stride_w = call.w.stride[3];
  c.epilogue = call.epilogue;
  return c;
}

inline Reasons upsample_gather_reasons(const ConvProblem& p) {
  Reasons reasons = phase_extent_reasons(p);
  if (p.scale_h / std::gcd(p.scale_h, p.stride_h) > kMaxPhases ||
      p.scale_w / std::gcd(p.scale_w, p.stride_w) > kMaxPhases) {
    reasons.push_back("scale_factor " + std::to_string(p.scale_h) + "x" + std::to_string(p.scale_w) +
                      " makes more than " + std::to_string(kMaxPhases) + " phases an axis");
  }
  return reasons;
}

inline Reasons upsample_phase_reasons(const ConvProblem& p) {
  Reasons reasons = upsample_gather_reasons(p);
  if (p.dilation_h > p.scale_h || p.dilation_w > p.scale_w) {
    reasons.push_back("dilation " + std::to_string(p.dilation_h) + "x" + std::to_string(p.dilation_w) +
                      " is above the scale_factor: taps do not meet");
  }
  return reasons;
}

// upsample_conv2d with filters summed over the taps that meet in one stored pixel. The caller allocates
// upsample_phase_weights(c) elements of the *storage* dtype (or another it chooses) as (phase, oc of all groups, th,
// tw, ic) and fills them; this sets the strides that describe it. th and tw have the extents of the phase with most
// taps.
inline PhasedConv upsample_phases(const Conv2dCall& call) {
  using namespace phase_detail;
  const ConvProblem& p = call.problem;
  PhasedConv c = forward_phases(call);
  c.h = upsample_axis(p.H, p.P, p.R, p.stride_h, p.pad_top, p.dilation_h, p.scale_h);
  c.w = upsample_axis(p.W, p.Q, p.S, p.stride_w, p.pad_left, p.dilation_w, p.scale_w);
  c.weights = nullptr;
  c.w_stride_in = 1;
  c.w_stride_w = c.in_channels;
  c.w_stride_h = c.w_stride_w * most_taps(c.w);
  c.w_stride_out = c.w_stride_h * most_taps(c.h);
  c.w_stride_group = c.w_stride_out * c.out_channels;
  c.w_stride_phase = c.w_stride_group * c.groups;
  return c;
}

inline int64_t upsample_phase_weights(const PhasedConv& c) { return c.w_stride_phase * c.phases(); }

}  // namespace fastconv::cuda
