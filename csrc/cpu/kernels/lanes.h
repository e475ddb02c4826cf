// Vectors from and to memory of any storage type and stride, and rows of an image split into phases.
#pragma once

#include "../../common/dtypes.h"
#include "work_slots.h"

namespace fastconv::cpu::FASTCONV_ISA {

// visit_dtype over the storage types that are accumulated in Acc.
template <class Acc, class F>
FC_INLINE void visit_storage(DType dtype, F&& f) {
  if constexpr (sizeof(Acc) == 8) {
    f(TypeTag<double>{});
  } else {
    switch (dtype) {
      case DType::kFloat16:
        return f(TypeTag<half_t>{});
      case DType::kBFloat16:
        return f(TypeTag<bfloat16_t>{});
      default:
        return f(TypeTag<float>{});
    }
  }
}

// Up to kLanes elements, `stride` apart.
template <class T>
FC_INLINE Vec<accumulate_t<T>> load_lanes(const T* p, int64_t stride, int64_t lanes) {
  using V = Vec<accumulate_t<T>>;
  if (stride == 1) return lanes >= V::kLanes ? V::load(p) : V::load_partial(p, lanes);
  accumulate_t<T> values[V::kLanes] = {};
  for (int i = 0; i < V::kLanes && i < lanes; ++i) values[i] = to_accumulate(p[i * stride]);
  return V::load(values);
}

template <class T>
FC_INLINE void store_lanes(Vec<accumulate_t<T>> v, T* p, int64_t stride, int64_t lanes) {
  using V = Vec<accumulate_t<T>>;
  if (stride == 1) {
    if (lanes >= V::kLanes) return v.store(p);
    return v.store_partial(p, lanes);
  }
  accumulate_t<T> values[V::kLanes];
  v.store(values);
  for (int i = 0; i < V::kLanes && i < lanes; ++i) p[i * stride] = from_accumulate<T>(values[i]);
}

// Row `in` of W elements into its phases, from virtual column u0 on. The zeros around and between are there already:
// they lie at the same places of every row.
template <class Acc, class T>
FC_INLINE void stage_row(const T* in, int64_t stride, int64_t W, int64_t insert, int64_t u0, int64_t phases,
                         int64_t pitch, Acc* out) {
  using V = Vec<Acc>;
  const int64_t w0 = u0 <= 0 ? 0 : ceil_div(u0, insert), w1 = work::min(W, ceil_div(u0 + phases * pitch, insert));
  const int64_t j0 = w0 * insert - u0;
  if (stride == 1 && insert == 1 && phases == 1) {
    const T* from = in + w0;
    Acc* to = out + j0;
    int64_t left = w1 - w0;
    for (; left >= V::kLanes; left -= V::kLanes, from += V::kLanes, to += V::kLanes) V::load(from).store(to);
    if (left > 0) V::load_partial(from, left).store_partial(to, left);
  } else if (stride == 1 && insert == 1 && phases == 2) {
    const T* from = in + w0;
    Acc *evens = out + j0 % 2 * pitch + j0 / 2, *odds = out + (j0 + 1) % 2 * pitch + (j0 + 1) / 2;
    V even, odd;
    int64_t left = w1 - w0;
    for (; left >= 2 * V::kLanes; left -= 2 * V::kLanes, from += 2 * V::kLanes) {
      deinterleave(V::load(from), V::load(from + V::kLanes), even, odd);
      even.store(evens);
      odd.store(odds);
      evens += V::kLanes, odds += V::kLanes;
    }
    if (left > 0) {
      deinterleave(load_lanes(from, 1, left), load_lanes(from + V::kLanes, 1, left - V::kLanes), even, odd);
      store_lanes(even, evens, 1, (left + 1) / 2);
      store_lanes(odd, odds, 1, left / 2);
    }
  } else {
    for (int64_t w = w0, j = j0; w < w1; ++w, j += insert) {
      out[j % phases * pitch + j / phases] = to_accumulate(in[w * stride]);
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
