// Every activation once: value, first and second derivative with respect to its input. `a` is the activation's
// parameter (negative slope of leaky_relu and prelu, alpha of elu), ignored by the others. V is float, double, or a
// SIMD vector of either; see math.h for the operations V must have. To add one: a functor, an enumerator, a row in
// visit_activation, and a row in fastconv/functional/arguments.py (a test compares names and values).
#pragma once

#include <cstdint>
#include "math.h"

namespace fastconv {

enum class Activation : int8_t {
  kIdentity,
  kRelu,
  kRelu6,
  kLeakyRelu,
  kPrelu,
  kSigmoid,
  kTanh,
  kSilu,
  kHardswish,
  kHardsigmoid,
  kGelu,
  kElu,
};
constexpr int kActivationCount = 12;

#define FC_ACT       \
  template <class V> \
  FC_HOST_DEVICE static FC_INLINE V

namespace activations {

struct Identity {
  static constexpr const char* kName = "identity";
  FC_ACT apply(V v, V) { return v; }
  FC_ACT grad(V, V) { return V(1); }
  FC_ACT grad2(V, V) { return V(0); }
};

struct Relu {
  static constexpr const char* kName = "relu";
  FC_ACT apply(V v, V) { return max_nan(v, V(0)); }
  FC_ACT grad(V v, V) { return select(v <= V(0), V(0), V(1)); }
  FC_ACT grad2(V, V) { return V(0); }
};

struct Relu6 {
  static constexpr const char* kName = "relu6";
  FC_ACT apply(V v, V) { return min_nan(max_nan(v, V(0)), V(6)); }
  FC_ACT grad(V v, V) { return select(v <= V(0), V(0), select(v >= V(6), V(0), V(1))); }
  FC_ACT grad2(V, V) { return V(0); }
};

struct LeakyRelu {
  static constexpr const char* kName = "leaky_relu";
  FC_ACT apply(V v, V a) { return select(v > V(0), v, v * a); }
  FC_ACT grad(V v, V a) { return select(v > V(0), V(1), a); }
  FC_ACT grad2(V, V) { return V(0); }
};

struct Prelu : LeakyRelu {
  static constexpr const char* kName = "prelu";
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  FC_ACT apply(V v, V) { return V(1) / (V(1) + vexp(V(0) - v)); }
  FC_ACT grad(V v, V a) {
    const V s = apply(v, a);
    return s * (V(1) - s);
  }
  FC_ACT grad2(V v, V a) {
    const V s = apply(v, a);
    return s * (V(1) - s) * (V(1) - s - s);
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  FC_ACT apply(V v, V) { return vtanh(v); }
  FC_ACT grad(V v, V) {
    const V t = vtanh(v);
    return V(1) - t * t;
  }
  FC_ACT grad2(V v, V) {
    const V t = vtanh(v);
    return V(-2) * t * (V(1) - t * t);
  }
};

struct Silu {
  static constexpr const char* kName = "silu";
  FC_ACT apply(V v, V) { return v / (V(1) + vexp(V(0) - v)); }
  FC_ACT grad(V v, V a) {
    const V s = Sigmoid::apply(v, a);
    return s * (V(1) + v * (V(1) - s));
  }
  FC_ACT grad2(V v, V a) {
    const V s = Sigmoid::apply(v, a);
    return s * (V(1) - s) * (V(2) + v * (V(1) - s - s));
  }
};

struct Hardswish {
  static constexpr const char* kName = "hardswish";
  FC_ACT apply(V v, V) { return v * min_nan(max_nan(v + V(3), V(0)), V(6)) / V(6); }
  FC_ACT grad(V v, V) { return select(v <= V(-3), V(0), select(v >= V(3), V(1), v / V(3) + V(0.5))); }
  FC_ACT grad2(V v, V) { return select(v <= V(-3), V(0), select(v >= V(3), V(0), V(1) / V(3))); }
};

struct Hardsigmoid {
  static constexpr const char* kName = "hardsigmoid";
  FC_ACT apply(V v, V) { return min_nan(max_nan(v + V(3), V(0)), V(6)) / V(6); }
  FC_ACT grad(V v, V) { return select(v <= V(-3), V(0), select(v >= V(3), V(0), V(1) / V(6))); }
  FC_ACT grad2(V, V) { return V(0); }
};

struct Gelu {  // the erf form
  static constexpr const char* kName = "gelu";
  FC_ACT cdf(V v) { return V(0.5) * (V(1) + verf(v * V(0.70710678118654752440))); }
  FC_ACT pdf(V v) { return V(0.39894228040143267794) * vexp(V(-0.5) * v * v); }
  FC_ACT apply(V v, V) { return v * cdf(v); }
  FC_ACT grad(V v, V) { return cdf(v) + v * pdf(v); }
  FC_ACT grad2(V v, V) { return pdf(v) * (V(2) - v * v); }
};

struct Elu {
  static constexpr const char* kName = "elu";
  FC_ACT apply(V v, V a) { return select(v > V(0), v, a * vexpm1(min_nan(v, V(0)))); }
  FC_ACT grad(V v, V a) { return select(v > V(0), V(1), a * vexp(min_nan(v, V(0)))); }
  FC_ACT grad2(V v, V a) { return select(v > V(0), V(0), a * vexp(min_nan(v, V(0)))); }
};

}  // namespace activations
#undef FC_ACT

// Calls f(Functor{}) for the run-time `act`.
template <class F>
FC_HOST_DEVICE FC_INLINE auto visit_activation(Activation act, F&& f) {
  using namespace activations;
  switch (act) {
    case Activation::kRelu:
      return f(Relu{});
    case Activation::kRelu6:
      return f(Relu6{});
    case Activation::kLeakyRelu:
      return f(LeakyRelu{});
    case Activation::kPrelu:
      return f(Prelu{});
    case Activation::kSigmoid:
      return f(Sigmoid{});
    case Activation::kTanh:
      return f(Tanh{});
    case Activation::kSilu:
      return f(Silu{});
    case Activation::kHardswish:
      return f(Hardswish{});
    case Activation::kHardsigmoid:
      return f(Hardsigmoid{});
    case Activation::kGelu:
      return f(Gelu{});
    case Activation::kElu:
      return f(Elu{});
    default:
      return f(Identity{});
  }
}

inline const char* activation_name(Activation act) {
  return visit_activation(act, [](auto f) { return decltype(f)::kName; });
}

}  // namespace fastconv
