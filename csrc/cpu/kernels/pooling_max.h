// Max pooling, plain and adaptive, with or without the indices of the maxima. torch's rules: padding is never chosen,
// the first of equal pixels wins, and of NaNs the last (they are larger than anything).
#pragma once

#include "pooling_windows.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace pooling {

// Where the maxima lie is carried as distance from the window's first tap, in the values' own floating-point type: the
// same selects serve both. Exact while a window spans fewer elements than this.
template <class Acc>
constexpr int64_t kMaxDistance = sizeof(Acc) == 4 ? int64_t{1} << 24 : int64_t{1} << 53;

template <class V>
FC_INLINE void take_larger(V v, V place, V& best, V& best_place) {
  const auto better = either(v, v > best, is_nan(v));
  best = select(better, v, best);
  best_place = select(better, place, best_place);
}

template <class V>
FC_INLINE void store_places(V place, int64_t base, int64_t* out, int64_t lanes) {
  typename V::Scalar distance[V::kLanes];
  place.store(distance);
  if (lanes >= V::kLanes) {
    for (int i = 0; i < V::kLanes; ++i) out[i] = base + static_cast<int64_t>(distance[i]);
  } else {
    for (int64_t i = 0; i < lanes; ++i) out[i] = base + static_cast<int64_t>(distance[i]);
  }
}

// x, y and the indices have dense channels.
template <class T>
void max_channels(const PoolCall& call, const CallContext& ctx) {
  using V = Vec<accumulate_t<T>>;
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const Taps* taps = make_taps(horizontal, *ctx.workspace);
  const int64_t bytes = work_of<T>(c) + c.N * c.C * c.P * c.Q * 8;
  for_channel_rows(ctx, c.N, c.P, c.C, bytes, [&](int64_t n, int64_t p, int64_t k0, int64_t k1) {
    const int64_t h0 = vertical.begin(p), h1 = vertical.end(p);
    const int64_t row_step = call.x.stride[2] * vertical.dilation, step = call.x.stride[3] * horizontal.dilation;
    for (int64_t q = 0; q < c.Q; ++q) {
      const auto [w0, columns] = taps[q];
      const bool empty = h0 >= h1 || columns == 0;
      const T* x = call.x.as<const T>() + call.x.offset(n, 0, h0, w0);
      T* y = call.y.as<T>() + call.y.offset(n, 0, p, q);
      int64_t* index = call.indices.as<int64_t>() + call.indices.offset(n, 0, p, q);
      for (int64_t k = k0; k < k1; k += V::kLanes) {
        const int64_t lanes = k1 - k;
        V best(-__builtin_inf()), place(empty ? -1 : 0);
        const T* row = x + k;
        for (int64_t h = h0; h < h1; h += vertical.dilation, row += row_step) {
          V here(static_cast<double>((h - h0) * c.W));
          const T* tap = row;
          for (int64_t s = 0; s < columns; ++s, tap += step, here = here + V(horizontal.dilation * 1.0)) {
            take_larger(load_lanes(tap, 1, lanes), here, best, place);
          }
        }
        store_lanes(best, y + k, 1, lanes);
        store_places(place, empty ? 0 : h0 * c.W + w0, index + k, lanes);
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

// Whether max_planes serves: neighbouring outputs at most two columns apart, scratch for the rows of a window in
// bounds.
template <class Acc>
bool suits_phases(const PoolProblem& c, const Axis& vertical, const Axis& horizontal) {
  if (vertical.adaptive || horizontal.adaptive || horizontal.stride > 2) return false;
  const int64_t row_bytes = (c.Q * horizontal.stride + horizontal.window * horizontal.dilation) * int64_t{sizeof(Acc)};
  return ((vertical.window - 1) * vertical.dilation + 4 * vertical.stride + 1) * row_bytes <= 2 * kScratchBytes;
}

// Column lanes: rows staged by phase with -infinity around them, see stage_row.
template <class T>
void max_planes(const PoolCall& call, const Axis& vertical, const Axis& horizontal, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const PoolProblem& c = call.problem;
  const int64_t phases = horizontal.stride, span = (horizontal.window - 1) * horizontal.dilation + 1;
  const int64_t q_padded = round_up(c.Q, V::kLanes), pitch = round_up(q_padded + (span - 1) / phases, V::kLanes);
  const int64_t row_elements = phases * pitch, span_h = (vertical.window - 1) * vertical.dilation + 1;
  const int64_t height = band_height(c, vertical, row_elements * int64_t{sizeof(Acc)}), bands = ceil_div(c.P, height);
  const int64_t staged_elements = ((height - 1) * vertical.stride + span_h) * row_elements;
  const int64_t scratch = (2 * q_padded + staged_elements) * int64_t{sizeof(Acc)};
  const int64_t bytes = work_of<T>(c) + c.N * c.C * c.P * c.Q * 8;
  run_in_slots(ctx, c.N * c.C * bands, bytes, scratch, [&](void* memory, int64_t begin, int64_t end) {
    // first[q]: distance of the first tap inside the image from the window's corner; corner[q]: the corner's column.
    Acc *first = static_cast<Acc*>(memory), *corner = first + q_padded, *staged = corner + q_padded;
    bool some_empty = false;
    for (int64_t q = 0; q < q_padded; ++q) {
      const int64_t column = q * horizontal.stride - horizontal.pad;
      corner[q] = static_cast<Acc>(column);
      first[q] = static_cast<Acc>(q < c.Q ? horizontal.begin(q) - column : 0);
      some_empty = some_empty || (q < c.Q && horizontal.begin(q) >= horizontal.end(q));
    }
    for (int64_t j = 0; j < staged_elements; ++j) staged[j] = -static_cast<Acc>(__builtin_inf());
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t plane = unit / bands, n = plane / c.C, k = plane % c.C;
      const int64_t p0 = unit % bands * height, p1 = min(c.P, p0 + height);
      const int64_t h0 = max(0, p0 * vertical.stride - vertical.pad), h1 = max(h0, vertical.end(p1 - 1));
      const T* x = call.x.as<const T>() + call.x.offset(n, k, h0, 0);
      for (int64_t h = h0; h < h1; ++h, x += call.x.stride[2]) {
        stage_row(x, call.x.stride[3], c.W, 1, -horizontal.pad, phases, pitch, staged + (h - h0) * row_elements);
      }
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t from = vertical.begin(p), to = vertical.end(p);
        T* y = call.y.as<T>() + call.y.offset(n, k, p, 0);
        int64_t* index = call.indices.as<int64_t>() + call.indices.offset(n, k, p, 0);
        for (int64_t q = 0; q < c.Q; q += V::kLanes) {
          V best(-__builtin_inf()), place = V::load(first + q);
          for (int64_t h = from; h < to; h += vertical.dilation) {
            const Acc* row = staged + (h - h0) * row_elements + q;
            for (int64_t s = 0; s < horizontal.window; ++s) {
              const int64_t column = s * horizontal.dilation;
              take_larger(V::load(row + column % phases * pitch + column / phases),
                          V(static_cast<double>((h - from) * c.W + column)), best, place);
            }
          }
          store_lanes(best, y + q * call.y.stride[3], call.y.stride[3], c.Q - q);
          place = place + V::load(corner + q);
          if (call.indices.stride[3] == 1) {
            store_places(place, from * c.W, index + q, c.Q - q);
          } else {
            int64_t places[V::kLanes];
            store_places(place, from * c.W, places, V::kLanes);
            for (int64_t i = 0; i < V::kLanes && q + i < c.Q; ++i) index[(q + i) * call.indices.stride[3]] = places[i];
          }
        }
        for (int64_t q = 0; q < c.Q && (some_empty || from >= to); ++q) {
          if (from >= to || horizontal.begin(q) >= horizontal.end(q)) index[q * call.indices.stride[3]] = -1;
        }
      }
    }
  });
}

// Any windows and strides, one output after the other.
template <class T>
void max_one_by_one(const PoolCall& call, const Axis& vertical, const Axis& horizontal, const CallContext& ctx) {
  using Acc = accumulate_t<T>;
  const PoolProblem& c = call.problem;
  run_in_slots(ctx, c.N * c.C * c.P, work_of<T>(c) * 4, 0, [&](void*, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t p = unit % c.P, k = unit / c.P % c.C, n = unit / c.P / c.C;
      for (int64_t q = 0; q < c.Q; ++q) {
        Acc best = -static_cast<Acc>(__builtin_inf());
        int64_t place = -1;
        for (int64_t h = vertical.begin(p); h < vertical.end(p); h += vertical.dilation) {
          for (int64_t w = horizontal.begin(q); w < horizontal.end(q); w += horizontal.dilation) {
            const Acc v = to_accumulate(call.x.as<const T>()[call.x.offset(n, k, h, w)]);
            if (place >= 0 && !(v > best) && v == v) continue;
            best = v;
            place = h * c.W + w;
          }
        }
        call.y.as<T>()[call.y.offset(n, k, p, q)] = from_accumulate<T>(best);
        call.indices.as<int64_t>()[call.indices.offset(n, k, p, q)] = place;
      }
    }
  });
}

template <class T>
void max_with_indices(const PoolCall& call, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  const Axis vertical = vertical_axis(c), horizontal = horizontal_axis(c);
  const int64_t reach = vertical.adaptive ? c.H : (vertical.window - 1) * vertical.dilation + 1;
  const bool near = (reach + 1) * c.W < kMaxDistance<accumulate_t<T>>;
  if (near && c.C > 1 && call.x.stride[1] == 1 && call.y.stride[1] == 1 && call.indices.stride[1] == 1) {
    return max_channels<T>(call, ctx);
  }
  const bool phases = suits_phases<accumulate_t<T>>(c, vertical, horizontal);
  near&& phases ? max_planes<T>(call, vertical, horizontal, ctx) : max_one_by_one<T>(call, vertical, horizontal, ctx);
}

}  // namespace pooling

inline void max_pool2d(const PoolCall& call, const CallContext& ctx) {
  const PoolProblem& c = call.problem;
  if (c.N * c.C * c.P * c.Q == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    call.indices.present() ? pooling::max_with_indices<T>(call, ctx)
                           : pooling::reduce_windows<pooling::Maximum, T>(call, pooling::NoDivisor{}, ctx);
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
