// y = act(x), y = dy * act'(x), y = dy * act''(x) over tensors of any strides. Axes that lie behind one another in
// every operand are merged, so that dense tensors become one flat run; runs are cut into chunks that stay in L1.
//
//   axes (outer ... inner) -> rows -> units (a thread's share) -> chunks of kActivationChunk elements
#pragma once

#include "../cpu_kernels.h"
#include "loop_axes.h"
#include "runs.h"
#include "vector_math.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kActivationChunk = 512;  // elements; four buffers of it fit in L1
constexpr int64_t kChunksPerUnit = 8;

// The operands of the loops; the parameter is one too, with stride 0 along the axes it does not depend on.
enum { kOperandY, kOperandX, kOperandDy, kOperandParam };

struct ActivationLoops {
  LoopAxis axis[4];  // outermost first; the last one is the run
  int count = 0;
  int64_t period = 0;  // not 0: the parameter repeats along the run with this period
};

inline ActivationLoops activation_loops(const ActivationCall& call) {
  ActivationLoops loops;
  for (int d = 0; d < 4; ++d) {
    const int64_t dy = call.order > 0 ? call.dy.stride[d] : call.y.stride[d];
    const int64_t param = call.param_kind == ParamKind::kFull         ? call.full_param.stride[d]
                          : call.param_kind == ParamKind::kPerChannel ? (d == 1)
                                                                      : 0;
    loops.axis[d] = {call.y.size[d], {call.y.stride[d], call.x.stride[d], dy, param}};
  }
  loops.count = merge_axes(loops.axis, 4);
  // Few channels last: runs would be a few elements long. Merge the pixels in and repeat the parameters instead.
  if (call.param_kind == ParamKind::kPerChannel && loops.count > 1) {
    const LoopAxis &outer = loops.axis[loops.count - 2], &inner = loops.axis[loops.count - 1];
    if (inner.stride[kOperandParam] == 1 && inner.size < 64 && continues(outer, inner, kOperandParam)) {
      loops.period = inner.size;
      const int64_t size = outer.size * inner.size;
      loops.axis[--loops.count - 1] = inner;
      loops.axis[loops.count - 1].size = size;
    }
  }
  return loops;
}

template <class Acc>
using ActivationRow = void (*)(const Acc* x, const Acc* dy, const Acc* param, bool one_param, Acc* y, int64_t n);

template <class Acc, int kOrder, class F>
FC_INLINE Vec<Acc> activation_vector(Vec<Acc> x, Vec<Acc> dy, Vec<Acc> param) {
  if constexpr (kOrder == 0) return F::template apply<Vec<Acc>>(x, param);
  if constexpr (kOrder == 1) return dy * F::template grad<Vec<Acc>>(x, param);
  if constexpr (kOrder == 2) return dy * F::template grad2<Vec<Acc>>(x, param);
}

template <class Acc, int kOrder, class F>
void activation_row(const Acc* x, const Acc* dy, const Acc* param, bool one_param, Acc* y, int64_t n) {
  using V = Vec<Acc>;
  const V shared(param[0]);
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    const V p = one_param ? shared : V::load(param + i);
    activation_vector<Acc, kOrder, F>(V::load(x + i), kOrder ? V::load(dy + i) : shared, p).store(y + i);
  }
  if (i < n) {
    const V p = one_param ? shared : V::load_partial(param + i, n - i);
    const V g = kOrder ? V::load_partial(dy + i, n - i) : shared;
    activation_vector<Acc, kOrder, F>(V::load_partial(x + i, n - i), g, p).store_partial(y + i, n - i);
  }
}

template <class Acc>
ActivationRow<Acc> find_activation_row(Activation act, int order) {
  return visit_activation(act, [order](auto f) -> ActivationRow<Acc> {
    using F = decltype(f);
    return order == 0   ? &activation_row<Acc, 0, F>
           : order == 1 ? &activation_row<Acc, 1, F>
                        : &activation_row<Acc, 2, F>;
  });
}

template <class T>
void activation_typed(const ActivationCall& call) {
  using Acc = accumulate_t<T>;
  const ActivationLoops loops = activation_loops(call);
  const LoopAxis run = loops.axis[loops.count - 1];
  const ActivationRow<Acc> row = find_activation_row<Acc>(call.act, call.order);
  const Acc scalar_param = static_cast<Acc>(call.param);
  const bool full = call.param_kind == ParamKind::kFull, per_channel = call.param_kind == ParamKind::kPerChannel;
  const bool one_param = !full && (!per_channel || run.stride[kOperandParam] == 0);

  const int64_t chunk =
      loops.period ? kActivationChunk / loops.period * loops.period : kActivationChunk;  // starts at channel 0
  const int64_t unit = chunk * kChunksPerUnit, units_per_row = ceil_div(run.size, unit);
  int64_t rows = 1;
  for (int d = 0; d + 1 < loops.count; ++d) rows *= loops.axis[d].size;
  const int64_t grain = run.size < unit ? ceil_div(4 * unit, run.size) : 4;

  parallel_for(rows * units_per_row, grain, [&](int64_t begin, int64_t end) {
    Acc x_buffer[kActivationChunk], dy_buffer[kActivationChunk], y_buffer[kActivationChunk];
    Acc param_buffer[kActivationChunk];
    if (loops.period) {
      const Acc* params = static_cast<const Acc*>(call.channel_param);
      for (int64_t i = 0; i < chunk; ++i) param_buffer[i] = params[i % loops.period];
    }
    // An odometer over the outer axes: rows may be as short as one 7x7 plane, too short for divisions.
    int64_t index[4] = {}, offset[kMaxOperands] = {};
    int64_t rest = begin / units_per_row, part = begin % units_per_row;
    for (int d = loops.count - 2; d >= 0; --d) {
      index[d] = rest % loops.axis[d].size;
      rest /= loops.axis[d].size;
      for (int i = 0; i < kMaxOperands; ++i) offset[i] += index[d] * loops.axis[d].stride[i];
    }
    for (int64_t u = begin; u < end; ++u) {
      const int64_t stop = (part + 1) * unit < run.size ? (part + 1) * unit : run.size;
      for (int64_t at = part * unit; at < stop; at += chunk) {
        const int64_t n = stop - at < chunk ? stop - at : chunk;
        const auto position = [&](int operand) { return offset[operand] + at * run.stride[operand]; };
        const Acc* x = dense_run(call.x.as<const T>() + position(kOperandX), run.stride[kOperandX], n, x_buffer);
        const Acc* dy = x;
        if (call.order > 0)
          dy = dense_run(call.dy.as<const T>() + position(kOperandDy), run.stride[kOperandDy], n, dy_buffer);
        const Acc* param = &scalar_param;
        if (full) {
          param = dense_run(call.full_param.as<const T>() + position(kOperandParam), run.stride[kOperandParam], n,
                            param_buffer);
        } else if (per_channel) {
          param = loops.period ? param_buffer : static_cast<const Acc*>(call.channel_param) + position(kOperandParam);
        }
        T* y = call.y.as<T>() + position(kOperandY);
        if constexpr (sizeof(T) == sizeof(Acc)) {
          if (run.stride[kOperandY] == 1) {
            row(x, dy, param, one_param, y, n);
            continue;
          }
        }
        row(x, dy, param, one_param, y_buffer, n);
        store_run(y, run.stride[kOperandY], n, y_buffer);
      }
      if (++part < units_per_row) continue;
      part = 0;
      for (int d = loops.count - 2; d >= 0; --d) {
        const bool wraps = ++index[d] == loops.axis[d].size;
        for (int i = 0; i < kMaxOperands; ++i)
          offset[i] += loops.axis[d].stride[i] * (wraps ? 1 - loops.axis[d].size : 1);
        if (!wraps) break;
        index[d] = 0;
      }
    }
  });
}

inline void activation(const ActivationCall& call, const CallContext&) {
  if (call.y.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { activation_typed<typename decltype(tag)::type>(call); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
