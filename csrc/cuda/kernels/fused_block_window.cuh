// The middle stage of fused_block_mma.cuh, on CUDA cores: one filter per channel over the chunk of hidden channels in
// shared memory, into the projection's operand A, which lies in shared memory too.
//
//   hidden   [row][column modulo stride][column / stride]   80 bytes a pixel, 32 channels
//   columns  [output pixel of the tile]                     64 bytes, as MmaTile has them
//
// A lane has two channels, or one where the filters of two would not fit in its registers, and kFusedRun outputs of a
// column, whose rows slide past. With two channels the halves of a warp take columns that are four apart, so that their
// loads fall into different banks.
#pragma once

#include "../primitives/fast_divmod.cuh"
#include "../primitives/pack.cuh"
#include "fused_block_plan.h"
#include "mma_main_loop.cuh"

namespace fastconv::cuda {

// What follows a stage's sums where the next stage reads them: a bias and an activation, a parameter for each channel.
struct InnerEpilogue {
  const float* bias;
  const float* channel_param;  // null: `param` for all
  float param;
  float low, high;  // of identity, relu and relu6: the values are clamped
  bool clamps;
  Activation act;
};

// v[i] belongs to channel first + i / kOf * kOfStep + i % kAdjacent; beyond `last` there are none that somebody reads.
template <int kAdjacent, int kOf, int kOfStep, int kCount>
__device__ __forceinline__ void activate_inner(const InnerEpilogue& e, float (&v)[kCount], int first, int last) {
  if (e.clamps) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = min_nan(max_nan(v[i], e.low), e.high);
    return;
  }
  // The code of all activations is long: it stands here once, and the values are rotated past it.
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    const float param =
        e.channel_param ? e.channel_param[min(first + i / kOf * kOfStep + i % kAdjacent, last)] : e.param;
    const float value =
        visit_activation(e.act, [&](auto f) { return decltype(f)::template apply<float>(v[0], param); });
#pragma unroll
    for (int j = 0; j + 1 < kCount; ++j) v[j] = v[j + 1];
    v[kCount - 1] = value;
  }
}

// The stage's geometry, and where this block's tile of outputs ends.
struct FusedWindow {
  InnerEpilogue epilogue;
  int R, S, stride_h, stride_w, dilation_h, dilation_w;
  int fixed;                 // 10 * filter + stride of the windows that have code of their own, else 0
  FastDivmod column_groups;  // of eight columns, in a row of the tile
};

struct FusedWindowPart {
  const unsigned char* hidden;
  const unsigned char* filters;
  unsigned char* columns;
  int rows, columns_wide;   // of outputs in this tile that the image has
  int first_channel, last;  // of the chunk; of the block
};

namespace fused_detail {

// This lane's first channel of the chunk, where it has `kChannels`.
template <int kChannels>
__device__ __forceinline__ int lane_channel() {
  return static_cast<int>(threadIdx.x) % (32 / kChannels) * kChannels;
}

// Calls f(first output row, output column) for this lane's runs of outputs.
template <class Config, int kChannels, class F>
__device__ __forceinline__ void for_each_run(const FusedWindow& window, const FusedWindowPart& part, F&& f) {
  constexpr int kUnits = 8 / kChannels;  // of a group of eight columns
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int units = (part.rows + kFusedRun - 1) / kFusedRun * static_cast<int>(window.column_groups.divisor) * kUnits;
#pragma unroll 1
  for (int unit = warp; unit < units; unit += Config::kThreads / 32) {
    int group;
    const int run = window.column_groups.divmod(unit / kUnits, group);
    const int q = group * 8 + (kChannels == 2 ? lane / 16 * 4 : 0) + unit % kUnits;
    if (q < part.columns_wide) f(run * kFusedRun, q);
  }
}

template <class Config, int kChannels>
__device__ __forceinline__ void finish_run(const FusedWindow& window, const FusedWindowPart& part,
                                           const FusedLayout& layout, const float (&bias)[kChannels],
                                           const float (&sums)[kFusedRun][kChannels], int row, int q) {
  using T = typename Config::Element;
  const int channel = lane_channel<kChannels>(), first = part.first_channel + channel;
  float v[kFusedRun * kChannels];
#pragma unroll
  for (int i = 0; i < kFusedRun * kChannels; ++i) v[i] = sums[i / kChannels][i % kChannels] + bias[i % kChannels];
  activate_inner<kChannels, kFusedRun * kChannels, 0>(window.epilogue, v, first, part.last);
#pragma unroll
  for (int o = 0; o < kFusedRun; ++o) {
    const int line = (row + o) * layout.tile_q + q;
    Pack<T, kChannels> stored;
    // Channels beyond the last meet weights of zero: they must be finite, whatever x and the activation are.
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      stored.value[i] = from_accumulate<T>(first + i <= part.last ? v[o * kChannels + i] : 0.0f);
    }
    T* to = reinterpret_cast<T*>(part.columns + Config::Tile::offset(line, channel / 8)) + channel % 8;
    store_pack<kChannels>(to, stored);
  }
}

template <int kChannels>
__device__ __forceinline__ void load_bias(const FusedWindow& window, const FusedWindowPart& part,
                                          float (&bias)[kChannels]) {
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int k = part.first_channel + lane_channel<kChannels>() + i;
    bias[i] = window.epilogue.bias && k <= part.last ? window.epilogue.bias[k] : 0.0f;
  }
}

template <class T, int kChannels>
__device__ __forceinline__ void load_channels(float (&v)[kChannels], const unsigned char* from) {
  const Pack<T, kChannels> loaded = load_pack<kChannels>(reinterpret_cast<const T*>(from));
#pragma unroll
  for (int i = 0; i < kChannels; ++i) v[i] = to_accumulate(loaded.value[i]);
}

// Filters of kFilter x kFilter, no dilation: the filter in registers, every value loaded and widened once a run.
template <class Config, int kFilter, int kStride, int kChannels>
__device__ __forceinline__ void filter_fixed(const FusedWindow& window, const FusedWindowPart& part,
                                             const FusedLayout& layout) {
  using T = typename Config::Element;
  const int channel = lane_channel<kChannels>();
  float bias[kChannels], filter[kFilter][kFilter][kChannels];
  load_bias(window, part, bias);
#pragma unroll
  for (int i = 0; i < kFilter * kFilter * kChannels; ++i) {
    const int r = i / kChannels / kFilter, s = i / kChannels % kFilter;
    filter[r][s][i % kChannels] = to_accumulate(
        reinterpret_cast<const T*>(part.filters)[((channel + i % kChannels) * kFilter + r) * layout.tap_pitch + s]);
  }
  const int pitch = layout.phase_columns * kStride * kFusedPixelBytes;
  for_each_run<Config, kChannels>(window, part, [&](int row, int q) {
    const unsigned char* in = part.hidden + row * kStride * pitch + q * kFusedPixelBytes + channel * 2;
    float sums[kFusedRun][kChannels] = {};
#pragma unroll
    for (int i = 0; i < (kFusedRun - 1) * kStride + kFilter; ++i) {
      float v[kFilter][kChannels];
#pragma unroll
      for (int s = 0; s < kFilter; ++s) {
        load_channels<T>(v[s], in + (s % kStride * layout.phase_columns + s / kStride) * kFusedPixelBytes);
      }
      in += pitch;
#pragma unroll
      for (int o = 0; o < kFusedRun; ++o) {
        const int r = i - o * kStride;
        if (r < 0 || r >= kFilter) continue;
#pragma unroll
        for (int s = 0; s < kFilter; ++s) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) sums[o][c] += filter[r][s][c] * v[s][c];
        }
      }
    }
    finish_run<Config>(window, part, layout, bias, sums, row, q);
  });
}

// Any window: every tap loads its outputs' values anew.
template <class Config>
__device__ __forceinline__ void filter_any(const FusedWindow& window, const FusedWindowPart& part,
                                           const FusedLayout& layout) {
  using T = typename Config::Element;
  const int channel = lane_channel<2>();
  const int pitch = layout.phase_columns * window.stride_w * kFusedPixelBytes;
  float bias[2];
  load_bias(window, part, bias);
  for_each_run<Config, 2>(window, part, [&](int row, int q) {
    float sums[kFusedRun][2] = {};
#pragma unroll 1
    for (int tap = 0; tap < window.R * window.S; ++tap) {
      const int r = tap / window.S, s = tap % window.S, column = s * window.dilation_w;
      const T* weight = reinterpret_cast<const T*>(part.filters) + (channel * window.R + r) * layout.tap_pitch + s;
      const float filter[2] = {to_accumulate(weight[0]), to_accumulate(weight[window.R * layout.tap_pitch])};
      const int place = q + column % window.stride_w * layout.phase_columns + column / window.stride_w;
      const unsigned char* in = part.hidden + (row * window.stride_h + r * window.dilation_h) * pitch +
                                place * kFusedPixelBytes + channel * 2;
#pragma unroll
      for (int o = 0; o < kFusedRun; ++o) {
        float v[2];
        load_channels<T>(v, in + o * window.stride_h * pitch);
        sums[o][0] += filter[0] * v[0], sums[o][1] += filter[1] * v[1];
      }
    }
    finish_run<Config>(window, part, layout, bias, sums, row, q);
  });
}

}  // namespace fused_detail

template <class Config>
__device__ __forceinline__ void filter_hidden(const FusedWindow& window, const FusedWindowPart& part,
                                              const FusedLayout& layout) {
  using namespace fused_detail;
  switch (window.fixed) {
    case 31:
      return filter_fixed<Config, 3, 1, 2>(window, part, layout);
    case 32:
      return filter_fixed<Config, 3, 2, 2>(window, part, layout);
    case 51:
      return filter_fixed<Config, 5, 1, 1>(window, part, layout);
    case 52:
      return filter_fixed<Config, 5, 2, 1>(window, part, layout);
    default:
      return filter_any<Config>(window, part, layout);
  }
}

}  // namespace fastconv::cuda
