// What happens to an accumulator before it is stored, on every backend:
//
//   y = act(scale[k] * (acc + bias[k]) + shift[k] + residual)
//
// computed in the accumulate type, before the narrowing cast. k is the output channel (the column, in a GEMM).
#pragma once

#include "activations.h"
#include "tensor_view.h"

namespace fastconv {

// Where the activation's parameter comes from.
enum class ParamKind : int8_t { kScalar, kPerChannel, kFull };

// The run-time description. Vectors have K elements of the *accumulate* type and are null when absent.
struct EpilogueArgs {
  const void* bias = nullptr;
  const void* scale = nullptr;
  const void* shift = nullptr;
  TensorView residual;  // of y's extents and dtype; any strides
  Activation act = Activation::kIdentity;
  ParamKind param_kind = ParamKind::kScalar;
  double param = 0.0;                   // kScalar (a one-element PReLU weight too)
  const void* channel_param = nullptr;  // kPerChannel: K elements of the accumulate type
  TensorView full_param;                // kFull: (1 or N, K, P, Q) of y's dtype; stride[0] = 0 when shared by the batch

  FC_HOST_DEVICE bool is_identity() const {
    return !bias && !scale && !shift && !residual.present() && act == Activation::kIdentity;
  }
};

// The epilogue up to the activation, and the activation's parameter, of one element. T is the storage type of y.
template <class T>
FC_HOST_DEVICE FC_INLINE accumulate_t<T> epilogue_linear(const EpilogueArgs& e, accumulate_t<T> acc, int64_t n,
                                                         int64_t k, int64_t p, int64_t q) {
  using Acc = accumulate_t<T>;
  if (e.bias) acc += static_cast<const Acc*>(e.bias)[k];
  if (e.scale) acc *= static_cast<const Acc*>(e.scale)[k];
  if (e.shift) acc += static_cast<const Acc*>(e.shift)[k];
  if (e.residual.present()) acc += to_accumulate(e.residual.as<const T>()[e.residual.offset(n, k, p, q)]);
  return acc;
}
template <class T>
FC_HOST_DEVICE FC_INLINE accumulate_t<T> epilogue_param(const EpilogueArgs& e, int64_t n, int64_t k, int64_t p,
                                                        int64_t q) {
  using Acc = accumulate_t<T>;
  if (e.param_kind == ParamKind::kPerChannel) return static_cast<const Acc*>(e.channel_param)[k];
  if (e.param_kind == ParamKind::kFull) {
    return to_accumulate(e.full_param.as<const T>()[e.full_param.offset(n, k, p, q)]);
  }
  return static_cast<Acc>(e.param);
}

// One accumulator through the epilogue: what SIMT kernels call.
template <class T>
FC_HOST_DEVICE FC_INLINE T apply_epilogue(const EpilogueArgs& e, accumulate_t<T> acc, int64_t n, int64_t k, int64_t p,
                                          int64_t q) {
  using Acc = accumulate_t<T>;
  const Acc v = epilogue_linear<T>(e, acc, n, k, p, q), param = epilogue_param<T>(e, n, k, p, q);
  return from_accumulate<T>(
      visit_activation(e.act, [&](auto f) { return decltype(f)::template apply<Acc>(v, param); }));
}

}  // namespace fastconv
