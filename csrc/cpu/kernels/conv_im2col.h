// conv2d by the book: every window written out as a row of a matrix in the workspace (N * P * Q by R * S * C, the
// storage type), then one GEMM per group. Needs as much scratch as the matrix; kept as the plain form of the idea, and
// for measuring what the implicit form saves.
#pragma once

#include "conv_implicit_gemm.h"
#include "reused_workspace.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Rows of `matrix`: the windows of output row (n, p) of group g, reduction order (r, s, c), zeros for padding.
template <class T>
void write_windows(const Conv2dCall& call, int64_t g, int64_t n, int64_t p, T* matrix) {
  const ConvProblem& c = call.problem;
  const int64_t C = c.channels_per_group();
  const TensorView& x = call.x;
  for (int64_t q = 0; q < c.Q; ++q) {
    for (int64_t r = 0; r < c.R; ++r) {
      const int64_t h = p * c.stride_h - c.pad_top + r * c.dilation_h;
      for (int64_t s = 0; s < c.S; ++s, matrix += C) {
        const int64_t w = q * c.stride_w - c.pad_left + s * c.dilation_w;
        if (h < 0 || h >= c.H || w < 0 || w >= c.W) {
          __builtin_memset(matrix, 0, static_cast<size_t>(C) * sizeof(T));
          continue;
        }
        const T* src = x.as<const T>() + x.offset(n, g * C, h, w);
        if (x.stride[1] == 1) {
          __builtin_memcpy(matrix, src, static_cast<size_t>(C) * sizeof(T));
        } else {
          for (int64_t i = 0; i < C; ++i) matrix[i] = src[i * x.stride[1]];
        }
      }
    }
  }
}

inline void conv2d_im2col(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& c = call.problem;
  const int64_t K = c.filters_per_group(), depth = c.gemm_k(), pixels = c.P * c.Q;
  if (c.N * pixels * K == 0) return;
  const void* packed = conv2d_panels(call, context);
  int64_t* zero = allocate<int64_t>(context, 1);
  *zero = 0;
  ReusedWorkspace workspace(*context.workspace);
  CallContext group_context = context;
  group_context.workspace = &workspace;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    T* matrix = allocate<T>(context, c.N * pixels * depth);
    for (int64_t g = 0; g < c.groups; ++g) {
      parallel_for(c.N * c.P, 16384 / (c.Q * depth + 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          write_windows(call, g, row / c.P, row % c.P, matrix + row * c.Q * depth);
        }
      });
      ConvTask t;
      t.dtype = call.dtype;
      t.N = c.N;
      t.P = c.P;
      t.Q = c.Q;
      t.C = depth;
      t.K = K;
      t.dh = t.dw = zero;
      t.x = {matrix, call.dtype, {c.N, depth, c.P, c.Q}, {pixels * depth, 1, c.Q * depth, depth}};
      const auto of_group = [&](TensorView v) {
        if (v.present()) v.data = v.as<T>() + g * K * v.stride[1];
        v.size[1] = K;
        return v;
      };
      t.y = of_group(call.y);
      const auto channels = [&](const void* vector) -> const void* {
        return vector ? static_cast<const Acc*>(vector) + g * K : nullptr;
      };
      EpilogueArgs& e = t.epilogue;
      e = call.epilogue;
      e.bias = channels(e.bias);
      e.scale = channels(e.scale);
      e.shift = channels(e.shift);
      e.channel_param = channels(e.channel_param);
      e.residual = of_group(e.residual);
      e.full_param = of_group(e.full_param);
      t.packed = static_cast<const Acc*>(packed) + g * packed_elements<Acc>(K, depth);
      workspace.reuse();
      run_task_of<T>(t, group_context);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
