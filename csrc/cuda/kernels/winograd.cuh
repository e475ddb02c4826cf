// Winograd's minimal filtering F(m x m, 3 x 3) for m = 2 and 4: m * m outputs of a 3 x 3 filter from (m + 2)^2 products
// instead of 9 m * m. Three steps, of which these are the outer kernels; the middle is a batched GEMM:
//
//   U = G w G'            filters, in float64, stored as float32     U[position][group][c][k]
//   V = B' x B            tiles of x, (m + 2)^2, m apart             V[position][group] [tile][c] or [c][tile]
//   M = U V               one GEMM for each position and group       M[position][group] [tile][k] or [k][tile]
//   y = A' M A, epilogue
//
// A thread owns one tile of one channel. Channels run along the lanes where x and y have them contiguous (NHWC), tiles
// otherwise. The matrices and the source of the scheme: common/winograd.h.
#pragma once

#include "../../common/calls.h"
#include "../../common/winograd.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"

namespace fastconv::cuda {

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

// One block at least: left to itself, ptxas for sm_75 aims at 64 registers and spills some of the 36 values of a tile.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1) winograd_input_kernel(const WinogradParams params) {
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
