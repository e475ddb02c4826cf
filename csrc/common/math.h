// Scalar operations that the activations are written in. The CPU's SIMD types overload the same names, so that one
// functor serves one float on a GPU thread and a vector of sixteen on a CPU.
#pragma once

#include <cmath>

#include "host_device.h"

namespace fastconv {

// Comparisons give a mask (bool here); select(mask, a, b) takes a where the mask is set.
FC_HOST_DEVICE FC_INLINE float select(bool m, float a, float b) { return m ? a : b; }
FC_HOST_DEVICE FC_INLINE double select(bool m, double a, double b) { return m ? a : b; }

// min/max that keep NaN in their *first* argument, as torch's clamp and relu do.
FC_HOST_DEVICE FC_INLINE float max_nan(float v, float bound) { return v < bound ? bound : v; }
FC_HOST_DEVICE FC_INLINE double max_nan(double v, double bound) { return v < bound ? bound : v; }
FC_HOST_DEVICE FC_INLINE float min_nan(float v, float bound) { return v > bound ? bound : v; }
FC_HOST_DEVICE FC_INLINE double min_nan(double v, double bound) { return v > bound ? bound : v; }

FC_HOST_DEVICE FC_INLINE float vexp(float v) { return expf(v); }
FC_HOST_DEVICE FC_INLINE double vexp(double v) { return exp(v); }
FC_HOST_DEVICE FC_INLINE float vexpm1(float v) { return expm1f(v); }
FC_HOST_DEVICE FC_INLINE double vexpm1(double v) { return expm1(v); }
FC_HOST_DEVICE FC_INLINE float vtanh(float v) { return tanhf(v); }
FC_HOST_DEVICE FC_INLINE double vtanh(double v) { return tanh(v); }
FC_HOST_DEVICE FC_INLINE float verf(float v) { return erff(v); }
FC_HOST_DEVICE FC_INLINE double verf(double v) { return erf(v); }

}  // namespace fastconv
