// Softmax and its gradient over columns that a block's registers do not hold: a loop with a running maximum and a sum
// scaled to it (Milakov and Gimelshein), then a second loop that writes. In between the elements wait in shared memory,
// each for the thread that brought it; where they do not fit there either, they are read twice.
#pragma once

#include "softmax.cuh"

namespace fastconv::cuda {

// Packs of one operand that a thread takes at most.
template <class Config>
__host__ __device__ inline int64_t softmax_packs(const SoftmaxParams& params) {
  const int64_t step = static_cast<int64_t>(Config::kAxisPack) << (5 - params.lane_bits + params.warp_bits);
  return (params.axis + step - 1) / step;
}

// An operand on its way through the two loops.
template <class Config>
struct SoftmaxOperand {
  using T = typename Config::Element;
  using Packed = Pack<T, Config::kPack>;
  static constexpr int kKept = Config::kKept;
  const SoftmaxShare<Config>& share;
  const T* x;
  Packed* slot;  // this thread's, those of its neighbours beside it; or none

  __device__ __forceinline__ SoftmaxOperand(const SoftmaxParams& params, const SoftmaxShare<Config>& share_,
                                            const void* x_, int operand)
      : share(share_), x(static_cast<const T*>(x_)), slot(nullptr) {
    if (!params.stored) return;
    slot = reinterpret_cast<Packed*>(dynamic_shared_memory()) +
           operand * softmax_packs<Config>(params) * kSoftmaxThreads + threadIdx.x;
  }
  // The thread's packs from number `pack` on, at position `from`: the first time from global memory.
  __device__ __forceinline__ void first(Packed (&v)[kKept], int64_t from, int64_t pack, T outside) const {
    share.load(v, x, from, outside);
    if (slot == nullptr) return;
    const int left = share.left(from);
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (k * share.step < left) slot[(pack + k) * kSoftmaxThreads] = v[k];
    }
  }
  __device__ __forceinline__ void again(Packed (&v)[kKept], int64_t from, int64_t pack) const {
    if (slot == nullptr) return share.load(v, x, from, T{});
    const int left = share.left(from);
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      if (k * share.step < left) v[k] = slot[(pack + k) * kSoftmaxThreads];
    }
  }
};

// The results, in a second pass over the thread's packs: again(from, pack) has kKept of them at hand once more, and
// value(k, e) is the result of an element of pack k.
template <class Config, class Again, class Value>
__device__ __forceinline__ void write_again(const SoftmaxParams& params, const SoftmaxShare<Config>& share,
                                            const Again& again, const Value& value) {
  using T = typename Config::Element;
  constexpr int kPack = Config::kPack, kKept = Config::kKept;
  T* results = static_cast<T*>(params.y) + share.first;
  const int64_t ahead = share.step * share.axis_stride;
  int64_t pack = 0;
#pragma unroll 1
  for (int64_t from = share.start; from < share.end; from += kKept * share.step, pack += kKept) {
    again(from, pack);
    const int left = share.left(from);
    T* out_at = results + from * share.axis_stride;
#pragma unroll
    for (int k = 0; k < kKept; ++k, out_at += ahead) {
      if (k * share.step >= left) break;
      Pack<T, kPack> out;
#pragma unroll
      for (int e = 0; e < kPack; ++e) out.value[e] = from_accumulate<T>(value(k, e));
      store_pack<kPack>(out_at, out);
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(kSoftmaxThreads, 1) softmax_long_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kKept = Config::kKept;
  static_assert(Config::kColumns == 1);
  __shared__ Acc shared[kSoftmaxWarps][32];
  const SoftmaxShare<Config> share(params);
  const SoftmaxOperand<Config> x(params, share, params.x, 0);
  const T outside = from_accumulate<T>(-static_cast<Acc>(INFINITY));
  Pack<T, kPack> v[kKept];
  Acc top[1] = {-static_cast<Acc>(INFINITY)}, sum[1] = {Acc(0)};
  int64_t pack = 0;
#pragma unroll 1
  for (int64_t from = share.start; from < share.end; from += kKept * share.step, pack += kKept) {
    x.first(v, from, pack, outside);
    Acc higher = top[0];
#pragma unroll
    for (int i = 0; i < kKept * kPack; ++i) higher = max_nan(to_accumulate(v[i / kPack].value[i % kPack]), higher);
    sum[0] *= softmax_scale(top[0], higher);
    top[0] = higher;
#pragma unroll
    for (int i = 0; i < kKept * kPack; ++i) {
      sum[0] += softmax_scale(to_accumulate(v[i / kPack].value[i % kPack]), higher);
    }
  }
  const Acc own = top[0];
  share.reduce(params, top, shared, SoftmaxMax());
  sum[0] *= softmax_scale(own, top[0]);
  share.reduce(params, sum, shared, SoftmaxSum());

  // A column of -inf has sum 0 and gives exp(-inf + inf) = NaN, as torch's does.
  const Acc factor = Acc(1) / sum[0];
  write_again(
      params, share, [&](int64_t from, int64_t at) { x.again(v, from, at); },
      [&](int k, int e) { return vexp(to_accumulate(v[k].value[e]) - top[0]) * factor; });
}

template <class Config>
__global__ void __launch_bounds__(kSoftmaxThreads, 1) softmax_backward_long_kernel(const SoftmaxParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kKept = Config::kKept;
  static_assert(Config::kColumns == 1);
  __shared__ Acc shared[kSoftmaxWarps][32];
  const SoftmaxShare<Config> share(params);
  const SoftmaxOperand<Config> y(params, share, params.x, 0), dy(params, share, params.dy, 1);
  Pack<T, kPack> v[kKept], g[kKept];
  Acc sum[1] = {Acc(0)};
  int64_t pack = 0;
#pragma unroll 1
  for (int64_t from = share.start; from < share.end; from += kKept * share.step, pack += kKept) {
    y.first(v, from, pack, from_accumulate<T>(Acc(0)));
    dy.first(g, from, pack, from_accumulate<T>(Acc(0)));
#pragma unroll
    for (int i = 0; i < kKept * kPack; ++i) {
      sum[0] += to_accumulate(v[i / kPack].value[i % kPack]) * to_accumulate(g[i / kPack].value[i % kPack]);
    }
  }
  share.reduce(params, sum, shared, SoftmaxSum());
  write_again(
      params, share,
      [&](int64_t from, int64_t at) {
        y.again(v, from, at);
        dy.again(g, from, at);
      },
      [&](int k, int e) { return to_accumulate(v[k].value[e]) * (to_accumulate(g[k].value[e]) - sum[0]); });
}

}  // namespace fastconv::cuda
