// Convolution and max pooling without the tensor between: a stem's largest. A thread takes rows of y, band by band; the
// convolution's rows under a band come from the engine into a ring, those that two bands share once.
//
//   x --engine--> ring of convolved rows [row][column][channel], y's type, so that sums round as they would in memory
//     --windows, channel lanes--> y
#pragma once

#include "conv_implicit_gemm.h"
#include "pooling_windows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace pooled_conv {

// Of a thread: convolved rows, beside the engine's own band.
constexpr int64_t kRingBytes = 256 << 10;

template <class T>
struct PooledPlan {
  using Acc = accumulate_t<T>;
  const PoolProblem& pool;
  pooling::Axis vertical, horizontal;
  int64_t band, ring, row;  // rows of y in a band; convolved rows held; elements of one
  EnginePlan<T> engine;
  TensorView y;
  int64_t slots;

  PooledPlan(const ConvMaxPoolCall& call, const CallContext& context)
      : pool(call.pool),
        vertical(pooling::vertical_axis(call.pool)),
        horizontal(pooling::horizontal_axis(call.pool)),
        band(choose_band(call)),
        ring(rows_under(call.pool, band)),
        row(pool.W * pool.C),
        engine(task(call, context), ring, context),
        y(call.y) {
    const ConvProblem& c = call.conv.problem;
    const int64_t work = c.N * c.P * c.Q * c.K * c.gemm_k();
    slots = larger(1, smaller(smaller(thread_pool().threads(), pool.N * pool.P), work / kThreadWork));
  }

  int64_t ring_bytes() const { return work::round_up(ring * row * static_cast<int64_t>(sizeof(T)), 64); }
  int64_t pooled_bytes() const { return work::round_up(pool.Q * pool.C * static_cast<int64_t>(sizeof(Acc)), 64); }

  // Convolved rows under `rows` of y.
  static int64_t rows_under(const PoolProblem& c, int64_t rows) {
    return smaller(c.H, (rows - 1) * c.stride_h + (c.window_h - 1) * c.dilation_h + 1);
  }

 private:
  static int64_t choose_band(const ConvMaxPoolCall& call) {
    const PoolProblem& c = call.pool;
    const int64_t bytes = c.W * c.C * static_cast<int64_t>(sizeof(T)),
                  share = ceil_div(c.N * c.P, thread_pool().threads());
    int64_t rows = 1;
    while (rows < smaller(c.P, share) && rows_under(c, rows + 1) * bytes <= kRingBytes) ++rows;
    return rows;
  }

  ConvTask task(const ConvMaxPoolCall& call, const CallContext& context) const {
    Conv2dCall conv;
    conv.problem = call.conv.problem;
    conv.dtype = call.dtype;
    conv.x = call.x;
    conv.w = call.conv.w;
    conv.packed_w = call.conv.packed_w;
    conv.epilogue = call.conv.epilogue;
    conv.y = {nullptr, call.dtype, {pool.N, pool.C, pool.H, pool.W}, {0, 1, row, pool.C}};
    return conv2d_task(conv, context);
  }
};

template <class T>
class PooledWorker {
 public:
  using Plan = PooledPlan<T>;
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;

  static int64_t memory(const Plan& plan) {
    return plan.ring_bytes() + plan.pooled_bytes() + EngineWorker<T>::memory(plan.engine);
  }

  PooledWorker(const Plan& plan, const pooling::Taps* taps, char* memory)
      : plan_(plan),
        taps_(taps),
        ring_(reinterpret_cast<T*>(memory)),
        pooled_(reinterpret_cast<Acc*>(memory + plan.ring_bytes())),
        engine_(plan.engine, memory + plan.ring_bytes() + plan.pooled_bytes()) {}

  // Rows [begin, end) of y, counted over all images.
  void run(int64_t begin, int64_t end) {
    const PoolProblem& c = plan_.pool;
    for (int64_t row = begin; row < end;) {
      const int64_t n = row / c.P, p0 = row % c.P, p1 = smaller(c.P, p0 + end - row);
      int64_t held = 0;
      for (int64_t p = p0; p < p1; p += plan_.band) {
        const int64_t last = smaller(p1, p + plan_.band), h1 = plan_.vertical.end(last - 1);
        int64_t h = larger(held, smaller(h1, larger(0, p * c.stride_h - c.pad_top)));
        while (h < h1) {  // up to where the ring ends
          const int64_t stop = smaller(h1, (h / plan_.ring + 1) * plan_.ring);
          engine_.run_rows(n, h, stop, ring_ - h / plan_.ring * plan_.ring * plan_.row);
          h = stop;
        }
        held = larger(held, h1);
        for (int64_t i = p; i < last; ++i) pool_row(n, i);
      }
      row += p1 - p0;
    }
  }

 private:
  void pool_row(int64_t n, int64_t p) {
    const PoolProblem& c = plan_.pool;
    const int64_t h0 = plan_.vertical.begin(p), h1 = plan_.vertical.end(p), step = plan_.horizontal.dilation * c.C;
    const bool direct = plan_.y.stride[1] == 1;
    T* y = plan_.y.template as<T>() + plan_.y.offset(n, 0, p, 0);
    for (int64_t q = 0; q < c.Q; ++q) {
      for (int64_t k = 0; k < c.C; k += V::kLanes) {
        const int64_t lanes = c.C - k;
        V best(-__builtin_inf());
        for (int64_t h = h0; h < h1; h += plan_.vertical.dilation) {
          const T* tap = ring_ + h % plan_.ring * plan_.row + taps_[q].first * c.C + k;
          for (int64_t s = 0; s < taps_[q].count; ++s, tap += step) {
            best = max_propagate(best, load_lanes(tap, 1, lanes));
          }
        }
        direct ? store_lanes(best, y + q * plan_.y.stride[3] + k, 1, lanes)
               : store_lanes<Acc>(best, pooled_ + q * c.C + k, 1, lanes);
      }
    }
    if (!direct) store_pixels(pooled_, c.C, c.Q, c.C, y, plan_.y.stride[3], plan_.y.stride[1]);
  }

  const Plan& plan_;
  const pooling::Taps* taps_;
  T* ring_;
  Acc* pooled_;
  EngineWorker<T> engine_;
};

template <class T>
void run(const ConvMaxPoolCall& call, const CallContext& context) {
  const PooledPlan<T> plan(call, context);
  const pooling::Taps* taps = pooling::make_taps(plan.horizontal, *context.workspace);
  const int64_t bytes = PooledWorker<T>::memory(plan), rows = plan.pool.N * plan.pool.P, slots = plan.slots;
  char* memory = allocate<char>(context, slots * bytes);
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      PooledWorker<T>(plan, taps, memory + i * bytes).run(rows * i / slots, rows * (i + 1) / slots);
    }
  });
}

}  // namespace pooled_conv

inline void conv_max_pool(const ConvMaxPoolCall& call, const CallContext& context) {
  if (call.y.numel() == 0) return;
  visit_dtype(call.dtype, [&](auto tag) { pooled_conv::run<typename decltype(tag)::type>(call, context); });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
