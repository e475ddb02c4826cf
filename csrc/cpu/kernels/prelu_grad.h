// The gradient of PReLU's parameter: the sum of dy * x over the elements with x <= 0 that share the parameter, that is
// all of them, those of a channel, or those of one position (c, h, w) in every sample.
#pragma once

#include "channel_reduction.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class V>
FC_INLINE V prelu_param_term(V x, V dy) {
  return select(x > V(0), V(0), x * dy);  // NaN stays NaN
}

// dparam[c, h, w] = sum over n. Positions in the lanes; n in blocks of kReductionRun in Acc, then float64.
template <class T>
void prelu_position_grad(const PreluParamGradCall& call) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  constexpr int64_t kChunk = 256;
  LoopAxis axis[3];
  for (int d = 1; d < 4; ++d)
    axis[d - 1] = {call.x.size[d], {call.x.stride[d], call.dy.stride[d], call.dparam.stride[d], 0}};
  const int count = merge_axes(axis, 3);
  const LoopAxis run = axis[count - 1];
  const int64_t N = call.x.size[0], chunks = ceil_div(run.size, kChunk);
  int64_t rows = 1;
  for (int d = 0; d + 1 < count; ++d) rows *= axis[d].size;
  parallel_for(rows * chunks, ceil_div(16384, kChunk * N), [&](int64_t begin, int64_t end) {
    Acc x_buffer[kChunk], dy_buffer[kChunk], sum[kChunk];
    double total[kChunk];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t at = task % chunks * kChunk, n = run.size - at < kChunk ? run.size - at : kChunk;
      int64_t offset[3], rest = task / chunks;
      for (int i = 0; i < 3; ++i) offset[i] = at * run.stride[i];
      for (int d = count - 2; d >= 0; --d) {
        for (int i = 0; i < 3; ++i) offset[i] += rest % axis[d].size * axis[d].stride[i];
        rest /= axis[d].size;
      }
      for (int64_t i = 0; i < n; ++i) total[i] = 0;
      for (int64_t s0 = 0; s0 < N; s0 += kReductionRun) {
        for (int64_t i = 0; i < n; ++i) sum[i] = 0;
        for (int64_t s = s0; s < N && s < s0 + kReductionRun; ++s) {
          const T* x = call.x.as<const T>() + offset[0] + s * call.x.stride[0];
          const T* dy = call.dy.as<const T>() + offset[1] + s * call.dy.stride[0];
          const Acc* rx = dense_run(x, run.stride[0], n, x_buffer);
          const Acc* rdy = dense_run(dy, run.stride[1], n, dy_buffer);
          int64_t i = 0;
          for (; i + V::kLanes <= n; i += V::kLanes)
            (V::load(sum + i) + prelu_param_term(V::load(rx + i), V::load(rdy + i))).store(sum + i);
          for (; i < n; ++i) sum[i] += rx[i] > 0 ? Acc(0) : rx[i] * rdy[i];
        }
        for (int64_t i = 0; i < n; ++i) total[i] += sum[i];
      }
      T* out = call.dparam.as<T>() + offset[2];
      for (int64_t i = 0; i < n; ++i) out[i * run.stride[2]] = from_accumulate<T>(static_cast<Acc>(total[i]));
    }
  });
}

inline void prelu_param_grad(const PreluParamGradCall& call, const CallContext& context) {
  if (call.dparam.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    using V = Vec<Acc>;
    T* out = call.dparam.as<T>();
    if (call.x.numel() == 0) {
      const TensorView& d = call.dparam;
      for (int64_t n = 0; n < d.size[0]; ++n)
        for (int64_t c = 0; c < d.size[1]; ++c)
          for (int64_t h = 0; h < d.size[2]; ++h)
            for (int64_t w = 0; w < d.size[3]; ++w) out[d.offset(n, c, h, w)] = from_accumulate<T>(0);
      return;
    }
    if (call.param_kind == ParamKind::kFull) return prelu_position_grad<T>(call);
    const int64_t C = call.x.size[1];
    double* sums = static_cast<double*>(context.workspace->allocate(static_cast<size_t>(C) * sizeof(double)));
    reduce_to_channels<T>(call.x, call.dy, *context.workspace, [](V x, V dy) { return prelu_param_term(x, dy); }, sums);
    if (call.param_kind == ParamKind::kScalar) {
      for (int64_t c = 1; c < C; ++c) sums[0] += sums[c];
      out[0] = from_accumulate<T>(static_cast<Acc>(sums[0]));
    } else {
      // dparam holds C elements: a vector, laid along the channel axis of the view.
      const int64_t stride = call.dparam.size[1] == C ? call.dparam.stride[1] : 1;
      for (int64_t c = 0; c < C; ++c) out[c * stride] = from_accumulate<T>(static_cast<Acc>(sums[c]));
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
