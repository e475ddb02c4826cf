// Shapes and geometry of the convolutions, checked once for all operations that share them.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

struct ConvGeometry {
  const Ints& stride;    // two values
  const Ints& padding;   // four: top, bottom, left, right
  const Ints& dilation;  // two
  int64_t groups;
};

// The problem of conv2d on an input of `input` = (N, C, H, W) and a weight of `weight` = (K, C / groups, R, S), with
// its output extents. scale_h and scale_w: upsample_conv2d. Throws std::invalid_argument when anything does not fit.
ConvProblem make_problem(const Ints& input, const Ints& weight, const ConvGeometry& geometry, const char* op,
                         int64_t scale_h = 1, int64_t scale_w = 1);

// Throws unless `values` are `count` integers in [least, 2^31).
void require_ints(const Ints& values, size_t count, int64_t least, const char* op, const char* name);

Ints sizes_of(const Tensor& t);

// `t` itself if a kernel can walk it (dense in the NCHW or NHWC order, gaps between pixels or rows allowed), else a
// copy.
Tensor walkable(const Tensor& t);

}  // namespace fastconv::ops
