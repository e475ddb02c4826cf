// Gradients of pooling. With channel lanes every dx gathers from the windows that cover it: max pooling adds the dy
// whose index points to it, average pooling every dy over its divisor. With column lanes a plane belongs to one thread:
// max pooling scatters into a band of it, in the order of the windows; average pooling sums down the windows' rows in
// vectors, then along the width. Either way the order of additions is fixed.
#pragma once

#include "pooling_avg.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace pooling {

inline bool dense_channels(const PoolCall& call) {
  return call.problem.C > 1 && call.x.stride[1] == 1 && call.y.stride[1] == 1 &&
         (!call.indices.present() || call.indices.stride[1] == 1);
}

// The windows over every place along the width, found once a call: it takes divisions.
inline const Taps* make_covers(const Axis& axis, Workspace& workspace) {
  Taps* covers = static_cast<Taps*>(workspace.allocate(static_cast<size_t>(axis.extent) * sizeof(Taps)));
  for (int64_t i = 0; i < axis.extent; ++i) {
    const int64_t first = axis.first_over(i);
    covers[i] = {first, max(0, axis.last_over(i) + 1 - first)};
  }
  return covers;
}

// Here and below call.x is dy, call.y is dx.
template <class T>
void max_backward_channels(const PoolCall& call, const CallContext& ctx) {
  using V = Vec<accumulate_t<T>>;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const Taps* covers = make_covers(horizontal, *ctx.workspace);
  const int64_t bytes = work_of<T>(c) + c.N * c.C * c.P * c.Q * 8;
  for_channel_rows(ctx, c.N, c.H, c.C, bytes, [&](int64_t n, int64_t h, int64_t k0, int64_t k1) {
    const int64_t p0 = vertical.first_over(h), p1 = vertical.last_over(h);
    for (int64_t w = 0; w < c.W; ++w) {
      const int64_t q0 = covers[w].first, q1 = q0 + covers[w].count, here = h * c.W + w;
      T* dx = call.y.as<T>() + call.y.offset(n, 0, h, w);
      for (int64_t k = k0; k < k1; k += V::kLanes) {
        const int64_t lanes = k1 - k;
        V sum(0);
        for (int64_t p = p0; p <= p1; ++p) {
          const T* dy = call.x.as<const T>() + call.x.offset(n, k, p, 0);
          const int64_t* index = call.indices.as<const int64_t>() + call.indices.offset(n, k, p, 0);
          for (int64_t q = q0; q < q1; ++q) {
            const V grad = load_lanes(dy + q * call.x.stride[3], 1, lanes);
            sum = sum + select(lanes_equal(grad, index + q * call.indices.stride[3], lanes, here), grad, V(0));
          }
        }
        store_lanes(sum, dx + k, 1, lanes);
      }
    }
  });
}

template <class T>
void max_backward_planes(const PoolCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c);
  const int64_t height = max(1, min(c.H, kScratchBytes / int64_t{sizeof(Acc)} / c.W)), bands = ceil_div(c.H, height);
  const int64_t scratch = height * c.W * int64_t{sizeof(Acc)};
  const int64_t bytes = work_of<T>(c) + c.N * c.C * c.P * c.Q * 16;
  run_in_slots(ctx, c.N * c.C * bands, bytes, scratch, [&](void* memory, int64_t begin, int64_t end) {
    Acc* band = static_cast<Acc*>(memory);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / bands, n = plane / c.C, k = plane % c.C;
      const int64_t h0 = unit % bands * height, h1 = min(c.H, h0 + height);
      const int64_t from = h0 * c.W, count = (h1 - h0) * c.W;
      for (int64_t i = 0; i < count; ++i) band[i] = 0;
      const int64_t p1 = vertical.last_over(h1 - 1);
      for (int64_t p = vertical.first_over(h0); p <= p1; ++p) {
        const T* dy = call.x.as<const T>() + call.x.offset(n, k, p, 0);
        const int64_t* index = call.indices.as<const int64_t>() + call.indices.offset(n, k, p, 0);
        for (int64_t q = 0; q < c.Q; ++q) {
          const int64_t at = index[q * call.indices.stride[3]] - from;
          if (at >= 0 && at < count) band[at] += to_accumulate(dy[q * call.x.stride[3]]);
        }
      }
      for (int64_t h = h0; h < h1; ++h) {
        store_run(call.y.as<T>() + call.y.offset(n, k, h, 0), call.y.stride[3], c.W, band + (h - h0) * c.W);
      }
    }
  });
}

template <class T>
void avg_backward_channels(const PoolCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  // A product a window and pixel costs a tenth of a division, and half a last place.
  const Divisors<Acc> share = make_divisors<Acc>(c, *ctx.workspace, true);
  const Taps* covers = make_covers(horizontal, *ctx.workspace);
  for_channel_rows(ctx, c.N, c.H, c.C, work_of<T>(c), [&](int64_t n, int64_t h, int64_t k0, int64_t k1) {
    const int64_t p0 = vertical.first_over(h), p1 = vertical.last_over(h);
    for (int64_t w = 0; w < c.W; ++w) {
      const int64_t q0 = covers[w].first, q1 = q0 + covers[w].count;
      T* dx = call.y.as<T>() + call.y.offset(n, 0, h, w);
      for (int64_t k = k0; k < k1; k += V::kLanes) {
        const int64_t lanes = k1 - k;
        V sum(0);
        for (int64_t p = p0; p <= p1; ++p) {
          const T* dy = call.x.as<const T>() + call.x.offset(n, k, p, 0);
          for (int64_t q = q0; q < q1; ++q) {
            sum = fma(load_lanes(dy + q * call.x.stride[3], 1, lanes), V(share.height[p] * share.width[q]), sum);
          }
        }
        store_lanes(sum, dx + k, 1, lanes);
      }
    }
  });
}

// out[w] = the sum of the values of the windows over w.
template <class Acc>
FC_INLINE void spread_along(const Acc* values, const Taps* covers, bool one_each, int64_t W, Acc* out) {
  if (one_each && covers[0].first == covers[W - 1].first) {  // one window for all, as in global pooling
    const Acc value = values[covers[0].first];
    for (int64_t w = 0; w < W; ++w) out[w] = value;
  } else if (one_each) {
    for (int64_t w = 0; w < W; ++w) out[w] = values[covers[w].first];
  } else {
    for (int64_t w = 0; w < W; ++w) {
      Acc sum = 0;
      for (int64_t j = 0; j < covers[w].count; ++j) sum += values[covers[w].first + j];
      out[w] = sum;
    }
  }
}

template <class T>
void avg_backward_planes(const PoolCall& call, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const Divisors<Acc> share = make_divisors<Acc>(c, *ctx.workspace, true);
  const Taps* covers = make_covers(horizontal, *ctx.workspace);
  bool one_each = true;  // windows side by side: every column has one
  for (int64_t w = 0; w < c.W; ++w) one_each = one_each && covers[w].count == 1;
  const int64_t down_elements = round_up(c.Q, V::kLanes);
  run_in_slots(ctx, c.N * c.C * c.H, work_of<T>(c), (down_elements + c.W) * int64_t{sizeof(Acc)},
               [&](void* memory, int64_t begin, int64_t end) {
                 Acc *down = static_cast<Acc*>(memory), *row = down + down_elements;
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t h = unit % c.H, k = unit / c.H % c.C, n = unit / c.H / c.C;
                   const int64_t p0 = vertical.first_over(h), p1 = vertical.last_over(h);
                   const T* dy = call.x.as<const T>() + call.x.offset(n, k, 0, 0);
                   for (int64_t q = 0; q < c.Q; q += V::kLanes) {
                     V sum(0);
                     for (int64_t p = p0; p <= p1; ++p) {
                       const T* in = dy + p * call.x.stride[2] + q * call.x.stride[3];
                       const V width = V::load(share.width + q), part = V(share.height[p]) * width;
                       sum = fma(load_lanes(in, call.x.stride[3], c.Q - q), part, sum);
                     }
                     sum.store(down + q);
                   }
                   spread_along(down, covers, one_each, c.W, row);
                   store_run(call.y.as<T>() + call.y.offset(n, k, h, 0), call.y.stride[3], c.W, row);
                 }
               });
}

}  // namespace pooling

inline void max_pool2d_backward(const PoolCall& call, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.H * c.W == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pooling::dense_channels(call) ? pooling::max_backward_channels<T>(call, ctx)
                                  : pooling::max_backward_planes<T>(call, ctx);
  });
}

inline void avg_pool2d_backward(const PoolCall& call, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.H * c.W == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    pooling::dense_channels(call) ? pooling::avg_backward_channels<T>(call, ctx)
                                  : pooling::avg_backward_planes<T>(call, ctx);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
