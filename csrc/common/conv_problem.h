// The extents of one convolution, in the field's names. Upper case: extents; lower case: their indices.
//
//   y[n, k, p, q] = sum over c, r, s of  x[n, c, p * stride_h - pad_top + r * dilation_h,
//                                               q * stride_w - pad_left + s * dilation_w] * w[k, c, r, s]
//
// with c running over the C / groups channels of k's group. Padding on the bottom and on the right is implied by P and
// Q.
#pragma once

#include <cstdint>
#include "host_device.h"

namespace fastconv {

struct ConvProblem {
  int64_t N = 0, C = 0, H = 0, W = 0;  // input x: (N, C, H, W)
  int64_t K = 0, R = 0, S = 0;         // weight w: (K, C / groups, R, S)
  int64_t P = 0, Q = 0;                // output y: (N, K, P, Q)
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;
  // Nearest upsampling of x before the convolution (upsample_conv2d): H and W above are those of the *stored* x.
  int64_t scale_h = 1, scale_w = 1;

  FC_HOST_DEVICE int64_t channels_per_group() const { return C / groups; }
  FC_HOST_DEVICE int64_t filters_per_group() const { return K / groups; }
  FC_HOST_DEVICE int64_t gemm_k() const { return channels_per_group() * R * S; }
  FC_HOST_DEVICE bool is_depthwise() const { return groups == C && groups > 1; }
  FC_HOST_DEVICE bool has_padding() const { return pad_top | pad_left | pad_bottom | pad_right; }
};

// Extent of the convolution's output along one axis; 0 or less means that the filter does not fit.
constexpr int64_t conv_output_extent(int64_t in, int64_t pad_lo, int64_t pad_hi, int64_t filter, int64_t stride,
                                     int64_t dilation) {
  return (in + pad_lo + pad_hi - dilation * (filter - 1) - 1) / stride + 1;
}

}  // namespace fastconv
