// Max and average pooling: y[n, c, p, q] = the maximum, or the mean, of x over window (p, q); the place of the maximum
// when asked for. Two kernels share the arithmetic:
//
//   pool_windows   a thread for each output pixel and pack of channels (NHWC), or output element (other layouts)
//   pool_blocks    a block for each large window (global pooling above all): `lanes` packs of channels side by side,
//                  each by 256 / lanes threads that take every so-manieth tap and combine theirs in shared memory
//
// torch's rules: padding is never chosen, the first of equal pixels wins, and of NaNs the last (they are larger than
// anything); a window without a pixel gives -inf and index -1.
#pragma once

#include "image_index.cuh"
#include "pool_axis.cuh"

namespace fastconv::cuda {

enum class PoolKind { kMax, kMaxWithIndices, kAverage };

template <class T, int kPack_, PoolKind kKind_>
struct PoolConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_;
  static constexpr PoolKind kKind = kKind_;
  static constexpr int kThreads = kFlatThreads;
  static constexpr bool kIndices = kKind == PoolKind::kMaxWithIndices;
  static_assert(kPack * sizeof(T) <= 16);
};

struct PoolParams {
  PoolAxis vertical, horizontal;
  TensorView x, y, indices;
  ImageIndex index;  // of the outputs
  bool include_pad;
  int64_t divisor_override;
  int lanes;                // pool_blocks only, a power of two
  int64_t packs;            // pool_blocks only: packs of channels
  Divider channel_blocks;   // pool_blocks only
  ImageIndex window_index;  // pool_blocks only, of the windows of one block of channels
};

// A window's state for one channel. `place` counts from the window's first tap: (h - h0) * W + w - w0.
template <class Config>
struct PoolState {
  using Acc = typename Config::Acc;
  Acc value;
  int place;

  __device__ __forceinline__ void start() {
    value = Config::kKind == PoolKind::kAverage ? Acc(0) : -static_cast<Acc>(INFINITY);
    place = 0;
  }
  // A tap, later than all before.
  __device__ __forceinline__ void add(Acc v, int at) {
    if constexpr (Config::kKind == PoolKind::kAverage) {
      value += v;
    } else if (v > value || v != v) {
      value = v;
      place = at;
    }
  }
  // Another thread's taps, which lie between one's own.
  __device__ __forceinline__ void merge(const PoolState& other) {
    if constexpr (Config::kKind == PoolKind::kAverage) {
      value += other.value;
    } else {
      const bool nan = value != value, other_nan = other.value != other.value;
      const bool wins = other_nan ? !nan || other.place > place
                                  : !nan && (other.value > value || (other.value == value && other.place < place));
      if (wins) *this = other;
    }
  }
};

template <class Config>
__device__ __forceinline__ void pool_store(const PoolParams& params, const ImagePlace& at,
                                           PoolState<Config> (&state)[Config::kPack]) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack;
  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  Acc divisor(1);
  if constexpr (Config::kKind == PoolKind::kAverage) {
    divisor = params.divisor_override ? static_cast<Acc>(params.divisor_override)
                                      : static_cast<Acc>(vertical.counted(at.h, params.include_pad)) *
                                            static_cast<Acc>(horizontal.counted(at.w, params.include_pad));
  }
  Pack<T, kPack> out;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    out.value[e] = from_accumulate<T>(Config::kKind == PoolKind::kAverage ? state[e].value / divisor : state[e].value);
  }
  store_pack<kPack>(params.y.template as<T>() + params.y.offset(at.n, at.c, at.h, at.w), out);
  if constexpr (Config::kIndices) {
    const int h0 = vertical.begin(at.h), w0 = horizontal.begin(at.w);
    const bool empty = h0 >= vertical.end(at.h) || w0 >= horizontal.end(at.w);
    const int64_t first = static_cast<int64_t>(h0) * horizontal.extent + w0;
    int64_t* index = params.indices.template as<int64_t>() + params.indices.offset(at.n, at.c, at.h, at.w);
    constexpr int kIndexPack = kPack > 1 ? 2 : 1;
#pragma unroll
    for (int e = 0; e < kPack; e += kIndexPack) {
      Pack<int64_t, kIndexPack> places;
#pragma unroll
      for (int i = 0; i < kIndexPack; ++i) places.value[i] = empty ? -1 : first + state[e + i].place;
      store_pack<kIndexPack>(index + e, places);
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) pool_windows_kernel(const PoolParams params) {
  using T = typename Config::Element;
  constexpr int kPack = Config::kPack;
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  const int h0 = vertical.begin(at.h), h1 = vertical.end(at.h), w0 = horizontal.begin(at.w), w1 = horizontal.end(at.w);
  PoolState<Config> state[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) state[e].start();
  const int64_t column_step = params.x.stride[3] * horizontal.dilation;
  for (int h = h0; h < h1; h += vertical.dilation) {
    const T* tap = params.x.template as<const T>() + params.x.offset(at.n, at.c, h, w0);
    int place = (h - h0) * horizontal.extent;
    for (int w = w0; w < w1; w += horizontal.dilation, tap += column_step, place += horizontal.dilation) {
      const Pack<T, kPack> v = load_pack<kPack>(tap);
#pragma unroll
      for (int e = 0; e < kPack; ++e) state[e].add(to_accumulate(v.value[e]), place);
    }
  }
  pool_store<Config>(params, at, state);
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) pool_blocks_kernel(const PoolParams params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kThreads = Config::kThreads;
  __shared__ Acc values[kPack][kThreads];
  __shared__ int places[Config::kIndices ? kPack : 1][kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = params.lanes, rows = kThreads / lanes, row = thread / lanes;
  int64_t channel_block;
  const int64_t window = params.channel_blocks.divide(static_cast<int64_t>(blockIdx.x), channel_block);
  ImagePlace at = params.window_index(window);
  const int64_t pack = channel_block * lanes + thread % lanes;
  at.c += pack * kPack;  // one of the two is 0
  const bool inside = pack < params.packs;

  const PoolAxis &vertical = params.vertical, &horizontal = params.horizontal;
  const int h0 = vertical.begin(at.h), h1 = vertical.end(at.h), w0 = horizontal.begin(at.w), w1 = horizontal.end(at.w);
  PoolState<Config> state[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) state[e].start();
  if (inside && h0 < h1 && w0 < w1) {
    const int columns = horizontal.taps(w0, w1);
    const int rows_ahead = rows / columns, columns_ahead = rows % columns;
    int r = row / columns, s = row % columns;
    for (int h = h0 + r * vertical.dilation; h < h1; h = h0 + r * vertical.dilation) {
      const int w = w0 + s * horizontal.dilation;
      const Pack<T, kPack> v = load_pack<kPack>(params.x.template as<const T>() + params.x.offset(at.n, at.c, h, w));
      const int place = (h - h0) * horizontal.extent + w - w0;
#pragma unroll
      for (int e = 0; e < kPack; ++e) state[e].add(to_accumulate(v.value[e]), place);
      r += rows_ahead, s += columns_ahead;
      if (s >= columns) s -= columns, ++r;
    }
  }
  for (int step = rows / 2; step > 0; step /= 2) {
    if (row >= step && row < 2 * step) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        values[e][thread] = state[e].value;
        if constexpr (Config::kIndices) places[e][thread] = state[e].place;
      }
    }
    __syncthreads();
    if (row < step) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        PoolState<Config> other;
        other.value = values[e][thread + step * lanes];
        other.place = Config::kIndices ? places[e][thread + step * lanes] : 0;
        state[e].merge(other);
      }
    }
    // No second barrier: what the next step writes has not been used yet.
  }
  if (row == 0 && inside) pool_store<Config>(params, at, state);
}

// From this many taps a window is a block's work: a thread alone would take as many loads, one after the other.
constexpr int64_t kPoolBlockTaps = 32;

template <class Config>
void launch_pool(const char* name, const PoolCall& call, const LaunchConfig& base) {
  constexpr int kPack = Config::kPack;
  const PoolProblem& c = call.problem;
  PoolParams params;
  params.vertical = vertical_axis(c);
  params.horizontal = horizontal_axis(c);
  params.x = call.x, params.y = call.y, params.indices = call.indices;
  params.include_pad = c.count_include_pad;
  params.divisor_override = c.divisor_override;
  const bool channels = call.x.stride[1] == 1 && c.C > 1;
  params.index = ImageIndex(c.N, c.C, c.P, c.Q, kPack, channels);
  params.lanes = 1;
  params.packs = 1;
  const int64_t taps = static_cast<int64_t>(params.vertical.most_taps()) * params.horizontal.most_taps();
  if (taps < kPoolBlockTaps) {
    return launch(name, flat_launch(base, params.index.count), pool_windows_kernel<Config>, params);
  }
  int64_t blocks = 1;
  if (channels) {
    params.packs = c.C / kPack;
    while (params.lanes < 32 && params.lanes < params.packs) params.lanes *= 2;
    blocks = (params.packs + params.lanes - 1) / params.lanes;
  }
  params.window_index = ImageIndex(c.N, channels ? 1 : c.C, c.P, c.Q, 1, false);
  const int64_t grid = params.window_index.count * blocks;
  if (grid > 0x7fffffff) {  // windows overlap beyond all measure
    return launch(name, flat_launch(base, params.index.count), pool_windows_kernel<Config>, params);
  }
  params.channel_blocks = Divider(blocks, grid);
  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(grid));
  launch(name, config, pool_blocks_kernel<Config>, params);
}

}  // namespace fastconv::cuda
