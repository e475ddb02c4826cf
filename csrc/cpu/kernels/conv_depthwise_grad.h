// Gradients of the depthwise convolution.
//
// Input: dx is a depthwise convolution itself: of dy, its rows and columns `stride` apart with zeros between, with the
// filters turned by 180 degrees; so it runs on the forward's tiles (a plan with `insert` and `collect`).
//
// Weight: dw[k, r, s] = sum over n, p, q of dy[n, k, p, q] * x[n, c, p * stride - pad + r * dilation, ...]. The output
// rows are cut into slices whose number depends on the problem alone; every slice sums into its own R * S partials,
// which are then added in order: the result has the same bits on any number of threads.
#pragma once

#include "conv_depthwise.h"
#include "pixel_runs.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace depthwise {

template <class Acc>
void input_grad(const Conv2dInputGradCall& call, const CallContext& ctx) {
  const ConvProblem& c = call.problem;
  Plan<Acc> plan;
  plan.N = c.N, plan.H = c.P, plan.W = c.Q;
  plan.K = c.C, plan.P = c.H, plan.Q = c.W;
  plan.R = c.R, plan.S = c.S;
  plan.dilation_h = c.dilation_h, plan.dilation_w = c.dilation_w;
  plan.pad_top = (c.R - 1) * c.dilation_h - c.pad_top;
  plan.pad_left = (c.S - 1) * c.dilation_w - c.pad_left;
  plan.insert_h = c.stride_h, plan.insert_w = c.stride_w;
  plan.collect = c.filters_per_group();
  plan.x = call.dy;
  plan.y = call.dx;
  const int64_t packed = plan.collect * plan.padded_channels() * plan.taps();
  Acc* weights = static_cast<Acc*>(ctx.workspace->allocate(static_cast<size_t>(packed) * sizeof(Acc)));
  pack(call.w, c.C, plan.collect, true, weights);
  plan.weights = weights;
  run_plan(plan, call.epilogue, ctx);
}

// The output columns [lo, hi) whose tap at `offset` (s * dilation - pad) lies in the image of `extent`.
struct TapRange {
  int64_t lo, hi;
};
FC_INLINE TapRange tap_range(int64_t offset, int64_t extent, int64_t stride, int64_t count) {
  const int64_t lo = offset >= 0 ? 0 : ceil_div(-offset, stride);
  const int64_t hi = extent <= offset ? 0 : ceil_div(extent - offset, stride);
  return {min(lo, count), max(min(lo, count), min(hi, count))};
}

// acc[j] += sum over q in [q0, q1) of dy[q] * x[q * step + j * tap], for kTaps neighbouring taps at a time: dy is
// loaded once for all of them. Two sums a tap, so that their latency does not bound the loop.
template <int kTaps, class T>
FC_INLINE void add_products(const T* dy, int64_t dy_pixel, const T* x, int64_t step, int64_t tap, int64_t q0,
                            int64_t q1, int64_t lanes, accumulate_t<T>* sums, int64_t sum_pitch) {
  using V = Vec<accumulate_t<T>>;
  if (q0 >= q1) return;
  V acc[2][kTaps];
#pragma GCC unroll 8
  for (int j = 0; j < kTaps; ++j) {
    acc[0][j] = V::load(sums + j * sum_pitch);
    acc[1][j] = V(0);
  }
  int64_t q = q0;
  if (lanes >= V::kLanes) {
    for (; q + 2 <= q1; q += 2) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const V grad = V::load(dy + (q + i) * dy_pixel);
#pragma GCC unroll 8
        for (int j = 0; j < kTaps; ++j) acc[i][j] = fma(V::load(x + (q + i) * step + j * tap), grad, acc[i][j]);
      }
    }
  }
  for (; q < q1; ++q) {
    const V grad = V::load_partial(dy + q * dy_pixel, lanes);
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) acc[0][j] = fma(V::load_partial(x + q * step + j * tap, lanes), grad, acc[0][j]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kTaps; ++j) (acc[0][j] + acc[1][j]).store(sums + j * sum_pitch);
}

// Partials of output row (n, p), one vector of channels: sums[tap][kLanes]. x and dy have dense channels.
template <class T>
void weight_grad_row(const Conv2dWeightGradCall& call, int64_t n, int64_t p, int64_t k, int64_t lanes,
                     accumulate_t<T>* sums) {
  constexpr int kGroup = 5;  // taps of a filter row summed together where all of them are inside
  const ConvProblem& c = call.problem;
  const int64_t kLanes = Vec<accumulate_t<T>>::kLanes;
  const T* dy = call.dy.as<const T>() + call.dy.offset(n, k, p, 0);
  const int64_t dy_pixel = call.dy.stride[3], x_pixel = call.x.stride[3], step = c.stride_w * x_pixel;
  for (int64_t r = 0; r < c.R; ++r) {
    const int64_t h = p * c.stride_h - c.pad_top + r * c.dilation_h;
    if (h < 0 || h >= c.H) continue;
    const T* x = call.x.as<const T>() + call.x.offset(n, k, h, 0);
    for (int64_t s0 = 0; s0 < c.S;) {
      const int64_t offset = s0 * c.dilation_w - c.pad_left;
      const int64_t group = c.S - s0 >= kGroup ? kGroup : c.S - s0 >= 3 ? 3 : 1;
      const TapRange first = tap_range(offset, c.W, c.stride_w, c.Q);
      const TapRange last = tap_range(offset + (group - 1) * c.dilation_w, c.W, c.stride_w, c.Q);
      // Taps further right start earlier and end earlier: all are inside from the first's start to the last's end.
      const int64_t lo = first.lo, hi = max(first.lo, last.hi);
      const T* from = x + offset * x_pixel;
      accumulate_t<T>* out = sums + (r * c.S + s0) * kLanes;
      const int64_t tap = c.dilation_w * x_pixel;
      if (group == kGroup) {
        add_products<kGroup>(dy, dy_pixel, from, step, tap, lo, hi, lanes, out, kLanes);
      } else if (group == 3) {
        add_products<3>(dy, dy_pixel, from, step, tap, lo, hi, lanes, out, kLanes);
      } else {
        add_products<1>(dy, dy_pixel, from, step, tap, lo, hi, lanes, out, kLanes);
      }
      for (int64_t j = 0; j < group && group > 1; ++j) {
        const TapRange range = tap_range(offset + j * c.dilation_w, c.W, c.stride_w, c.Q);
        add_products<1>(dy, dy_pixel, from + j * tap, step, tap, range.lo, min(range.hi, lo), lanes, out + j * kLanes,
                        kLanes);
        add_products<1>(dy, dy_pixel, from + j * tap, step, tap, max(range.lo, hi), range.hi, lanes, out + j * kLanes,
                        kLanes);
      }
      s0 += group;
    }
  }
}

// dw from sums[part][vector of channels][tap][lane], parts added in order.
template <class T>
void add_partials(const Conv2dWeightGradCall& call, const accumulate_t<T>* sums, int64_t parts) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const ConvProblem& c = call.problem;
  const int64_t vectors = ceil_div(c.K, int64_t{V::kLanes}), taps = c.R * c.S;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t k0 = vector * V::kLanes, lanes = min(V::kLanes, c.K - k0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      V sum(0);
      for (int64_t part = 0; part < parts; ++part)
        sum = sum + V::load(sums + ((part * vectors + vector) * taps + tap) * V::kLanes);
      Acc values[V::kLanes];
      sum.store(values);
      for (int64_t i = 0; i < lanes; ++i)
        call.dw.as<T>()[call.dw.offset(k0 + i, 0, tap / c.S, tap % c.S)] = from_accumulate<T>(values[i]);
    }
  }
}

// `lanes` channels of image n as [pixel][vector of channels]; the other lanes become zero.
template <class T>
void transpose_image(const TensorView& from, int64_t n, int64_t channel, int64_t lanes, accumulate_t<T>* to) {
  constexpr int64_t kLanes = Vec<accumulate_t<T>>::kLanes;
  const int64_t row = from.size[3] * kLanes;
  for (int64_t h = 0; h < from.size[2]; ++h, to += row) {
    if (lanes < kLanes) __builtin_memset(to, 0, static_cast<size_t>(row) * sizeof(*to));
    load_pixels(from.as<const T>() + from.offset(n, channel, h, 0), from.stride[3], from.stride[1], from.size[3], lanes,
                to, kLanes);
  }
}

// Channel lanes: units are (slice of the N * P output rows, vector of channels).
template <class T>
void weight_grad_channels(const Conv2dWeightGradCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  constexpr int64_t kLanes = Vec<Acc>::kLanes, kWantedUnits = 64;
  const ConvProblem& c = call.problem;
  const int64_t vectors = ceil_div(c.K, kLanes), rows = c.N * c.P, taps = c.R * c.S, partial = taps * kLanes;
  const int64_t slices = max(1, min(ceil_div(kWantedUnits, vectors), ceil_div(rows, 8)));
  Acc* sums = static_cast<Acc*>(ctx.workspace->allocate(static_cast<size_t>(slices * vectors * partial) * sizeof(Acc)));
  const int64_t grain = max(1, kSerialWork / max(1, rows / slices * c.Q * kLanes * (8 + taps / 4)));
  parallel_for(slices * vectors, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t slice = unit / vectors, k = unit % vectors * kLanes;
      Acc* out = sums + unit * partial;
      for (int64_t i = 0; i < partial; ++i) out[i] = 0;
      for (int64_t row = rows * slice / slices; row < rows * (slice + 1) / slices; ++row) {
        weight_grad_row<T>(call, row / c.P, row % c.P, k, min(kLanes, c.K - k), out);
      }
    }
  });
  add_partials<T>(call, sums, slices);
}

// Small images that do not lie channels last: a row would fill few lanes, so a vector of channels of an image is
// transposed into scratch, and channels are the lanes after all. Units are (image, vector of channels).
template <class T>
void weight_grad_transposed(const Conv2dWeightGradCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  constexpr int64_t kLanes = Vec<Acc>::kLanes;
  const ConvProblem& c = call.problem;
  const int64_t vectors = ceil_div(c.K, kLanes), taps = c.R * c.S, partial = taps * kLanes;
  const int64_t x_elements = c.H * c.W * kLanes, dy_elements = c.P * c.Q * kLanes;
  Acc* sums = static_cast<Acc*>(ctx.workspace->allocate(static_cast<size_t>(c.N * vectors * partial) * sizeof(Acc)));
  const int64_t work = c.N * c.K * c.P * c.Q * (8 + taps / 4);
  run_in_slots(ctx, c.N * vectors, work, (x_elements + dy_elements) * int64_t{sizeof(Acc)},
               [&](void* memory, int64_t begin, int64_t end) {
                 Conv2dWeightGradCall image = call;
                 Acc *x = static_cast<Acc*>(memory), *dy = x + x_elements;
                 image.x = {x, accumulate_dtype(call.dtype), {1, kLanes, c.H, c.W}, {0, 1, c.W * kLanes, kLanes}};
                 image.dy = {dy, accumulate_dtype(call.dtype), {1, kLanes, c.P, c.Q}, {0, 1, c.Q * kLanes, kLanes}};
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t n = unit / vectors, k = unit % vectors * kLanes, lanes = min(kLanes, c.K - k);
                   transpose_image<T>(call.x, n, k, lanes, x);
                   transpose_image<T>(call.dy, n, k, lanes, dy);
                   Acc* out = sums + unit * partial;
                   for (int64_t i = 0; i < partial; ++i) out[i] = 0;
                   for (int64_t p = 0; p < c.P; ++p) weight_grad_row<Acc>(image, 0, p, 0, kLanes, out);
                 }
               });
  add_partials<T>(call, sums, c.N);
}

template <class T>
bool prefers_transposed(const ConvProblem& c) {
  using V = Vec<accumulate_t<T>>;
  const int64_t bytes = (c.H * c.W + c.P * c.Q) * kVectorBytes;
  return c.Q <= 2 * V::kLanes && bytes <= kScratchBytes && c.K >= V::kLanes;
}

// Column lanes, any strides: units are (image, filter). Rows of x are staged by phase as in the forward pass, so that
// the product of a row of dy and a tap is a dense dot product.
template <class T>
void weight_grad_planes(const Conv2dWeightGradCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const ConvProblem& c = call.problem;
  const int64_t taps = c.R * c.S, span_h = (c.R - 1) * c.dilation_h + 1, span_w = (c.S - 1) * c.dilation_w + 1;
  const int64_t pitch = round_up(round_up(c.Q, V::kLanes) + (span_w - 1) / c.stride_w, V::kLanes);
  const int64_t row_elements = c.stride_w * pitch, dy_elements = round_up(c.Q, V::kLanes);
  // Bands of output rows whose input rows stay in the cache.
  const int64_t fit = (kScratchBytes / (row_elements * int64_t{sizeof(Acc)}) - span_h) / c.stride_h + 1;
  const int64_t height = max(1, min(c.P, fit)), staged_rows = (height - 1) * c.stride_h + span_h;
  const int64_t sums_elements = taps * V::kLanes, scratch = sums_elements + dy_elements + staged_rows * row_elements;
  Acc* partial = static_cast<Acc*>(ctx.workspace->allocate(static_cast<size_t>(c.N * c.K * taps) * sizeof(Acc)));
  const int64_t work = c.N * c.K * c.P * c.Q * (8 + taps / 4);
  run_in_slots(ctx, c.N * c.K, work, scratch * int64_t{sizeof(Acc)}, [&](void* memory, int64_t begin, int64_t end) {
    Acc *sums = static_cast<Acc*>(memory), *dy = sums + sums_elements, *staged = dy + dy_elements;
    __builtin_memset(memory, 0, static_cast<size_t>(scratch) * sizeof(Acc));  // the padding around rows stays zero
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / c.K, k = unit % c.K, channel = k / c.filters_per_group();
      for (int64_t i = 0; i < sums_elements; ++i) sums[i] = 0;
      for (int64_t p0 = 0; p0 < c.P; p0 += height) {
        const int64_t p1 = min(c.P, p0 + height), top = p0 * c.stride_h - c.pad_top;
        const int64_t h0 = min(c.H, max(0, top)), h1 = max(h0, min(c.H, (p1 - 1) * c.stride_h - c.pad_top + span_h));
        for (int64_t h = h0; h < h1; ++h) {
          stage_row(call.x.as<const T>() + call.x.offset(n, channel, h, 0), call.x.stride[3], c.W, 1, -c.pad_left,
                    c.stride_w, pitch, staged + (h - h0) * row_elements);
        }
        for (int64_t p = p0; p < p1; ++p) {
          load_run(call.dy.as<const T>() + call.dy.offset(n, k, p, 0), call.dy.stride[3], c.Q, dy);
          for (int64_t r = 0; r < c.R; ++r) {
            const int64_t h = p * c.stride_h - c.pad_top + r * c.dilation_h;
            if (h < h0 || h >= h1) continue;
            for (int64_t s = 0; s < c.S; ++s) {
              const int64_t column = s * c.dilation_w;
              const Acc* x = staged + (h - h0) * row_elements + column % c.stride_w * pitch + column / c.stride_w;
              V acc = V::load(sums + (r * c.S + s) * V::kLanes);
              for (int64_t q = 0; q < c.Q; q += V::kLanes) {
                // Behind Q dy is zero, but x may hold an infinity.
                acc = fma(load_lanes(x + q, 1, c.Q - q), V::load(dy + q), acc);
              }
              acc.store(sums + (r * c.S + s) * V::kLanes);
            }
          }
        }
      }
      for (int64_t tap = 0; tap < taps; ++tap) {
        partial[unit * taps + tap] = V::load(sums + tap * V::kLanes).reduce_add();
      }
    }
  });
  for (int64_t k = 0; k < c.K; ++k) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      Acc sum = 0;
      for (int64_t n = 0; n < c.N; ++n) sum += partial[(n * c.K + k) * taps + tap];
      call.dw.as<T>()[call.dw.offset(k, 0, tap / c.S, tap % c.S)] = from_accumulate<T>(sum);
    }
  }
}

}  // namespace depthwise

// Serves the epilogue too (transposed convolution); packed_w is not used: the filters are few.
inline void conv2d_input_grad_depthwise(const Conv2dInputGradCall& call, const CallContext& ctx) {
  const ConvProblem& c = call.problem;
  if (c.N * c.C * c.H * c.W == 0) return;
  call.dtype == DType::kFloat64 ? depthwise::input_grad<double>(call, ctx) : depthwise::input_grad<float>(call, ctx);
}

inline void conv2d_weight_grad_depthwise(const Conv2dWeightGradCall& call, const CallContext& ctx) {
  const ConvProblem& c = call.problem;
  if (c.K * c.R * c.S == 0) return;
  const bool channels_dense = call.x.stride[1] == 1 && call.dy.stride[1] == 1;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (c.K != c.C) return depthwise::weight_grad_planes<T>(call, ctx);
    if (channels_dense) return depthwise::weight_grad_channels<T>(call, ctx);
    depthwise::prefers_transposed<T>(c) ? depthwise::weight_grad_transposed<T>(call, ctx)
                                        : depthwise::weight_grad_planes<T>(call, ctx);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
