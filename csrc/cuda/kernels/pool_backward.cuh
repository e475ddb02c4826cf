// Gradients of pooling in gather form: every dx[n, c, h, w] looks at the windows that lie over it, and adds dy where
// the window's index points to it (max), or dy over the window's divisor (average). Nothing is scattered, so nothing is
// atomic and the order of additions is fixed. A thread for each pixel and pack of channels (NHWC), or element.
#pragma once

#include "image_index.cuh"
#include "pool_axis.cuh"
#include "reciprocal.cuh"

namespace fastconv::cuda {

template <class T, int kPack_, bool kMax_>
struct PoolBackwardConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_;
  static constexpr bool kMax = kMax_;
  static constexpr int kIndexPack = kPack > 1 ? 2 : 1;  // int64 indices in one access
  static_assert(kPack * sizeof(T) <= 16 && kPack % kIndexPack == 0);
};

struct PoolBackwardParams {
  PoolAxis vertical, horizontal;
  TensorView dy, dx, indices;
  ImageIndex index;  // of dx
  bool include_pad;
  int64_t divisor_override;
};

template <class Config>
__global__ void __launch_bounds__(kFlatThreads) pool_backward_kernel(const PoolBackwardParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kIndexPack = Config::kIndexPack;
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  const int p0 = vertical.first_over(at.h), p1 = vertical.last_over(at.h);
  const int q0 = horizontal.first_over(at.w), q1 = horizontal.last_over(at.w);
  const int64_t here = static_cast<int64_t>(at.h) * horizontal.extent + at.w;
  Acc sum[kPack] = {};
#pragma unroll 1  // enough threads to wait together; unrolled, it takes twice the registers
  for (int p = p0; p <= p1; ++p) {
    [[maybe_unused]] const Acc height =
        Config::kMax || params.divisor_override ? Acc(1) : static_cast<Acc>(vertical.counted(p, params.include_pad));
#pragma unroll 1
    for (int q = q0; q <= q1; ++q) {
      const Pack<T, kPack> dy = load_pack<kPack>(params.dy.template as<const T>() + params.dy.offset(at.n, at.c, p, q));
      if constexpr (Config::kMax) {
        const int64_t* index = params.indices.template as<const int64_t>() + params.indices.offset(at.n, at.c, p, q);
#pragma unroll
        for (int e = 0; e < kPack; e += kIndexPack) {
          const Pack<int64_t, kIndexPack> places = load_pack<kIndexPack>(index + e);
#pragma unroll
          for (int j = 0; j < kIndexPack; ++j) {
            if (places.value[j] == here) sum[e + j] += to_accumulate(dy.value[e + j]);
          }
        }
      } else {
        // The quotient, as torch has it, needs a division for each channel; a product is half a last place off.
        const Acc divisor = params.divisor_override
                                ? static_cast<Acc>(params.divisor_override)
                                : height * static_cast<Acc>(horizontal.counted(q, params.include_pad));
        const Acc share = reciprocal(divisor);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += to_accumulate(dy.value[e]) * share;
      }
    }
  }
  Pack<T, kPack> out;
#pragma unroll
  for (int e = 0; e < kPack; ++e) out.value[e] = from_accumulate<T>(sum[e]);
  store_pack<kPack>(params.dx.template as<T>() + params.dx.offset(at.n, at.c, at.h, at.w), out);
}

template <class Config>
void launch_pool_backward(const char* name, const PoolCall& call, const LaunchConfig& base) {
  const PoolProblem& c = call.problem;
  PoolBackwardParams params;
  params.vertical = vertical_axis(c);
  params.horizontal = horizontal_axis(c);
  params.dy = call.x, params.dx = call.y, params.indices = call.indices;
  params.include_pad = c.count_include_pad;
  params.divisor_override = c.divisor_override;
  params.index = ImageIndex(c.N, c.C, c.H, c.W, Config::kPack, call.y.stride[1] == 1 && c.C > 1);
  launch(name, flat_launch(base, params.index.count), pool_backward_kernel<Config>, params);
}

}  // namespace fastconv::cuda
