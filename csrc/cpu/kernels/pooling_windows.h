// Windows of max and average pooling, and the reduction of every window to one value, in two ways:
//
//   channel lanes (NHWC): a pixel's window is walked tap by tap, four vectors of channels at a time;
//   column lanes (NCHW and every other layout): first down a window's rows, then along the width. Strides of 1 and 2
//     keep the lanes on neighbouring outputs there too (columns split by phase, see stage_row); larger strides and
//     adaptive windows go along the width one by one. Small planes are transposed and take the channel lanes.
//
// Max and sum share the code: an Op has an identity, a combination and its own last step.
#pragma once

#include "../../common/calls.h"
#include "lanes.h"
#include "plane_transposition.h"

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
// The taps of every window along the width, found once a call: it takes divisions.
struct Taps {
  int64_t first, count;
};
inline const Taps* make_taps(const Axis& axis, Workspace& workspace) {
  Taps* taps = static_cast<Taps*>(workspace.allocate(static_cast<size_t>(axis.count) * sizeof(Taps)));
  for (int64_t i = 0; i < axis.count; ++i) {
    const int64_t first = axis.begin(i);
    taps[i] = {first, max(0, ceil_div(axis.end(i) - first, axis.dilation))};
  }
  return taps;
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

// Output row (n, p), channels [k0, k1); x and y have dense channels.
template <class Op, class T, class Divisor>
void reduce_row(const TensorView& x_view, const TensorView& y_view, const Axis& vertical, const Axis& horizontal,
                const Taps* taps, const Divisor& divisor, int64_t n, int64_t p, int64_t k0, int64_t k1) {
  constexpr int64_t kLanes = Vec<accumulate_t<T>>::kLanes;
  const int64_t row_step = x_view.stride[2] * vertical.dilation, column_step = x_view.stride[3] * horizontal.dilation;
  const int64_t h0 = vertical.begin(p), rows = max(0, ceil_div(vertical.end(p) - h0, vertical.dilation));
  for (int64_t q = 0; q < horizontal.count; ++q) {
    const auto [w0, columns] = taps[q];
    const T* x = x_view.as<const T>() + x_view.offset(n, 0, h0, w0);
    T* y = y_view.as<T>() + y_view.offset(n, 0, p, q);
    int64_t k = k0;
    for (; k + 4 * kLanes <= k1; k += 4 * kLanes) {
      reduce_pixel<Op, 4>(x + k, rows, columns, row_step, column_step, kLanes, divisor, p, q, y + k);
    }
    for (; k < k1; k += kLanes) {
      reduce_pixel<Op, 1>(x + k, rows, columns, row_step, column_step, k1 - k, divisor, p, q, y + k);
    }
  }
}

template <class Op, class T, class Divisor>
void reduce_channels(const PoolCall& call, const Divisor& divisor, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const Taps* taps = make_taps(horizontal, *ctx.workspace);
  for_channel_rows(ctx, c.N, c.P, c.C, work_of<T>(c), [&](int64_t n, int64_t p, int64_t k0, int64_t k1) {
    reduce_row<Op, T>(call.x, call.y, vertical, horizontal, taps, divisor, n, p, k0, k1);
  });
}

// Small float32 planes, sixteen at a time, through pixels in the cache. Units are (image, sixteen channels).
template <class Op, class Divisor>
void reduce_small_planes(const PoolCall& call, const Divisor& divisor, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const int64_t blocks = ceil_div(c.C, kLaneChannels), in_pixels = c.H * c.W, out_pixels = c.P * c.Q;
  const Taps* taps = make_taps(horizontal, *ctx.workspace);
  const int64_t scratch = (in_pixels + out_pixels) * kLaneChannels * int64_t{sizeof(float)};
  run_in_slots(ctx, c.N * blocks, work_of<float>(c), scratch, [&](void* memory, int64_t begin, int64_t end) {
    TensorView x = pixels_view(memory, c.H, c.W);
    TensorView y = pixels_view(x.as<float>() + in_pixels * kLaneChannels, c.P, c.Q);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / blocks, k0 = unit % blocks * kLaneChannels, count = min(kLaneChannels, c.C - k0);
      transpose_rows(call.x.as<const float>() + call.x.offset(n, k0, 0, 0), call.x.stride[1], count, in_pixels,
                     x.as<float>(), kLaneChannels);
      for (int64_t p = 0; p < c.P; ++p) {
        reduce_row<Op, float>(x, y, vertical, horizontal, taps, divisor, 0, p, 0, count);
      }
      transpose_columns(y.as<const float>(), kLaneChannels, count, out_pixels,
                        call.y.as<float>() + call.y.offset(n, k0, 0, 0), call.y.stride[1]);
    }
  });
}

// `rows` rows of x combined, W columns from w = 0 on, into the phases of `out`; column 0 lies `pad` virtual columns in.
template <class Op, class T>
FC_INLINE void reduce_down(const T* x, int64_t rows, int64_t row_step, int64_t stride, int64_t W, int64_t pad,
                           int64_t phases, int64_t pitch, accumulate_t<T>* out) {
  using V = Vec<accumulate_t<T>>;
  const auto column = [&](int64_t w, int64_t lanes) {
    const T* in = x + w * stride;
    V best(Op::kIdentity);
    for (int64_t r = 0; r < rows; ++r, in += row_step) best = Op::combine(best, load_lanes(in, stride, lanes));
    return best;
  };
  if (phases == 1) {
    for (int64_t w = 0; w < W; w += V::kLanes) store_lanes(column(w, W - w), out + pad + w, 1, W - w);
    return;
  }
  auto *evens = out + pad % 2 * pitch + pad / 2, *odds = out + (pad + 1) % 2 * pitch + (pad + 1) / 2;
  for (int64_t w = 0; w < W; w += 2 * V::kLanes, evens += V::kLanes, odds += V::kLanes) {
    V even, odd;
    const int64_t left = W - w;
    deinterleave(column(w, left), left > V::kLanes ? column(w + V::kLanes, left - V::kLanes) : V(0), even, odd);
    store_lanes(even, evens, 1, (left + 1) / 2);
    store_lanes(odd, odds, 1, left / 2);
  }
}

// One plane at a time. Scratch: the rows of a band of outputs, reduced down, with the identity around them.
template <class Op, class T, class Divisor>
void reduce_planes_by_phase(const PoolCall& call, const Axis& vertical, const Axis& horizontal, const Divisor& divisor,
                            const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const int64_t phases = horizontal.stride, span = (horizontal.window - 1) * horizontal.dilation + 1;
  // A row holds the columns of every window, and the whole image.
  const int64_t columns = max(round_up(c.Q, V::kLanes) + (span - 1) / phases, (horizontal.pad + c.W) / phases + 1);
  const int64_t pitch = round_up(columns, V::kLanes), row_elements = phases * pitch;
  const int64_t share = ceil_div(c.P, ceil_div(2 * thread_pool().threads(), c.N * c.C));
  const int64_t height = max(1, min(share, kScratchBytes / 16 / (row_elements * int64_t{sizeof(Acc)})));  // 16 KiB: L1
  const int64_t bands = ceil_div(c.P, height), elements = height * row_elements;
  const int64_t scratch = elements * int64_t{sizeof(Acc)};
  run_in_slots(ctx, c.N * c.C * bands, work_of<T>(c), scratch, [&](void* memory, int64_t begin, int64_t end) {
    Acc* reduced = static_cast<Acc*>(memory);
    for (int64_t j = 0; j < elements; ++j) reduced[j] = static_cast<Acc>(Op::kIdentity);
    const int64_t row_stride = call.x.stride[2], x_stride = call.x.stride[3], y_stride = call.y.stride[3];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / bands, n = plane / c.C, k = plane % c.C;
      const int64_t p0 = unit % bands * height, p1 = min(c.P, p0 + height);
      const T* x = call.x.as<const T>() + call.x.offset(n, k, 0, 0);
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t from = vertical.begin(p), rows = max(0, ceil_div(vertical.end(p) - from, vertical.dilation));
        reduce_down<Op>(x + from * row_stride, rows, vertical.dilation * row_stride, x_stride, c.W, horizontal.pad,
                        phases, pitch, reduced + (p - p0) * row_elements);
      }
      T* y = call.y.as<T>() + call.y.offset(n, k, p0, 0);
      const Acc* row = reduced;
      for (int64_t p = p0; p < p1; ++p, row += row_elements, y += call.y.stride[2]) {
        for (int64_t q = 0; q < c.Q; q += V::kLanes) {
          V best = V::load(row + q);
          for (int64_t s = 1; s < horizontal.window; ++s) {
            const int64_t column = s * horizontal.dilation;
            const int64_t at = phases == 1 ? column : column % 2 * pitch + column / 2;
            best = Op::combine(best, V::load(row + at + q));
          }
          store_lanes(divisor.apply_lanes(best, p, q), y + q * y_stride, y_stride, c.Q - q);
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
  const Taps* taps = make_taps(horizontal, *ctx.workspace);
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
        const Acc* tap = down + taps[q].first;
        for (int64_t s = 0; s < taps[q].count; ++s, tap += horizontal.dilation) best = Op::combine(best, *tap);
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
  if constexpr (sizeof(T) == 4) {
    if (c.C > 1 && is_run(call.x) && is_run(call.y)) return reduce_small_planes<Op>(call, divisor, ctx);
  }
  const bool phases = !vertical.adaptive && !horizontal.adaptive && horizontal.stride <= 2;
  phases ? reduce_planes_by_phase<Op, T>(call, vertical, horizontal, divisor, ctx)
         : reduce_planes_by_window<Op, T>(call, vertical, horizontal, divisor, ctx);
}

}  // namespace fastconv::cpu::FASTCONV_ISA::pooling
