// y = epilogue(conv(x, w)) straight from the definition, on CUDA cores: any stride, padding, dilation, groups and
// memory format, x upsampled on the way or not. A block owns kTilePixels output pixels (n, p, q run together) x
// kTileFilters filters of one group, and walks the reduction (c, r, s) in chunks of kTaps:
//
//   chunk:  table of taps (offset into x, row and column shift)      \  in shared memory, by all threads
//           kTaps x kTileFilters weights, in the accumulate type     /
//           then every tap: kPixels values of x, zero where padding says so, times kFilters weights
//
// The divisions of the index arithmetic are paid once a chunk and once a pixel, not once a product.
#pragma once

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/fast_divmod.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

template <class T, int kPixelLanes_, int kFilterLanes_, int kPixels_, int kFilters_>
struct Conv2dDirectConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPixelLanes = kPixelLanes_, kFilterLanes = kFilterLanes_;  // threads along each side of the tile
  static constexpr int kPixels = kPixels_, kFilters = kFilters_;                  // outputs of one thread
  static constexpr int kThreads = kPixelLanes * kFilterLanes;
  static constexpr int kTilePixels = kPixelLanes * kPixels, kTileFilters = kFilterLanes * kFilters;
  static constexpr int kTaps = 32;
  // Blocks on one multiprocessor: leaves 128 registers a thread. Without the bound ptxas aims higher and spills.
  static constexpr int kMinBlocks = 512 / kThreads;
  static constexpr int kPack = kFilters < kPackSize<Acc> ? kFilters : kPackSize<Acc>;
  static constexpr int kWeightRow = kTileFilters + kPack;  // padded: consecutive taps start in different banks
  static constexpr int kOutputRow = kTilePixels + 1;       // odd: conflict-free along filters as along pixels

  static_assert(kFilters % kPack == 0, "weights are read in packs");
  static_assert(kTaps <= kThreads && kTilePixels <= 2 * kThreads, "tables are filled by one or two passes");
};

template <class T>
struct Conv2dDirectParams {
  ConvProblem problem;
  TensorView x, w, y;
  int64_t pixels;         // N * P * Q
  int first_filter_tile;  // of this launch, groups run together
  int filter_tiles_per_group;
  // Whether c is the innermost index of the reduction (else s is), so that weights are read in memory order.
  bool channels_innermost;
  // Whether consecutive threads write consecutive filters of y (else pixels).
  bool filters_innermost;
  // x is read at coordinate / scale; H and W are then those of the enlarged image.
  bool upsampled;
  FastDivmod scale_h, scale_w;
  int H, W;
};

struct ConvTap {
  int64_t x_offset;  // elements, relative to the pixel's own; of the channel alone if x is upsampled
  int h, w;          // shift against the window's corner
};

template <class T>
__device__ __forceinline__ void conv2d_direct_tap(const Conv2dDirectParams<T>& params, int64_t reduction, ConvTap& tap,
                                                  int64_t& weight_offset) {
  const ConvProblem& problem = params.problem;
  const int R = static_cast<int>(problem.R), S = static_cast<int>(problem.S);
  const int channels = static_cast<int>(problem.channels_per_group());
  int c, r, s;
  if (params.channels_innermost) {
    c = static_cast<int>(reduction % channels);
    const int window = static_cast<int>(reduction / channels);
    r = window / S, s = window % S;
  } else {
    c = static_cast<int>(reduction / (R * S));
    const int window = static_cast<int>(reduction % (R * S));
    r = window / S, s = window % S;
  }
  tap.h = r * static_cast<int>(problem.dilation_h);
  tap.w = s * static_cast<int>(problem.dilation_w);
  tap.x_offset = params.upsampled ? c * params.x.stride[1] : params.x.offset(0, c, tap.h, tap.w);
  weight_offset = params.w.offset(0, c, r, s);
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    conv2d_direct_kernel(const Conv2dDirectParams<typename Config::Element> params, const Epilogue epilogue) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPixels = Config::kPixels, kFilters = Config::kFilters, kPack = Config::kPack;
  constexpr int kTaps = Config::kTaps, kThreads = Config::kThreads;
  constexpr int kTilePixels = Config::kTilePixels, kTileFilters = Config::kTileFilters;
  __shared__ __align__(16) Acc weights[kTaps][Config::kWeightRow];
  __shared__ ConvTap taps[kTaps];
  __shared__ int64_t weight_offsets[kTaps];
  __shared__ int pixel_n[kTilePixels], pixel_p[kTilePixels], pixel_q[kTilePixels];
  __shared__ Acc outputs[kTileFilters][Config::kOutputRow];

  const ConvProblem& problem = params.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int pixel_lane = thread % Config::kPixelLanes, filter_lane = thread / Config::kPixelLanes;
  const int64_t pixel0 = static_cast<int64_t>(blockIdx.x) * kTilePixels;
  const int H = params.H, W = params.W;
  const int filters_per_group = static_cast<int>(problem.filters_per_group());
  const int64_t reduction_extent = problem.gemm_k();

  for (int i = thread; i < kTilePixels; i += kThreads) {
    const int64_t pixel = pixel0 + i;
    const bool inside = pixel < params.pixels;
    const int64_t row = inside ? pixel / problem.Q : 0;
    pixel_n[i] = inside ? static_cast<int>(row / problem.P) : -1;
    pixel_p[i] = inside ? static_cast<int>(row % problem.P) : 0;
    pixel_q[i] = inside ? static_cast<int>(pixel % problem.Q) : 0;
  }
  __syncthreads();

  // The top left corner of each of this thread's windows. A pixel beyond the last has its window far outside x.
  int corner_h[kPixels], corner_w[kPixels];
  int64_t corner_offset[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int at = pixel_lane + i * Config::kPixelLanes;
    const int64_t h = static_cast<int64_t>(pixel_p[at]) * problem.stride_h - problem.pad_top;
    const int64_t w = static_cast<int64_t>(pixel_q[at]) * problem.stride_w - problem.pad_left;
    corner_h[i] = pixel_n[at] < 0 ? -0x40000000 : static_cast<int>(h);
    corner_w[i] = static_cast<int>(w);
    corner_offset[i] = params.upsampled ? params.x.offset(pixel_n[at], 0, 0, 0) : params.x.offset(pixel_n[at], 0, h, w);
  }

  const int tile = params.first_filter_tile + static_cast<int>(blockIdx.y);
  const int group = tile / params.filter_tiles_per_group;
  const int filter0 = tile % params.filter_tiles_per_group * kTileFilters;  // within the group
  const int64_t k0 = static_cast<int64_t>(group) * filters_per_group + filter0;
  const T* x = params.x.template as<const T>() + group * problem.channels_per_group() * params.x.stride[1];
  const T* w = params.w.template as<const T>() + k0 * params.w.stride[0];

  Acc acc[kPixels][kFilters] = {};
  for (int64_t chunk = 0; chunk < reduction_extent; chunk += kTaps) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTaps), reduction_extent - chunk));
    __syncthreads();  // the previous chunk has been read
    if (thread < count) conv2d_direct_tap(params, chunk + thread, taps[thread], weight_offsets[thread]);
    __syncthreads();
    for (int i = thread; i < kTaps * kTileFilters; i += kThreads) {
      const int tap = i % kTaps, filter = i / kTaps;
      if (tap < count) {
        const bool inside = filter0 + filter < filters_per_group;
        weights[tap][filter] = inside ? to_accumulate(w[filter * params.w.stride[0] + weight_offsets[tap]]) : Acc(0);
      }
    }
    __syncthreads();
    for (int t = 0; t < count; ++t) {
      const ConvTap tap = taps[t];
      Pack<Acc, kPack> weight[kFilters / kPack];
#pragma unroll
      for (int j = 0; j < kFilters / kPack; ++j) {
        weight[j] = load_pack<kPack>(&weights[t][filter_lane * kFilters + j * kPack]);
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        // One comparison per axis: a negative coordinate is a large unsigned one.
        const int h = corner_h[i] + tap.h, w = corner_w[i] + tap.w;
        const bool inside =
            static_cast<unsigned>(h) < static_cast<unsigned>(H) && static_cast<unsigned>(w) < static_cast<unsigned>(W);
        int64_t offset = corner_offset[i] + tap.x_offset;
        if (params.upsampled) {
          offset += params.x.offset(0, 0, params.scale_h.divide(h), params.scale_w.divide(w));
        }
        const Acc value = inside ? to_accumulate(x[offset]) : Acc(0);
#pragma unroll
        for (int j = 0; j < kFilters; ++j) acc[i][j] += value * weight[j / kPack].value[j % kPack];
      }
    }
  }

  // Through shared memory, so that y is written along its innermost extent whatever the threads computed.
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
#pragma unroll
    for (int j = 0; j < kFilters; ++j) {
      outputs[filter_lane * kFilters + j][pixel_lane + i * Config::kPixelLanes] = acc[i][j];
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < kTilePixels * kTileFilters; i += kThreads) {
    const int filter = params.filters_innermost ? i % kTileFilters : i / kTilePixels;
    const int pixel = params.filters_innermost ? i / kTileFilters : i % kTilePixels;
    const int n = pixel_n[pixel], p = pixel_p[pixel], q = pixel_q[pixel];
    if (n >= 0 && filter0 + filter < filters_per_group) {
      const int64_t k = k0 + filter;
      params.y.template as<T>()[params.y.offset(n, k, p, q)] =
          epilogue.finish(epilogue.channel(k), outputs[filter][pixel], n, k, p, q);
    }
  }
}

template <class Config, class Epilogue>
void launch_conv2d_direct(const Conv2dCall& call, const Epilogue& epilogue, const LaunchConfig& base) {
  const ConvProblem& problem = call.problem;
  Conv2dDirectParams<typename Config::Element> params;
  params.problem = problem;
  params.x = call.x;
  params.w = call.w;
  params.y = call.y;
  params.pixels = problem.N * problem.P * problem.Q;
  params.filter_tiles_per_group =
      static_cast<int>((problem.filters_per_group() + Config::kTileFilters - 1) / Config::kTileFilters);
  params.channels_innermost = call.w.stride[1] == 1;
  params.filters_innermost = call.y.stride[1] == 1;
  params.upsampled = problem.scale_h != 1 || problem.scale_w != 1;
  params.scale_h = FastDivmod(problem.scale_h), params.scale_w = FastDivmod(problem.scale_w);
  params.H = static_cast<int>(problem.H * problem.scale_h), params.W = static_cast<int>(problem.W * problem.scale_w);
  const int64_t filter_tiles = params.filter_tiles_per_group * problem.groups;

  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  constexpr int64_t kMaxGridY = 65535;
  for (int64_t first = 0; first < filter_tiles; first += kMaxGridY) {
    params.first_filter_tile = static_cast<int>(first);
    const int64_t tiles = filter_tiles - first;
    config.grid = dim3(static_cast<unsigned>((params.pixels + Config::kTilePixels - 1) / Config::kTilePixels),
                       static_cast<unsigned>(tiles < kMaxGridY ? tiles : kMaxGridY));
    launch("conv2d_direct", config, conv2d_direct_kernel<Config, Epilogue>, params, epilogue);
  }
}

}  // namespace fastconv::cuda
