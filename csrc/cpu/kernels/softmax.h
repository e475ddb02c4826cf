// Softmax over the middle axis of (outer, axis, inner), and its gradient dx = y * (dy - sum(dy * y)).
//
//   inner == 1: a row lies in the lanes, one reduction at its end
//   else:       up to kSoftmaxVectors vectors of neighbouring rows side by side; the axis is walked with stride inner
//
// Sums are float per block of the axis, then float64. A row of -inf gives NaN, as torch's does. Half precision computes
// the exponential twice instead of storing it rounded.
#pragma once

#include "../cpu_kernels.h"
#include "runs.h"
#include "vector_math.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int kSoftmaxVectors = 4;
constexpr int64_t kSoftmaxBlock = 64;  // terms of a float sum, per lane at most

template <class V, class T>
FC_INLINE V load_lanes(const T* p, int64_t n) {
  return n >= V::kLanes ? V::load(p) : V::load_partial(p, n);
}
template <class V, class T>
FC_INLINE void store_lanes(V v, T* p, int64_t n) {
  n >= V::kLanes ? v.store(p) : v.store_partial(p, n);
}

// Sum over a row of f(i, lanes): blocks in Acc, then float64.
template <class Acc, class F>
FC_INLINE Acc sum_row(int64_t axis, F f) {
  using V = Vec<Acc>;
  double total = 0;
  for (int64_t b = 0; b < axis; b += kSoftmaxBlock * V::kLanes) {
    const int64_t stop = axis - b < kSoftmaxBlock * V::kLanes ? axis : b + kSoftmaxBlock * V::kLanes;
    V sum(0);
    for (int64_t i = b; i < stop; i += V::kLanes) sum = sum + f(i, stop - i);
    total += sum.reduce_add();
  }
  return static_cast<Acc>(total);
}

template <class T>
void softmax_row(const T* x, T* y, int64_t axis) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  constexpr bool kKeep = sizeof(T) == sizeof(Acc);  // y can hold the exponentials
  V top(to_accumulate(x[0]));
  int64_t i = 0;
  for (; i + V::kLanes <= axis; i += V::kLanes) top = max_nan(V::load(x + i), top);
  Acc lanes[V::kLanes], max = to_accumulate(x[0]);
  top.store(lanes);
  for (int64_t l = 0; l < V::kLanes; ++l) max = max < lanes[l] ? lanes[l] : max;
  for (; i < axis; ++i) max = max < to_accumulate(x[i]) ? to_accumulate(x[i]) : max;

  const V shift(max);
  const Acc sum = sum_row<Acc>(axis, [&](int64_t at, int64_t n) {
    V e = vexp(load_lanes<V>(x + at, n) - shift);
    if constexpr (kKeep) store_lanes(e, y + at, n);
    if (n < V::kLanes) {  // the lanes beyond the row hold exp(-max)
      Acc e_lanes[V::kLanes];
      e.store(e_lanes);
      e = V::load_partial(e_lanes, n);
    }
    return e;
  });
  const V factor(Acc(1) / sum);
  for (i = 0; i < axis; i += V::kLanes) {
    const V e = kKeep ? load_lanes<V>(y + i, axis - i) : vexp(load_lanes<V>(x + i, axis - i) - shift);
    store_lanes(e * factor, y + i, axis - i);
  }
}

template <class T>
void softmax_backward_row(const T* y, const T* dy, T* dx, int64_t axis) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const V dot(
      sum_row<Acc>(axis, [&](int64_t at, int64_t n) { return load_lanes<V>(y + at, n) * load_lanes<V>(dy + at, n); }));
  for (int64_t i = 0; i < axis; i += V::kLanes)
    store_lanes(load_lanes<V>(y + i, axis - i) * (load_lanes<V>(dy + i, axis - i) - dot), dx + i, axis - i);
}

// Sums over the axis of f(offset, vector index), for kVectors columns of lanes: blocks in Acc, then float64.
template <class Acc, int kVectors, class F>
FC_INLINE void sum_columns(int64_t axis, F f, Acc* sums) {
  using V = Vec<Acc>;
  constexpr int kWidth = kVectors * V::kLanes;
  double total[kWidth] = {};
  for (int64_t b = 0; b < axis; b += kSoftmaxBlock) {
    const int64_t stop = axis - b < kSoftmaxBlock ? axis : b + kSoftmaxBlock;
    V sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = V(0);
    for (int64_t a = b; a < stop; ++a)
      for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] + f(a, v);
    for (int v = 0; v < kVectors; ++v) sum[v].store(sums + v * V::kLanes);
    for (int i = 0; i < kWidth; ++i) total[i] += sums[i];
  }
  for (int i = 0; i < kWidth; ++i) sums[i] = static_cast<Acc>(total[i]);
}

// kVectors full vectors of rows, or (kVectors == 1) the first `n` lanes of one.
template <class T, int kVectors>
void softmax_columns(const T* x, T* y, int64_t axis, int64_t inner, int64_t n) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  constexpr bool kKeep = sizeof(T) == sizeof(Acc);
  const auto load = [n](const T* p) { return kVectors > 1 ? V::load(p) : load_lanes<V>(p, n); };
  const auto store = [n](V v, T* p) { kVectors > 1 ? v.store(p) : store_lanes(v, p, n); };
  V top[kVectors], factor[kVectors];
  for (int v = 0; v < kVectors; ++v) top[v] = load(x + v * V::kLanes);
  for (int64_t a = 1; a < axis; ++a)
    for (int v = 0; v < kVectors; ++v) top[v] = max_nan(load(x + a * inner + v * V::kLanes), top[v]);
  Acc sums[kVectors * V::kLanes];
  sum_columns<Acc, kVectors>(
      axis,
      [&](int64_t a, int v) {
        const int64_t at = a * inner + v * V::kLanes;
        const V e = vexp(load(x + at) - top[v]);
        if constexpr (kKeep) store(e, y + at);
        return e;
      },
      sums);
  for (int v = 0; v < kVectors; ++v) factor[v] = V(1) / V::load(sums + v * V::kLanes);
  for (int64_t a = 0; a < axis; ++a) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = a * inner + v * V::kLanes;
      store((kKeep ? load(y + at) : vexp(load(x + at) - top[v])) * factor[v], y + at);
    }
  }
}

template <class T, int kVectors>
void softmax_backward_columns(const T* y, const T* dy, T* dx, int64_t axis, int64_t inner, int64_t n) {
  using Acc = accumulate_t<T>;
  using V = Vec<Acc>;
  const auto load = [n](const T* p) { return kVectors > 1 ? V::load(p) : load_lanes<V>(p, n); };
  Acc dot[kVectors * V::kLanes];
  sum_columns<Acc, kVectors>(
      axis,
      [&](int64_t a, int v) { return load(y + a * inner + v * V::kLanes) * load(dy + a * inner + v * V::kLanes); },
      dot);
  for (int64_t a = 0; a < axis; ++a) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = a * inner + v * V::kLanes;
      const V g = load(y + at) * (load(dy + at) - V::load(dot + v * V::kLanes));
      kVectors > 1 ? g.store(dx + at) : store_lanes(g, dx + at, n);
    }
  }
}

// Splits (outer, inner) into rows or blocks of columns: row(offset) for inner == 1, else columns(offset, lanes).
template <class Acc, class Row, class Columns>
void for_softmax_rows(const SoftmaxCall& call, Row row, Columns columns) {
  constexpr int64_t kWidth = kSoftmaxVectors * Vec<Acc>::kLanes;
  const int64_t blocks = ceil_div(call.inner, kWidth);
  const int64_t cost = call.axis * (call.inner < kWidth ? call.inner : kWidth);
  parallel_for(call.outer * blocks, ceil_div(8192, cost), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t start = task / blocks * call.axis * call.inner;
      if (call.inner == 1) {
        row(start);
        continue;
      }
      const int64_t first = task % blocks * kWidth;
      columns(start + first, call.inner - first < kWidth ? call.inner - first : kWidth);
    }
  });
}

inline void softmax(const SoftmaxCall& call, const CallContext&) {
  if (call.outer * call.axis * call.inner == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    constexpr int64_t kLanes = Vec<Acc>::kLanes;
    const T* x = static_cast<const T*>(call.x);
    T* y = static_cast<T*>(call.y);
    for_softmax_rows<Acc>(
        call, [&](int64_t at) { softmax_row(x + at, y + at, call.axis); },
        [&](int64_t at, int64_t width) {
          if (width == kSoftmaxVectors * kLanes)
            return softmax_columns<T, kSoftmaxVectors>(x + at, y + at, call.axis, call.inner, kLanes);
          for (int64_t i = 0; i < width; i += kLanes)
            softmax_columns<T, 1>(x + at + i, y + at + i, call.axis, call.inner, width - i);
        });
  });
}

inline void softmax_backward(const SoftmaxCall& call, const CallContext&) {
  if (call.outer * call.axis * call.inner == 0) return;
  visit_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Acc = accumulate_t<T>;
    constexpr int64_t kLanes = Vec<Acc>::kLanes;
    const T *y = static_cast<const T*>(call.x), *dy = static_cast<const T*>(call.dy);
    T* dx = static_cast<T*>(call.y);
    for_softmax_rows<Acc>(
        call, [&](int64_t at) { softmax_backward_row(y + at, dy + at, dx + at, call.axis); },
        [&](int64_t at, int64_t width) {
          if (width == kSoftmaxVectors * kLanes)
            return softmax_backward_columns<T, kSoftmaxVectors>(y + at, dy + at, dx + at, call.axis, call.inner,
                                                                kLanes);
          for (int64_t i = 0; i < width; i += kLanes)
            softmax_backward_columns<T, 1>(y + at + i, dy + at + i, dx + at + i, call.axis, call.inner, width - i);
        });
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
