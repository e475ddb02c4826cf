#include "describe.h"

#include "errors.h"

namespace fastconv::ops {

std::string describe(const ConvProblem& p) {
  std::string text =
      concat("input ", p.N, "x", p.C, "x", p.H, "x", p.W, ", filters ", p.K, "x", p.groups ? p.C / p.groups : 0, "x",
             p.R, "x", p.S, ", stride ", p.stride_h, "x", p.stride_w, ", padding ", p.pad_top, ",", p.pad_bottom, ",",
             p.pad_left, ",", p.pad_right, ", dilation ", p.dilation_h, "x", p.dilation_w, ", groups ", p.groups);
  if (p.scale_h > 1 || p.scale_w > 1) text += concat(", upsampled ", p.scale_h, "x", p.scale_w);
  return text;
}

std::string describe(const PoolProblem& p) {
  return concat("images ", p.N, "x", p.C, "x", p.H, "x", p.W, ", results ", p.P, "x", p.Q, ", window ", p.window_h, "x",
                p.window_w, ", stride ", p.stride_h, "x", p.stride_w);
}

std::string describe(const TensorView& v) {
  return concat("tensor ", v.size[0], "x", v.size[1], "x", v.size[2], "x", v.size[3]);
}

std::string describe(const GemmCall& c) { return concat("batch ", c.batch, ", M ", c.M, ", N ", c.N, ", K ", c.K); }

std::string describe(const SoftmaxCall& c) { return concat("extents ", c.outer, "x", c.axis, "x", c.inner); }

}  // namespace fastconv::ops
