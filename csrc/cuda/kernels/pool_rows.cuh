// Pooling of rows that lie in memory (NCHW) by the windows that networks have, 3 columns wide at stride 2 or 2 at
// stride 2; of any height. A thread reads 16 bytes of a row at once and makes all the outputs that begin there:
//
//   3 at 2, pad 1    x   h|0 1 2 3 4 5 6 7        h: the neighbouring thread's last column, by a shuffle
//                    y    \_0_/\_2_/...           (pad 0: the next thread's first)
//
// so that every instruction's sectors are used whole, and what finds the place is paid once for 2 to 4 outputs. Taps
// are taken in the order of pool_windows: the same results bit for bit.
#pragma once

#include "../primitives/max_word.cuh"
#include "pool_windows.cuh"

namespace fastconv::cuda {

template <class T, PoolKind kKind_, int kWindow_>
struct PoolRowsConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr PoolKind kKind = kKind_;
  static constexpr int kWindow = kWindow_, kStride = 2;
  static constexpr int kIn = kWidestPack<T>, kOut = kIn / kStride;  // columns of a thread
  static constexpr int kThreads = kFlatThreads;
  static constexpr bool kHalo = kWindow > kStride;  // one column of a neighbour's
  static_assert(kWindow - kStride <= 1 && kOut >= 2);
};

struct PoolRowsParams {
  PoolAxis vertical, horizontal;
  TensorView x, y, indices;
  ImageIndex index;  // of threads: each is a pixel of an image kOut times narrower
  bool include_pad;
  int64_t divisor_override;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) pool_rows_kernel(const PoolRowsParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kIn = Config::kIn, kOut = Config::kOut, kStride = Config::kStride, kWindow = Config::kWindow;
  constexpr bool kAverage = Config::kKind == PoolKind::kAverage;
  const Acc neutral = kAverage ? Acc(0) : -static_cast<Acc>(INFINITY);  // changes no state
  const int64_t i = flat_thread();
  const bool inside = i < params.index.count;  // all lanes stay for the shuffles
  const ImagePlace at = params.index(inside ? i : params.index.count - 1);
  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  const int first = at.w * kIn, lane = static_cast<int>(threadIdx.x) % 32;
  const bool left = Config::kHalo && horizontal.pad == 1;  // where the halo lies
  const int halo_column = left ? first - 1 : first + kIn;
  const bool halo_inside = halo_column >= 0 && halo_column < horizontal.extent;
  const bool shuffled = lane != (left ? 0 : 31), loads_halo = Config::kHalo && halo_inside && !shuffled;
  const T* plane = params.x.template as<const T>() + params.x.offset(at.n, at.c, 0, 0);

  PoolState<Config> state[kOut];
  const int start = vertical.begin(at.h), end = vertical.end(at.h);
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    state[o].start();
    const int column = first + o * kStride - (left ? 1 : 0);
    state[o].place = start < end ? start * horizontal.extent + (column < 0 ? 0 : column) : -1;
  }
  // Takes this thread's columns of a row, and `own`, the halo of a lane without the neighbour that has it.
  const auto add_row = [&](const Pack<T, kIn>& row, Acc own, int place) {
    Acc v[kIn], tap[kIn + 1], halo = neutral;
#pragma unroll
    for (int e = 0; e < kIn; ++e) v[e] = to_accumulate(row.value[e]);
    if constexpr (Config::kHalo) {
      halo = left ? __shfl_up_sync(0xffffffffu, v[kIn - 1], 1) : __shfl_down_sync(0xffffffffu, v[0], 1);
      if (!shuffled) halo = own;
      if (!halo_inside) halo = neutral;
    }
#pragma unroll
    for (int e = 0; e < kIn; ++e) tap[e] = left ? (e == 0 ? halo : v[e == 0 ? 0 : e - 1]) : v[e];
    tap[kIn] = left ? v[kIn - 1] : halo;
#pragma unroll
    for (int o = 0; o < kOut; ++o) {
#pragma unroll
      for (int s = 0; s < kWindow; ++s) state[o].add(tap[o * kStride + s], place + o * kStride + s);
    }
  };
  Pack<T, kIn> row;
#pragma unroll
  for (int e = 0; e < kIn; ++e) row.value[e] = from_accumulate<T>(neutral);
  if constexpr (Config::kKind == PoolKind::kMax) {
    uint32_t top[4];
    memcpy(top, &row, 16);
    Acc own = neutral;
#pragma unroll 1
    for (int h = start; h < end; h += vertical.dilation) {
      const T* x = plane + h * params.x.stride[2];
      const Pack<uint32_t, 4> words = load_pack<4>(reinterpret_cast<const uint32_t*>(x + first));
#pragma unroll
      for (int w = 0; w < 4; ++w) top[w] = max_word<T>(top[w], words.value[w]);
      if (loads_halo) {
        const Acc v = to_accumulate(x[halo_column]);
        own = v > own || v != v ? v : own;
      }
    }
    memcpy(&row, top, 16);
    add_row(row, own, 0);
  } else {
    const Pack<T, kIn> nothing = row;
#pragma unroll 1
    for (int r = 0; r < vertical.window; ++r) {  // as often in every lane, for the shuffles
      const int h = at.h * vertical.stride - vertical.pad + r * vertical.dilation;
      const T* x = plane + h * params.x.stride[2];
      const bool row_inside = h >= 0 && h < vertical.extent;
      Acc own = neutral;
      row = nothing;
      if (row_inside) row = load_pack<kIn>(x + first);
      if (row_inside && loads_halo) own = to_accumulate(x[halo_column]);
      add_row(row, own, h * horizontal.extent + first - (left ? 1 : 0));
    }
  }
  if (!inside) return;

  Pack<T, kOut> out;
  const Acc height = static_cast<Acc>(vertical.counted(at.h, params.include_pad));
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    const int q = at.w * kOut + o;
    const Acc divisor = params.divisor_override ? static_cast<Acc>(params.divisor_override)
                                                : height * static_cast<Acc>(horizontal.counted(q, params.include_pad));
    out.value[o] = from_accumulate<T>(kAverage ? state[o].value / divisor : state[o].value);
  }
  store_pack<kOut>(params.y.template as<T>() + params.y.offset(at.n, at.c, at.h, at.w * kOut), out);
  if constexpr (Config::kKind == PoolKind::kMaxWithIndices) {
    int64_t* index = params.indices.template as<int64_t>() + params.indices.offset(at.n, at.c, at.h, at.w * kOut);
#pragma unroll
    for (int o = 0; o < kOut; o += 2) {
      store_pack<2>(index + o, Pack<int64_t, 2>{state[o].place, state[o + 1].place});
    }
  }
}

// False: the windows, or how the rows lie, are for the other kernels.
template <class Config>
bool launch_pool_rows(const char* name, const PoolCall& call, const LaunchConfig& base) {
  using T = typename Config::Element;
  constexpr int kIn = Config::kIn, kOut = Config::kOut;
  const PoolProblem& c = call.problem;
  PoolRowsParams params;
  params.vertical = vertical_axis(c);
  params.horizontal = horizontal_axis(c);
  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  // Q is half of W where both are of whole packs: the others that there are, one more or less, are not.
  const bool served = !vertical.adaptive && !horizontal.adaptive && horizontal.window == Config::kWindow &&
                      horizontal.stride == Config::kStride && horizontal.dilation == 1 &&
                      int64_t{vertical.window} * Config::kWindow < kPoolBlockTaps && c.H * c.W <= 0x7fffffff;
  if (!served || !runs_in_packs(call.x, 3, kIn, 16) || !runs_in_packs(call.y, 3, kOut, kOut * sizeof(T)) ||
      !runs_in_packs(call.indices, 3, 2, 16)) {
    return false;
  }
  params.x = call.x, params.y = call.y, params.indices = call.indices;
  params.include_pad = c.count_include_pad;
  params.divisor_override = c.divisor_override;
  params.index = ImageIndex(c.N, c.C, c.P, c.Q / kOut, 1, false);
  launch(name, flat_launch(base, params.index.count), pool_rows_kernel<Config>, params);
  return true;
}

}  // namespace fastconv::cuda
