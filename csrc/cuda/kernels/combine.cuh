// y = a (any element type to any other), a + b, a * b over tensors of any strides, y over a included. Memory-bound: a
// thread moves one pack of up to 16 bytes of the wider type along y's innermost axis; what does not lie in packs goes
// element by element, in y's order, so that writes are whole sectors and reads of another layout meet in L1.
#pragma once

#include "../../common/calls.h"
#include "merged_axes.cuh"

namespace fastconv::cuda {

enum CombineOperand { kCombineY, kCombineA, kCombineB, kCombineOperands };

template <class From, class To>
constexpr int kCombinePack = 16 / static_cast<int>(sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));

struct CombineParams {
  AxisIndex<kCombineOperands> index;
  const void* a;
  const void* b;
  void* y;
  bool multiply;
  // How far elements of a pack lie apart: 1, or 0 where an operand repeats one value along the axis.
  int a_step, b_step;
};

template <int kPack, class T>
__device__ __forceinline__ Pack<T, kPack> load_run(const T* p, int step) {
  if (step != 0) return load_pack<kPack>(p);
  Pack<T, kPack> run;
#pragma unroll
  for (int e = 0; e < kPack; ++e) run.value[e] = *p;
  return run;
}

// To and From are the same unsigned integer where bits are moved as they are; else floating-point types, through
// float32, or float64 where one of the two is that.
template <class From, class To>
__device__ __forceinline__ To converted(From v) {
  if constexpr (std::is_same_v<From, To>) {
    return v;
  } else {
    return from_accumulate<To>(static_cast<accumulate_t<To>>(to_accumulate(v)));
  }
}

template <class From, class To, int kPack>
__global__ void __launch_bounds__(kFlatThreads) copy_kernel(const CombineParams params) {
  const int64_t item = flat_thread();
  if (item >= params.index.count) return;
  int64_t offset[kCombineOperands];
  params.index.locate(item, offset);
  const Pack<From, kPack> a = load_run<kPack>(static_cast<const From*>(params.a) + offset[kCombineA], params.a_step);
  Pack<To, kPack> y;
#pragma unroll
  for (int e = 0; e < kPack; ++e) y.value[e] = converted<From, To>(a.value[e]);
  store_pack<kPack>(static_cast<To*>(params.y) + offset[kCombineY], y);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kFlatThreads) binary_kernel(const CombineParams params) {
  const int64_t item = flat_thread();
  if (item >= params.index.count) return;
  int64_t offset[kCombineOperands];
  params.index.locate(item, offset);
  const Pack<T, kPack> a = load_run<kPack>(static_cast<const T*>(params.a) + offset[kCombineA], params.a_step);
  const Pack<T, kPack> b = load_run<kPack>(static_cast<const T*>(params.b) + offset[kCombineB], params.b_step);
  Pack<T, kPack> y;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    const auto left = to_accumulate(a.value[e]), right = to_accumulate(b.value[e]);
    y.value[e] = from_accumulate<T>(params.multiply ? left * right : left + right);
  }
  store_pack<kPack>(static_cast<T*>(params.y) + offset[kCombineY], y);
}

}  // namespace fastconv::cuda
