// Windows of max and average pooling, and the reduction of every window to one value, in two ways:
//
//   channel lanes (NHWC): a pixel's window is walked tap by tap, four vectors of channels at a time;
//   column lanes (NCHW and every other layout): rows are reduced along the width first, then down the window's rows.
//     Strides of 1 and 2 keep the lanes on neighbouring outputs (rows split by phase, see stage_row); larger strides
//     and adaptive windows reduce down the rows in vectors first and then along the width one by one.
//
// Max and sum share the code: an Op has an identity, a combination and its own last step.
#pragma once

#include "../../common/calls.h"
#include "lanes.h"

namespace fastconv::cpu::FASTCONV_ISA::pooling {

using namespace work;

// The windows along one axis.
struct Axis {
  int64_t extent, count, window, stride, pad, dilation;
  bool adaptive;

  // The first tap inside the image, and one past the last place a tap may have; taps lie `dilation` apart.
  FC_INLINE int64_t begin(int64_t i) const {
    if (adaptive) return i * extent / count;
    const int64_t start = i * stride - pad;
    return start >= 0 ? start : start + ceil_div(-start, dilation) * dilation;
  }
  FC_INLINE int64_t end(int64_t i) const {
    if (adaptive) return ceil_div((i + 1) * extent, count);
    return min(extent, i * stride - pad + (window - 1) * dilation + 1);
  }
  // The windows that may hold place x: [first_over(x), last_over(x)].
  FC_INLINE int64_t first_over(int64_t x) const {
    if (adaptive) return x * count / extent;
    const int64_t reach = x + pad - (window - 1) * dilation;
    return reach <= 0 ? 0 : ceil_div(reach, stride);
  }
  FC_INLINE int64_t last_over(int64_t x) const {
    return min(count - 1, adaptive ? ((x + 1) * count - 1) / extent : (x + pad) / stride);
  }
};

// Adaptive windows of one size are plain windows.
inline Axis make_axis(int64_t extent, int64_t count, int64_t window, int64_t stride, int64_t pad, int64_t dilation,
                      bool adaptive) {
  if (adaptive && count > 0 && extent % count == 0) return {extent, count, extent / count, extent / count, 0, 1, false};
  if (adaptive) return {extent, count, 0, 0, 0, 1, true};
  return {extent, count, window, stride, pad, dilation, false};
}
inline Axis vertical_axis(const PoolProblem& c) {
  return make_axis(c.H, c.P, c.window_h, c.stride_h, c.pad_top, c.dilation_h, c.adaptive);
}
inline Axis horizontal_axis(const PoolProblem& c) {
  return make_axis(c.W, c.Q, c.window_w, c.stride_w, c.pad_left, c.dilation_w, c.adaptive);
}

struct Maximum {
  static constexpr bool kExact = true;
  static constexpr double kIdentity = -__builtin_inf();
  template <class V>
  static FC_INLINE V combine(V a, V b) {
    return max_propagate(a, b);
  }
  static FC_INLINE float combine(float a, float b) { return b > a || b != b ? b : a; }
  static FC_INLINE double combine(double a, double b) { return b > a || b != b ? b : a; }
};

struct Sum {
  static constexpr bool kExact = false;  // so rows are summed on their own first: errors grow with rows + columns only
  static constexpr double kIdentity = 0;
  template <class V>
  static FC_INLINE V combine(V a, V b) {
    return a + b;
  }
};

// What a reduced window is divided by: max pooling's nothing, average pooling's Divisors (pooling_avg.h).
struct NoDivisor {
  template <class V>
  FC_INLINE V apply(V v, int64_t, int64_t) const {
    return v;
  }
  template <class V>
  FC_INLINE V apply_lanes(V v, int64_t, int64_t) const {
    return v;
  }
};

template <class Op, int kVectors, class T, class Divisor>
FC_INLINE void reduce_pixel(const T* x, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step,
                            int64_t lanes, const Divisor& divisor, int64_t p, int64_t q, T* y) {
  using V = Vec<accumulate_t<T>>;
  V best[kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) best[i] = V(Op::kIdentity);
  for (int64_t r = 0; r < rows; ++r) {
    const T* tap = x + r * row_step;
    V row[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) row[i] = Op::kExact ? best[i] : V(Op::kIdentity);
    for (int64_t s = 0; s < columns; ++s, tap += column_step) {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        const V v = kVectors > 1 ? V::load(tap + i * V::kLanes) : load_lanes(tap, 1, lanes);
        row[i] = Op::combine(row[i], v);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) best[i] = Op::kExact ? row[i] : Op::combine(best[i], row[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    const V v = divisor.apply(best[i], p, q);
    kVectors > 1 ? v.store(y + i * V::kLanes) : store_lanes(v, y, 1, lanes);
  }
}

// Cost of the pass in the units of run_in_slots: bytes in and out.
template <class T>
int64_t work_of(const PoolProblem& c) {
  return c.N * c.C * (c.H * c.W + c.P * c.Q) * static_cast<int64_t>(sizeof(T));
}

// Runs body(n, p, k0, k1) over (image, output row, chunk of channels); channels are split only where rows are few.
template <class F>
void for_channel_rows(const CallContext& ctx, int64_t N, int64_t rows, int64_t C, int64_t work, F&& body) {
  constexpr int64_t kChunk = 64;  // four vectors of sixteen
  const int64_t wanted = ceil_div(8 * thread_pool().threads(), max(1, N * rows));
  const int64_t blocks = ceil_div(C, kChunk), chunk = ceil_div(blocks, min(blocks, wanted)) * kChunk;
  const int64_t chunks = ceil_div(C, chunk);
  run_in_slots(ctx, N * rows * chunks, work, 0, [&](void*, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t k0 = unit % chunks * chunk;
      body(unit / chunks / rows, unit / chunks % rows, k0, min(C, k0 + chunk));
    }
  });
}

// x and y have dense channels.
template <class Op, class T, class Divisor>
void reduce_channels(const PoolCall& call, const Divisor& divisor, const CallContext& ctx) {
  constexpr int64_t kLanes = Vec<accumulate_t<T>>::kLanes;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const int64_t row_step = call.x.stride[2] * vertical.dilation, column_step = call.x.stride[3] * horizontal.dilation;
  for_channel_rows(ctx, c.N, c.P, c.C, work_of<T>(c), [&](int64_t n, int64_t p, int64_t k0, int64_t k1) {
    const int64_t h0 = vertical.begin(p), rows = max(0, ceil_div(vertical.end(p) - h0, vertical.dilation));
    for (int64_t q = 0; q < c.Q; ++q) {
      const int64_t w0 = horizontal.begin(q);
      const int64_t columns = max(0, ceil_div(horizontal.end(q) - w0, horizontal.dilation));
      const T* x = call.x.as<const T>() + call.x.offset(n, 0, h0, w0);
      T* y = call.y.as<T>() + call.y.offset(n, 0, p, q);
      int64_t k = k0;
      for (; k + 4 * kLanes <= k1; k += 4 * kLanes) {
        reduce_pixel<Op, 4>(x + k, rows, columns, row_step, column_step, kLanes, divisor, p, q, y + k);
      }
      for (; k < k1; k += kLanes) {
        reduce_pixel<Op, 1>(x + k, rows, columns, row_step, column_step, k1 - k, divisor, p, q, y + k);
      }
    }
  });
}

// Output rows of a plane that are worked on together, so that the input rows they need (of `row_bytes` each, staged or
// reduced) stay in L1, unless one window alone needs more.
inline int64_t band_height(const PoolProblem& c, const Axis& vertical, int64_t row_bytes) {
  const int64_t span = (vertical.window - 1) * vertical.dilation + 1, fit = (32 << 10) / row_bytes - span;
  const int64_t share = ceil_div(c.P, ceil_div(2 * thread_pool().threads(), c.N * c.C));
  return max(1, min(share, max(4, fit) / vertical.stride + 1));
}

// Whether the windows suit phases of rows: neighbouring outputs at most two columns apart, and scratch for the rows of
// one window within bounds.
template <class Acc>
bool suits_phases(const PoolProblem& c, const Axis& vertical, const Axis& horizontal) {
  if (vertical.adaptive || horizontal.adaptive || horizontal.stride > 2) return false;
  const int64_t row_bytes = (c.Q * horizontal.stride + horizontal.window * horizontal.dilation) * int64_t{sizeof(Acc)};
  return ((vertical.window - 1) * vertical.dilation + 4 * vertical.stride + 1) * row_bytes <= 2 * kScratchBytes;
}

// One plane at a time, rows reduced along the width by phases. Scratch: one staged row, then the reduced rows of a
// band.
template <class Op, class T, class Divisor>
void reduce_planes_by_phase(const PoolCall& call, const Axis& vertical, const Axis& horizontal, const Divisor& divisor,
                            const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const int64_t phases = horizontal.stride, span = (horizontal.window - 1) * horizontal.dilation + 1;
  const int64_t reduced_pitch = round_up(c.Q, V::kLanes),
                pitch = round_up(reduced_pitch + (span - 1) / phases, V::kLanes);
  const int64_t span_h = (vertical.window - 1) * vertical.dilation + 1;
  const int64_t height = band_height(c, vertical, reduced_pitch * int64_t{sizeof(Acc)}), bands = ceil_div(c.P, height);
  const int64_t rows = (height - 1) * vertical.stride + span_h;
  const int64_t scratch = (phases * pitch + rows * reduced_pitch) * int64_t{sizeof(Acc)};
  run_in_slots(ctx, c.N * c.C * bands, work_of<T>(c), scratch, [&](void* memory, int64_t begin, int64_t end) {
    Acc *staged = static_cast<Acc*>(memory), *reduced = staged + phases * pitch;
    for (int64_t j = 0; j < phases * pitch; ++j) staged[j] = static_cast<Acc>(Op::kIdentity);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / bands, n = plane / c.C, k = plane % c.C;
      const int64_t p0 = unit % bands * height, p1 = min(c.P, p0 + height);
      const int64_t h0 = max(0, p0 * vertical.stride - vertical.pad), h1 = max(h0, vertical.end(p1 - 1));
      const T* x = call.x.as<const T>() + call.x.offset(n, k, h0, 0);
      for (int64_t h = h0; h < h1; ++h, x += call.x.stride[2]) {
        stage_row(x, call.x.stride[3], c.W, 1, -horizontal.pad, phases, pitch, staged);
        Acc* out = reduced + (h - h0) * reduced_pitch;
        for (int64_t q = 0; q < c.Q; q += V::kLanes) {
          V best = V::load(staged + q);
          for (int64_t s = 1; s < horizontal.window; ++s) {
            const int64_t column = s * horizontal.dilation;
            best = Op::combine(best, V::load(staged + column % phases * pitch + column / phases + q));
          }
          best.store(out + q);
        }
      }
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t from = vertical.begin(p), to = vertical.end(p);
        T* y = call.y.as<T>() + call.y.offset(n, k, p, 0);
        for (int64_t q = 0; q < c.Q; q += V::kLanes) {
          V best(Op::kIdentity);
          for (int64_t h = from; h < to; h += vertical.dilation) {
            best = Op::combine(best, V::load(reduced + (h - h0) * reduced_pitch + q));
          }
          store_lanes(divisor.apply_lanes(best, p, q), y + q * call.y.stride[3], call.y.stride[3], c.Q - q);
        }
      }
    }
  });
}

// Any windows: down the rows in vectors, then along the width.
template <class Op, class T, class Divisor>
void reduce_planes_by_window(const PoolCall& call, const Axis& vertical, const Axis& horizontal, const Divisor& divisor,
                             const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const int64_t scratch = (round_up(c.W, V::kLanes) + c.Q) * int64_t{sizeof(Acc)};
  run_in_slots(ctx, c.N * c.C * c.P, work_of<T>(c), scratch, [&](void* memory, int64_t begin, int64_t end) {
    Acc *down = static_cast<Acc*>(memory), *out = down + round_up(c.W, V::kLanes);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t p = unit % c.P, k = unit / c.P % c.C, n = unit / c.P / c.C;
      const int64_t from = vertical.begin(p), to = vertical.end(p), step = vertical.dilation;
      const T* x = call.x.as<const T>() + call.x.offset(n, k, 0, 0);
      for (int64_t w = 0; w < c.W; w += V::kLanes) {
        V best(Op::kIdentity);
        for (int64_t h = from; h < to; h += step) {
          const T* in = x + h * call.x.stride[2] + w * call.x.stride[3];
          best = Op::combine(best, load_lanes(in, call.x.stride[3], c.W - w));
        }
        best.store(down + w);
      }
      for (int64_t q = 0; q < c.Q; ++q) {
        Acc best = static_cast<Acc>(Op::kIdentity);
        const int64_t w1 = horizontal.end(q);
        for (int64_t w = horizontal.begin(q); w < w1; w += horizontal.dilation) best = Op::combine(best, down[w]);
        out[q] = divisor.apply(best, p, q);
      }
      store_run(call.y.as<T>() + call.y.offset(n, k, p, 0), call.y.stride[3], c.Q, out);
    }
  });
}

template <class Op, class T, class Divisor>
void reduce_windows(const PoolCall& call, const Divisor& divisor, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  if (c.C > 1 && call.x.stride[1] == 1 && call.y.stride[1] == 1) return reduce_channels<Op, T>(call, divisor, ctx);
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  suits_phases<accumulate_t<T>>(c, vertical, horizontal)
      ? reduce_planes_by_phase<Op, T>(call, vertical, horizontal, divisor, ctx)
      : reduce_planes_by_window<Op, T>(call, vertical, horizontal, divisor, ctx);
}

}  // namespace fastconv::cpu::FASTCONV_ISA::pooling
