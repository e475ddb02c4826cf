// exp, expm1, tanh and erf on vectors: the transcendental half of common/activations.h, found there by argument-
// dependent lookup. float: argument reduction and minimax polynomials (fitted for this file), at most 1.7 ulp off
// (tanh 2.6) over the whole range: denormals, infinities, -0; NaN stays NaN. double: libm, lane by lane (it serves
// gradient checks).
#pragma once

#include <cmath>

namespace fastconv::cpu::FASTCONV_ISA {
namespace vector_math {

// x = n * ln 2 + r with |r| <= ln(2) / 2; ln 2 is split so that n * kLn2High is exact without FMA too.
constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

struct Reduced {
  VecF n, r;
};

FC_INLINE Reduced reduce(VecF x) {
  const VecF n = round_even(x * VecF(kLog2E));
  return {n, fma(n, VecF(-kLn2Low), fma(n, VecF(-kLn2High), x))};
}

// exp(r) - 1 for |r| <= ln(2) / 2; relative error 3e-9.
FC_INLINE VecF expm1_reduced(VecF r) {
  VecF p = fma(VecF(1.3950490759e-3f), r, VecF(8.3688892745e-3f));
  p = fma(p, r, VecF(4.1666205810e-2f));
  p = fma(p, r, VecF(1.6666518841e-1f));
  p = fma(p, r, VecF(5.0000000952e-1f));
  return fma(r * r, p, r);
}

template <class F>
FC_INLINE VecD by_lane(VecD v, F f) {
  double lanes[VecD::kLanes];
  v.store(lanes);
  for (int i = 0; i < VecD::kLanes; ++i) lanes[i] = f(lanes[i]);
  return VecD::load(lanes);
}

}  // namespace vector_math

FC_INLINE VecF vexp(VecF x) {
  // Beyond the bounds the result is 0 or infinity, which the scaling gives by itself.
  const auto [n, r] = vector_math::reduce(min_nan(max_nan(x, VecF(-104.0f)), VecF(89.0f)));
  return scale_by_power_of_two(VecF(1.0f) + vector_math::expm1_reduced(r), n);
}

FC_INLINE VecF vexpm1(VecF x) {
  const auto [n, r] = vector_math::reduce(min_nan(max_nan(x, VecF(-104.0f)), VecF(89.0f)));
  // 2^n * expm1(r) + (2^n - 1), halved inside because 2^128 is not a float.
  const VecF half_scale = scale_by_power_of_two(VecF(1.0f), n - VecF(1.0f));
  const VecF half = fma(half_scale, vector_math::expm1_reduced(r), half_scale - VecF(0.5f));
  return select(abs(x) < VecF(1e-8f), x, half + half);  // keeps -0 and every bit of a denormal
}

FC_INLINE VecF vtanh(VecF x) {
  const VecF magnitude = min_nan(abs(x), VecF(10.0f));  // tanh(10) rounds to 1
  const VecF m = vexpm1(magnitude + magnitude);
  const VecF t = m / (m + VecF(2.0f));
  return select(abs(x) < VecF(1e-8f), x, select(x < VecF(0.0f), VecF(0.0f) - t, t));
}

FC_INLINE VecF verf(VecF x) {
  // |x| < 1: x + x * P(x^2).
  const VecF u = x * x;
  VecF near = fma(VecF(7.8891228921e-5f), u, VecF(-8.0208422784e-4f));
  near = fma(near, u, VecF(5.1895354505e-3f));
  near = fma(near, u, VecF(-2.6854444649e-2f));
  near = fma(near, u, VecF(1.1283600178e-1f));
  near = fma(near, u, VecF(-3.7612627136e-1f));
  near = fma(near, u, VecF(1.2837916591e-1f));
  near = fma(x, near, x);
  // Else 1 - exp(-G(|x|)) with G = -log(erfc); erf(3.95) rounds to 1.
  const VecF t = min_nan(abs(x), VecF(3.95f));
  VecF g = fma(VecF(-1.8569439932e-4f), t, VecF(2.9408377901e-3f));
  g = fma(g, t, VecF(-2.1810443980e-2f));
  g = fma(g, t, VecF(1.0304851261e-1f));
  g = fma(g, t, VecF(6.3821233198e-1f));
  g = fma(g, t, VecF(1.1270483884f));
  g = fma(g, t, VecF(3.5158339666e-4f));
  const VecF far = VecF(1.0f) - vexp(VecF(0.0f) - g);
  return select(abs(x) < VecF(1.0f), near, select(x < VecF(0.0f), VecF(0.0f) - far, far));
}

FC_INLINE VecD vexp(VecD x) {
  return vector_math::by_lane(x, [](double v) { return ::exp(v); });
}
FC_INLINE VecD vexpm1(VecD x) {
  return vector_math::by_lane(x, [](double v) { return ::expm1(v); });
}
FC_INLINE VecD vtanh(VecD x) {
  return vector_math::by_lane(x, [](double v) { return ::tanh(v); });
}
FC_INLINE VecD verf(VecD x) {
  return vector_math::by_lane(x, [](double v) { return ::erf(v); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
