// Winograd's minimal filtering F(m x m, 3 x 3), m = 2 and 4, in one dimension: what CPU and GPU kernels share.
//
//   U = G w G'    filters, in float64         V = B' x B    tiles of x, (m + 2)^2, m apart
//   M = U V       summed over channels        y = A' M A    tiles of outputs, m x m
//
// In two dimensions a transform is applied to the columns, then to the rows. The matrices follow from the points of
// interpolation by the Lagrange construction; source of the scheme: Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks" (2016).
#pragma once

#include "host_device.h"

namespace fastconv {

template <int kOutputs>
struct WinogradTransform;

#define FC_WINOGRAD  \
  template <class V> \
  FC_HOST_DEVICE static FC_INLINE void

// Points 0, 1, -1 and infinity.
template <>
struct WinogradTransform<2> {
  FC_WINOGRAD input(const V (&x)[4], V (&out)[4]) {
    out[0] = x[0] - x[2];
    out[1] = x[2] + x[1];
    out[2] = x[2] - x[1];
    out[3] = x[3] - x[1];
  }
  FC_WINOGRAD filter(const V (&w)[3], V (&out)[4]) {
    const V even = V(0.5) * (w[0] + w[2]), odd = V(0.5) * w[1];
    out[0] = w[0], out[1] = even + odd, out[2] = even - odd, out[3] = w[2];
  }
  FC_WINOGRAD output(const V (&m)[4], V (&out)[2]) {
    out[0] = m[0] + m[1] + m[2];
    out[1] = m[1] - m[2] + m[3];
  }
};

// Points 0, 1, -1, 1/2, -2 and infinity: every factor of the transforms of x and y is a short sum of powers of two,
// exact in float32, and the largest is 8.
template <>
struct WinogradTransform<4> {
  FC_WINOGRAD input(const V (&x)[6], V (&out)[6]) {
    const V odd = x[3] - x[1], even = x[4] - x[2];
    out[0] = x[0] + V(1.5) * odd - V(2) * x[2] + x[4];
    out[1] = x[4] - x[1] + V(0.5) * x[2] + V(2.5) * x[3];
    out[2] = x[4] + x[1] - V(2.5) * x[2] + V(0.5) * x[3];
    out[3] = even + V(2) * odd;
    out[4] = even - V(0.5) * odd;
    out[5] = x[1] + V(1.5) * even - V(2) * x[3] + x[5];
  }
  FC_WINOGRAD filter(const V (&w)[3], V (&out)[6]) {
    out[0] = w[0];
    const V third(1.0 / 3), fifteenth(1.0 / 15);
    out[1] = (w[0] + w[1] + w[2]) * third;
    out[2] = (w[1] - w[0] - w[2]) * third;
    out[3] = (V(-16) * w[0] - V(8) * w[1] - V(4) * w[2]) * fifteenth;
    out[4] = (w[0] - V(2) * w[1] + V(4) * w[2]) * fifteenth;
    out[5] = w[2];
  }
  FC_WINOGRAD output(const V (&m)[6], V (&out)[4]) {
    const V sum = m[1] + m[2], difference = m[1] - m[2];
    out[0] = m[0] + sum + m[3] + m[4];
    out[1] = difference + V(0.5) * m[3] - V(2) * m[4];
    out[2] = sum + V(0.25) * m[3] + V(4) * m[4];
    out[3] = difference + V(0.125) * m[3] - V(8) * m[4] + m[5];
  }
};

#undef FC_WINOGRAD

}  // namespace fastconv
