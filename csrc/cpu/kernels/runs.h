// Runs of elements between memory of any storage type and stride and dense buffers of the accumulate type: how kernels
// that compute on dense vectors serve half precision and odd strides.
#pragma once

#include "../../common/dtypes.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <class T>
void load_run(const T* p, int64_t stride, int64_t n, accumulate_t<T>* out) {
  using V = Vec<accumulate_t<T>>;
  if (stride != 1) {
    for (int64_t i = 0; i < n; ++i) out[i] = to_accumulate(p[i * stride]);
    return;
  }
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) V::load(p + i).store(out + i);
  if (i < n) V::load_partial(p + i, n - i).store_partial(out + i, n - i);
}

template <class T>
void store_run(T* p, int64_t stride, int64_t n, const accumulate_t<T>* in) {
  using V = Vec<accumulate_t<T>>;
  if (stride != 1) {
    for (int64_t i = 0; i < n; ++i) p[i * stride] = from_accumulate<T>(in[i]);
    return;
  }
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) V::load(in + i).store(p + i);
  if (i < n) V::load_partial(in + i, n - i).store_partial(p + i, n - i);
}

// A dense view of `n` elements at p: p itself when it is one already, else `buffer`, filled.
template <class T>
FC_INLINE const accumulate_t<T>* dense_run(const T* p, int64_t stride, int64_t n, accumulate_t<T>* buffer) {
  if constexpr (sizeof(T) == sizeof(accumulate_t<T>)) {
    if (stride == 1) return p;
  }
  load_run(p, stride, n, buffer);
  return buffer;
}

// An unsigned integer of an element's size: for kernels that only move elements.
template <size_t kBytes>
struct UnsignedOf {
  using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using type = uint64_t;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastconv::cpu::FASTCONV_ISA
