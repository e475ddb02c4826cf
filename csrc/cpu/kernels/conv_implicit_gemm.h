// conv2d as an implicit GEMM: the taps of the filter are offsets into input rows, so no im2col matrix exists. Serves
// every dtype, layout, stride, dilation, padding and group count; 1x1 (`pointwise`) is the case of one tap, where x is
// read in place and its pixels form one long row.
#pragma once

#include "conv_depthwise.h"
#include "conv_engine.h"
#include "conv_grouped.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Filters of torch's layout (K, C / groups, R, S), any strides.
inline FilterView filter_view(const ConvProblem& p, const TensorView& w) {
  return {w.data, w.stride[0], w.stride[1], p.R, p.S, w.stride[2], w.stride[3], p.filters_per_group() * w.stride[0]};
}

inline size_t conv2d_panels_bytes(const ConvProblem& p, DType dtype) {
  const int64_t K = p.filters_per_group();
  return static_cast<size_t>(p.groups) *
         (dtype == DType::kFloat64 ? static_cast<size_t>(packed_elements<double>(K, p.gemm_k())) * sizeof(double)
                                   : static_cast<size_t>(packed_elements<float>(K, p.gemm_k())) * sizeof(float));
}

inline void conv2d_pack_panels(const ConvProblem& p, const TensorView& w, void* packed) {
  visit_dtype(w.dtype, [&](auto tag) {
    pack_filter<typename decltype(tag)::type>(filter_view(p, w), p.groups, p.filters_per_group(),
                                              p.channels_per_group(), packed);
  });
}

// What modules and the cache keep: the depthwise and the grouped kernels have formats of their own.
inline size_t conv2d_packed_bytes(const ConvProblem& p, DType dtype) {
  if (depthwise_format(p, dtype)) return depthwise_packed_bytes(p, dtype);
  if (grouped_format(p, dtype)) return conv2d_grouped_packed_bytes(p, dtype);
  return conv2d_panels_bytes(p, dtype);
}

inline void conv2d_pack(const ConvProblem& p, const TensorView& w, void* packed) {
  if (depthwise_format(p, w.dtype)) return depthwise_pack(p, w, packed);
  if (grouped_format(p, w.dtype)) return conv2d_grouped_pack(p, w, packed);
  conv2d_pack_panels(p, w, packed);
}

// The engine's filters: those of the call, or packed now into the workspace.
inline const void* conv2d_panels(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const bool panels =
      call.packed_format == PackedFormat::kPanels && !depthwise_format(p, call.dtype) && !grouped_format(p, call.dtype);
  if (call.packed_w && panels) return call.packed_w;
  void* packed = context.workspace->allocate(conv2d_panels_bytes(p, call.dtype) + 64);
  conv2d_pack_panels(p, call.w, packed);
  return packed;
}

// The task of a forward convolution, with filters packed into the workspace unless the call brings them.
inline ConvTask conv2d_task(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  ConvTask t;
  t.dtype = call.dtype;
  t.N = p.N;
  t.P = p.P;
  t.Q = p.Q;
  t.groups = p.groups;
  t.C = p.channels_per_group();
  t.K = p.filters_per_group();
  t.R = p.R;
  t.S = p.S;
  int64_t* taps = allocate<int64_t>(context, p.R + p.S);
  for (int64_t r = 0; r < p.R; ++r) taps[r] = r * p.dilation_h - p.pad_top;
  for (int64_t s = 0; s < p.S; ++s) taps[p.R + s] = s * p.dilation_w - p.pad_left;
  t.dh = taps;
  t.dw = taps + p.R;
  t.step_h = p.stride_h;
  t.step_w = p.stride_w;
  t.scale_h = p.scale_h;
  t.scale_w = p.scale_w;
  t.x = call.x;
  t.y = call.y;
  t.epilogue = call.epilogue;
  if (p.N * p.P * p.Q > 0) t.packed = conv2d_panels(call, context);
  return t;
}

inline void conv2d_implicit_gemm(const Conv2dCall& call, const CallContext& context) {
  run_task(conv2d_task(call, context), context);
}

inline void conv2d_pointwise(const Conv2dCall& call, const CallContext& context) {
  run_task(conv2d_task(call, context), context);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
