// Winograd's minimal filtering F(m x m, 3 x 3) for m = 2 and 4: m * m outputs of a 3 x 3 filter from (m + 2)^2 products
// instead of 9 m * m. Three steps, of which these are the outer kernels; the middle is a batched GEMM:
//
//   U = G w G'            filters, in float64, stored as float32     U[position][group][c][k]
//   V = B' x B            tiles of x, (m + 2)^2, m apart             V[position][group] [tile][c] or [c][tile]
//   M = U V               one GEMM for each position and group       M[position][group] [tile][k] or [k][tile]
//   y = A' M A, epilogue
//
// A thread owns one tile of one channel. Channels run along the lanes where x and y have them contiguous (NHWC), tiles
// otherwise. Source of the scheme: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); the
// matrices below follow from the interpolation points by the Lagrange construction.
#pragma once

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"

namespace fastconv::cuda {

// One-dimensional transforms; in two dimensions they are applied to the columns, then to the rows.
template <int kOutputs>
struct WinogradTransform;

// Points 0, 1, -1 and infinity.
template <>
struct WinogradTransform<2> {
  template <class V>
  __device__ __forceinline__ static void input(const V (&x)[4], V (&out)[4]) {
    out[0] = x[0] - x[2];
    out[1] = x[2] + x[1];
    out[2] = x[2] - x[1];
    out[3] = x[3] - x[1];
  }
  __device__ __forceinline__ static void filter(const double (&w)[3], double (&out)[4]) {
    const double even = 0.5 * (w[0] + w[2]), odd = 0.5 * w[1];
    out[0] = w[0], out[1] = even + odd, out[2] = even - odd, out[3] = w[2];
  }
  template <class V>
  __device__ __forceinline__ static void output(const V (&m)[4], V (&out)[2]) {
    out[0] = m[0] + m[1] + m[2];
    out[1] = m[1] - m[2] + m[3];
  }
};

// Points 0, 1, -1, 1/2, -2 and infinity: every factor of the transforms of x and y is a short sum of powers of two,
// exact in float32, and the largest is 8.
template <>
struct WinogradTransform<4> {
  template <class V>
  __device__ __forceinline__ static void input(const V (&x)[6], V (&out)[6]) {
    out[0] = x[0] + V(1.5) * (x[3] - x[1]) - V(2) * x[2] + x[4];
    out[1] = x[4] - x[1] + V(0.5) * x[2] + V(2.5) * x[3];
    out[2] = x[4] + x[1] - V(2.5) * x[2] + V(0.5) * x[3];
    out[3] = x[4] - x[2] + V(2) * (x[3] - x[1]);
    out[4] = x[4] - x[2] + V(0.5) * (x[1] - x[3]);
    out[5] = x[1] + V(1.5) * (x[4] - x[2]) - V(2) * x[3] + x[5];
  }
  __device__ __forceinline__ static void filter(const double (&w)[3], double (&out)[6]) {
    out[0] = w[0];
    out[1] = (w[0] + w[1] + w[2]) / 3;
    out[2] = (w[1] - w[0] - w[2]) / 3;
    out[3] = -(16 * w[0] + 8 * w[1] + 4 * w[2]) / 15;
    out[4] = (w[0] - 2 * w[1] + 4 * w[2]) / 15;
    out[5] = w[2];
  }
  template <class V>
  __device__ __forceinline__ static void output(const V (&m)[6], V (&out)[4]) {
    const V sum = m[1] + m[2], difference = m[1] - m[2];
    out[0] = m[0] + sum + m[3] + m[4];
    out[1] = difference + V(0.5) * m[3] - V(2) * m[4];
    out[2] = sum + V(0.25) * m[3] + V(4) * m[4];
    out[3] = difference + V(0.125) * m[3] - V(8) * m[4] + m[5];
  }
};

template <class T, int kOutputs_>
struct WinogradConfig {
  using Element = T;
  static constexpr int kOutputs = kOutputs_;  // along each axis of a tile
  static constexpr int kTile = kOutputs + 2;
  static constexpr int kPositions = kTile * kTile;
  static constexpr int kThreads = 128;
  static_assert(sizeof(T) <= 4, "products are summed in float32");
};

// One chunk of the problem: `filters` filters of every group, from the group's first_filter-th, and `tiles` tiles, from
// first_tile of those of the whole batch.
struct WinogradChunk {
  int64_t first_tile = 0, tiles = 0;
  int first_filter = 0, filters = 0;
};

struct WinogradParams {
  TensorView x, w, y;
  int H, W, P, Q, pad_top, pad_left;
  int channels, filters, groups;  // of one group; groups
  int tiles_h, tiles_w;           // of one image
  bool channels_innermost;        // in V and M, and across threads
  WinogradChunk chunk;
  float *u, *v, *m;
};

// What thread `index` of a transformation works on, of `channels` channels of every group. V and M lie in the order of
// the threads; a chunk of them has fewer than 2^31 elements.
struct WinogradPlace {
  int channel, group;  // channel within the group
  int64_t n;
  int tile_h, tile_w;

  __device__ WinogradPlace(const WinogradParams& params, unsigned index, unsigned channels) {
    const unsigned tiles = static_cast<unsigned>(params.chunk.tiles);
    unsigned tile;
    if (params.channels_innermost) {
      channel = static_cast<int>(index % channels), tile = index / channels % tiles;
    } else {
      channel = static_cast<int>(index / tiles % channels), tile = index % tiles;
    }
    group = static_cast<int>(index / (tiles * channels));
    const int64_t global = params.chunk.first_tile + tile, row = global / params.tiles_w;
    tile_w = static_cast<int>(global % params.tiles_w);
    tile_h = static_cast<int>(row % params.tiles_h);
    n = row / params.tiles_h;
  }
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) winograd_filter_kernel(const WinogradParams params) {
  using T = typename Config::Element;
  constexpr int kTile = Config::kTile;
  const int64_t count = static_cast<int64_t>(params.groups) * params.channels * params.chunk.filters;
  const unsigned index = blockIdx.x * Config::kThreads + threadIdx.x;
  if (index >= count) return;
  const int k = static_cast<int>(index % params.chunk.filters);
  const int64_t rest = index / params.chunk.filters, group = rest / params.channels;
  const T* w = params.w.as<const T>() +
               params.w.offset(group * params.filters + params.chunk.first_filter + k, rest % params.channels, 0, 0);
  double columns[3][kTile];  // [s][transformed r]
#pragma unroll
  for (int s = 0; s < 3; ++s) {
    double taps[3];
#pragma unroll
    for (int r = 0; r < 3; ++r) taps[r] = to_accumulate(w[r * params.w.stride[2] + s * params.w.stride[3]]);
    WinogradTransform<Config::kOutputs>::filter(taps, columns[s]);
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    const double taps[3] = {columns[0][i], columns[1][i], columns[2][i]};
    double row[kTile];
    WinogradTransform<Config::kOutputs>::filter(taps, row);
#pragma unroll
    for (int j = 0; j < kTile; ++j) params.u[(i * kTile + j) * count + index] = static_cast<float>(row[j]);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads) winograd_input_kernel(const WinogradParams params) {
  using T = typename Config::Element;
  constexpr int kTile = Config::kTile;
  const int64_t count = params.chunk.tiles * params.groups * params.channels;
  const unsigned index = blockIdx.x * Config::kThreads + threadIdx.x;
  if (index >= count) return;
  const WinogradPlace place(params, index, params.channels);
  const int h0 = place.tile_h * Config::kOutputs - params.pad_top;
  const int w0 = place.tile_w * Config::kOutputs - params.pad_left;
  const T* x = params.x.as<const T>() +
               params.x.offset(place.n, static_cast<int64_t>(place.group) * params.channels + place.channel, h0, w0);
  float columns[kTile][kTile];  // [column][transformed row]
#pragma unroll
  for (int j = 0; j < kTile; ++j) {
    const bool inside_w = static_cast<unsigned>(w0 + j) < static_cast<unsigned>(params.W);
    float column[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      const bool inside = inside_w && static_cast<unsigned>(h0 + i) < static_cast<unsigned>(params.H);
      column[i] = inside ? to_accumulate(x[i * params.x.stride[2] + j * params.x.stride[3]]) : 0.0f;
    }
    WinogradTransform<Config::kOutputs>::input(column, columns[j]);
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    float row[kTile], out[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j) row[j] = columns[j][i];
    WinogradTransform<Config::kOutputs>::input(row, out);
#pragma unroll
    for (int j = 0; j < kTile; ++j) params.v[(i * kTile + j) * count + index] = out[j];
  }
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads)
    winograd_output_kernel(const WinogradParams params, const Epilogue epilogue) {
  using T = typename Config::Element;
  constexpr int kTile = Config::kTile, kOutputs = Config::kOutputs;
  const int64_t count = params.chunk.tiles * params.groups * params.chunk.filters;
  const unsigned index = blockIdx.x * Config::kThreads + threadIdx.x;
  if (index >= count) return;
  const WinogradPlace place(params, index, params.chunk.filters);
  float columns[kTile][kOutputs];  // [column][transformed row]
#pragma unroll
  for (int j = 0; j < kTile; ++j) {
    float column[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) column[i] = params.m[(i * kTile + j) * count + index];
    WinogradTransform<kOutputs>::output(column, columns[j]);
  }
  float outputs[kOutputs][kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    float row[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j) row[j] = columns[j][i];
    WinogradTransform<kOutputs>::output(row, outputs[i]);
  }

  const int64_t k = static_cast<int64_t>(place.group) * params.filters + params.chunk.first_filter + place.channel;
  const int p0 = place.tile_h * kOutputs, q0 = place.tile_w * kOutputs;
  const auto channel = epilogue.channel(k);
  T* y = params.y.as<T>() + params.y.offset(place.n, k, p0, q0);
  const auto store = [&](int i, int j, float acc) {
    if (p0 + i < params.P && q0 + j < params.Q) {
      y[i * params.y.stride[2] + j * params.y.stride[3]] = epilogue.finish(channel, acc, place.n, k, p0 + i, q0 + j);
    }
  };
  if constexpr (Epilogue::kUnrolled) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) store(i, j, outputs[i][j]);
    }
  } else {
    // The code once; an output is brought to it by moving the others up, which costs less than a long epilogue.
#pragma unroll 1
    for (int at = 0; at < kOutputs * kOutputs; ++at) {
      store(at / kOutputs, at % kOutputs, outputs[0][0]);
#pragma unroll
      for (int i = 0; i + 1 < kOutputs * kOutputs; ++i) {
        outputs[i / kOutputs][i % kOutputs] = outputs[(i + 1) / kOutputs][(i + 1) % kOutputs];
      }
    }
  }
}

}  // namespace fastconv::cuda
