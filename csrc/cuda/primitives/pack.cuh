// Vector accesses: N elements moved as one 2- to 16-byte load or store.
#pragma once

#include <cstdint>

#include "cuda.h"

namespace fastconv::cuda {

template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  static_assert(N * sizeof(T) <= 16, "one instruction moves at most 16 bytes");
  T value[N];
};

// The widest pack of T that one instruction moves, but no wider than four elements.
template <class T>
constexpr int kPackSize = sizeof(T) >= 8 ? 2 : 4;

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& v) {
  *reinterpret_cast<Pack<T, N>*>(p) = v;
}

// Whether every element that lies a multiple of `elements` from `p` starts an aligned pack, given strides that are
// multiples of it.
template <class T>
bool pack_aligned(const T* p, int elements) {
  return reinterpret_cast<uintptr_t>(p) % (elements * sizeof(T)) == 0;
}

}  // namespace fastconv::cuda
