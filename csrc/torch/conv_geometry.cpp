#include "conv_geometry.h"

namespace fastconv::ops {

namespace {
// Bounds every product below 2^63, so that no extent can wrap around and pass a check.
constexpr int64_t kLargest = int64_t{1} << 31;
}  // namespace

Ints sizes_of(const Tensor& t) {
  const auto size = t.sizes();
  return Ints(size.begin(), size.end());
}

void require_ints(const Ints& values, size_t count, int64_t least, const char* op, const char* name) {
  require(values.size() == count, op, ": expected ", name, " to have ", count, " values, but got ", values.size());
  for (const int64_t value : values) {
    require(value >= least, op, ": expected ", name, " to be at least ", least, ", but got ", value);
    require(value < kLargest, op, ": expected ", name, " to be below ", kLargest, ", but got ", value);
  }
}

ConvProblem make_problem(const Ints& input, const Ints& weight, const ConvGeometry& geometry, const char* op,
                         int64_t scale_h, int64_t scale_w) {
  require(input.size() == 4, op, ": expected the input to have 4 dimensions, but got ", input.size());
  require(weight.size() == 4, op, ": expected weight to have 4 dimensions, but got ", weight.size());
  require_ints(input, 4, 0, op, "input size");
  require_ints(weight, 4, 0, op, "weight size");
  require_ints(geometry.stride, 2, 1, op, "stride");
  require_ints(geometry.padding, 4, 0, op, "padding");
  require_ints(geometry.dilation, 2, 1, op, "dilation");
  require_ints({geometry.groups}, 1, 1, op, "groups");
  require_ints({scale_h, scale_w}, 2, 1, op, "scale_factor");
  ConvProblem p;
  p.N = input[0], p.C = input[1], p.H = input[2], p.W = input[3];
  p.K = weight[0], p.R = weight[2], p.S = weight[3];
  p.stride_h = geometry.stride[0], p.stride_w = geometry.stride[1];
  p.pad_top = geometry.padding[0], p.pad_bottom = geometry.padding[1];
  p.pad_left = geometry.padding[2], p.pad_right = geometry.padding[3];
  p.dilation_h = geometry.dilation[0], p.dilation_w = geometry.dilation[1];
  p.groups = geometry.groups;
  p.scale_h = scale_h, p.scale_w = scale_w;
  require(p.K >= p.groups && p.K % p.groups == 0, op, ": expected groups to divide the ", p.K, " filters, but got ",
          p.groups);
  require(p.C == weight[1] * p.groups, op, ": expected the input to have ", weight[1] * p.groups, " channels, but got ",
          p.C);
  require(p.R > 0 && p.S > 0, op, ": expected a filter of at least 1x1, but got ", p.R, "x", p.S);
  const int64_t height = p.H * scale_h + p.pad_top + p.pad_bottom, width = p.W * scale_w + p.pad_left + p.pad_right;
  const int64_t reach_h = p.dilation_h * (p.R - 1) + 1, reach_w = p.dilation_w * (p.S - 1) + 1;
  require(p.H > 0 && p.W > 0 && height >= reach_h && width >= reach_w, op, ": expected the padded input, ", height, "x",
          width, ", to hold the dilated filter, ", reach_h, "x", reach_w);
  p.P = conv_output_extent(p.H * scale_h, p.pad_top, p.pad_bottom, p.R, p.stride_h, p.dilation_h);
  p.Q = conv_output_extent(p.W * scale_w, p.pad_left, p.pad_right, p.S, p.stride_w, p.dilation_w);
  return p;
}

Tensor walkable(const Tensor& t) {
  const TensorView view = view_of(t, DType::kFloat32);
  if (view.is_nhwc() || view.is_nchw()) return t;
  // clone keeps the order of the strides and closes the gaps; a broadcast or overlapping tensor becomes contiguous.
  Tensor copy = empty(sizes_of(t), dtype_of(t, "conv2d"), format_of(t), t);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), t.get(), 0));
  return copy;
}

}  // namespace fastconv::ops
