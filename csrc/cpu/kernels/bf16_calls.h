// conv2d and gemm calls as tasks of the bfloat16 engine, and the functions that an instruction set's table takes over.
#pragma once

#include "../cpu_kernels.h"
#include "bf16_depthwise.h"
#include "bf16_engine.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

inline Filters filters_of(const TensorView& w, int64_t groups) {
  return {
      w.as<const bfloat16_t>(), w.size[0] / groups * w.stride[0], w.stride[0], w.stride[1], w.stride[2], w.stride[3]};
}

inline size_t conv2d_packed_bytes(const ConvProblem& p) {
  return static_cast<size_t>(p.groups * group_elements(p.filters_per_group(), p.channels_per_group(), p.R * p.S)) *
         sizeof(bfloat16_t);
}

inline void conv2d_pack(const ConvProblem& p, const TensorView& w, void* packed) {
  pack(filters_of(w, p.groups), p.groups, p.filters_per_group(), p.channels_per_group(), p.R, p.S, packed);
}

// conv2d and, with a scale, upsample_conv2d.
inline void conv2d(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  Task t;
  t.N = p.N, t.P = p.P, t.Q = p.Q;
  t.groups = p.groups, t.C = p.channels_per_group(), t.K = p.filters_per_group();
  t.R = p.R, t.S = p.S;
  t.stride_h = p.stride_h, t.stride_w = p.stride_w;
  t.dilation_h = p.dilation_h, t.dilation_w = p.dilation_w;
  t.pad_top = p.pad_top, t.pad_left = p.pad_left;
  t.scale_h = p.scale_h, t.scale_w = p.scale_w;
  t.x = call.x, t.y = call.y;
  t.epilogue = call.epilogue;
  t.packed = call.packed_format == PackedFormat::kBf16Pairs ? call.packed_w : nullptr;
  if (!t.packed) {
    void* packed = context.workspace->allocate(conv2d_packed_bytes(p));
    conv2d_pack(p, call.w, packed);
    t.packed = packed;
  }
  run_task(t, context);
}

inline size_t gemm_packed_bytes(int64_t K, int64_t N) {
  return static_cast<size_t>(group_elements(N, K, 1)) * sizeof(bfloat16_t);
}

inline void gemm_pack(const GemmCall& call, void* packed) {
  const Filters columns{static_cast<const bfloat16_t*>(call.b), 0, call.b_stride_n, call.b_stride_k, 0, 0};
  pack(columns, 1, call.N, call.K, 1, 1, packed);
}

// Columns of B are filters, rows of A pixels: one below the other, so that rows of any length make blocks of a band.
inline void gemm(const GemmCall& call, const CallContext& context) {
  void* packed = call.packed_b ? nullptr : context.workspace->allocate(gemm_packed_bytes(call.K, call.N));
  const auto part = [&](const TensorView& v, int64_t batch) {
    TensorView at = v;
    if (!at.present()) return at;
    at.data = at.as<bfloat16_t>() + (v.size[0] > 1 ? batch * v.stride[0] : 0);
    at.size[0] = 1;
    return at;
  };
  for (int64_t batch = 0; batch < call.batch; ++batch) {
    Task t;
    t.N = 1, t.P = call.M, t.Q = 1, t.C = call.K, t.K = call.N;
    auto* a = static_cast<bfloat16_t*>(const_cast<void*>(call.a)) + batch * call.a_stride_batch;
    auto* d = static_cast<bfloat16_t*>(call.d) + batch * call.d_stride_batch;
    t.x = {a, DType::kBFloat16, {1, call.K, call.M, 1}, {0, call.a_stride_k, call.a_stride_m, call.a_stride_m}};
    t.y = {d, DType::kBFloat16, {1, call.N, call.M, 1}, {0, call.d_stride_n, call.d_stride_m, call.d_stride_m}};
    t.epilogue = call.epilogue;
    t.epilogue.residual = part(call.epilogue.residual, batch);
    t.epilogue.full_param = part(call.epilogue.full_param, batch);
    t.packed = call.packed_b;
    if (packed) {
      GemmCall one = call;
      one.b = static_cast<const bfloat16_t*>(call.b) + batch * call.b_stride_batch;
      gemm_pack(one, packed);
      t.packed = packed;
    }
    run_task(t, context);
  }
}

constexpr Bf16Kernels make_table() {
  return {conv2d,    conv2d_packed_bytes, conv2d_pack,     gemm, gemm_packed_bytes,
          gemm_pack, serves_depthwise,    conv2d_depthwise};
}

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
