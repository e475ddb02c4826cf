// dw of y = conv(x, w) as a matrix product on CUDA cores: any stride, padding, dilation, groups and memory format.
//
//                    pixels n, p, q                   window positions and channels (r, s, c)
//    filters   +-----+-----+-----+-----+         +----------------------------------+
//    of one    |     |     |     |     |    x    |  x gathered, zero in the padding |  pixels
//    group     |    dy     |     |     |         +----------------------------------+
//              +-----+-----+-----+-----+
//                 a chunk of the pixels
//
// The product is small and the reduction long, so the pixels are split into chunks: a block owns kTileM x kTileN of the
// product for one chunk and leaves its partial sums in the workspace; a second kernel adds the chunks in their order,
// so the result is the same every time. Shared memory is double-buffered as in gemm_simt.cuh.
#pragma once

#include <algorithm>

#include "../../common/calls.h"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

template <class T, int kTileM_, int kTileN_, int kThreadM_, int kThreadN_>
struct WeightGradSimtConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kTileK = 8;
  static constexpr int kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kThreadsM = kTileM / kThreadM, kThreadsN = kTileN / kThreadN;
  static constexpr int kThreads = kThreadsM * kThreadsN;
  static constexpr int kPack = kPackSize<Acc>;
  static constexpr int kGroupsM = kThreadM / kPack, kGroupsN = kThreadN / kPack;
  static constexpr int kStepM = kTileM / kGroupsM, kStepN = kTileN / kGroupsN;
  static constexpr int kRowA = kTileM + kPack, kRowB = kTileN + kPack;  // padded against bank conflicts
  static constexpr int kFetch = kTileM * kTileK / kThreads;             // elements a thread fetches of either side
  static constexpr int kMinBlocks = 512 / kThreads;                     // leaves 128 registers a thread

  static_assert(kTileM == kTileN, "both sides are fetched alike");
  static_assert(kFetch * sizeof(T) <= 16 && kThreads / kTileK * kFetch == kTileM, "a fetch is at most one pack");
  static_assert(kTileN <= kThreads, "the table of columns is filled in one pass");
};

template <class T>
struct WeightGradSimtParams {
  ConvProblem problem;
  TensorView dy, x;
  accumulate_t<T>* partial;  // [chunk][K][row]
  int64_t pixels, chunk_pixels;
  int columns, row;  // R * S * C / groups, and that in whole packs
  int tiles_m_of_group, tiles_n;
  // How lanes are laid over memory: dy along filters and x along channels, or either along pixels; whether packs of
  // them may be loaded whole.
  bool dy_along_filters, dy_packs, x_along_channels, x_packs;
  bool channels_innermost;  // columns in the order (r, s, c), else (c, r, s)
};

// Far outside of any image, also when two of them are added.
constexpr int kOutsideImage = -0x30000000;

// One pixel of the reduction.
struct WeightGradPixel {
  int64_t dy_offset;  // -1 past the chunk's end
  int64_t x_offset;   // of the window's corner
  int h, w;           // the corner; kOutsideImage past the chunk's end
  int n, p, q;
};

// One column of the product relative to a window's corner: kOutsideImage past the last column.
struct alignas(8) WeightGradShift {
  int h, w;
};

template <class T>
__device__ __forceinline__ void weight_grad_pixel(const WeightGradSimtParams<T>& params, int n, int p, int q,
                                                  bool inside, WeightGradPixel& pixel) {
  const ConvProblem& problem = params.problem;
  const int64_t h = static_cast<int64_t>(p) * problem.stride_h - problem.pad_top;
  const int64_t w = static_cast<int64_t>(q) * problem.stride_w - problem.pad_left;
  pixel.n = n, pixel.p = p, pixel.q = q;
  pixel.h = inside ? static_cast<int>(h) : kOutsideImage;
  pixel.w = static_cast<int>(w);
  pixel.dy_offset = inside ? params.dy.offset(n, 0, p, q) : -1;
  pixel.x_offset = params.x.offset(n, 0, h, w);
}

template <class T>
__device__ __forceinline__ void weight_grad_column(const WeightGradSimtParams<T>& params, int group, int column,
                                                   int64_t& x_offset, WeightGradShift& shift) {
  const ConvProblem& problem = params.problem;
  const int R = static_cast<int>(problem.R), S = static_cast<int>(problem.S);
  const int channels = static_cast<int>(problem.channels_per_group());
  const int c = params.channels_innermost ? column % channels : column / (R * S);
  const int window = params.channels_innermost ? column / channels : column % (R * S);
  shift.h = window / S * static_cast<int>(problem.dilation_h);
  shift.w = window % S * static_cast<int>(problem.dilation_w);
  x_offset = params.x.offset(0, group * problem.channels_per_group() + c, shift.h, shift.w);
  if (column >= params.columns) shift.h = kOutsideImage;
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    weight_grad_simt_kernel(const WeightGradSimtParams<typename Config::Element> params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kTileM = Config::kTileM, kTileN = Config::kTileN, kTileK = Config::kTileK;
  constexpr int kFetch = Config::kFetch;
  __shared__ __align__(16) Acc tile_a[2][kTileK][Config::kRowA];
  __shared__ __align__(16) Acc tile_b[2][kTileK][Config::kRowB];
  __shared__ WeightGradPixel pixels[2][kTileK];
  // Column c lies at slot_of(c): lanes with every kFetch-th column read neighbouring slots, lanes with neighbouring
  // columns different banks.
  __shared__ int64_t column_offsets[kTileN + kFetch];
  __shared__ WeightGradShift column_shifts[kTileN + kFetch];
  // Set aside: the main loop has no register to spare.
  __shared__ int tile_group, tile_filter, tile_column;

  const ConvProblem& problem = params.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int tile_n = static_cast<int>(blockIdx.x) % params.tiles_n;
  const int tile_m = static_cast<int>(blockIdx.x) / params.tiles_n;
  const int group = tile_m / params.tiles_m_of_group;
  const int m0 = tile_m % params.tiles_m_of_group * kTileM, n0 = tile_n * kTileN;
  const int filters = static_cast<int>(problem.filters_per_group());
  const int64_t first = blockIdx.y * params.chunk_pixels;
  const int count = static_cast<int>(min(params.chunk_pixels, params.pixels - first));

  const auto slot_of = [](int column) { return column % kFetch * (kTileN / kFetch + 1) + column / kFetch; };
  if (thread == 0) tile_group = group, tile_filter = m0, tile_column = n0;
  if (thread < kTileN) {
    weight_grad_column(params, group, n0 + thread, column_offsets[slot_of(thread)], column_shifts[slot_of(thread)]);
  }
  if (thread < 2 * kTileK) {
    const int64_t pixel = first + thread, row = pixel / problem.Q;
    weight_grad_pixel(params, static_cast<int>(row / problem.P), static_cast<int>(row % problem.P),
                      static_cast<int>(pixel % problem.Q), thread < count, pixels[thread / kTileK][thread % kTileK]);
  }
  // Turns the table of `step` into that of step + 2: stepping on needs no division.
  const auto next_pixels = [&](int step) {
    if (thread >= kTileK) return;
    WeightGradPixel& pixel = pixels[step & 1][thread];
    int n = pixel.n, p = pixel.p, q = pixel.q + 2 * kTileK;
    while (q >= problem.Q) {
      q -= static_cast<int>(problem.Q);
      if (++p == problem.P) p = 0, ++n;
    }
    weight_grad_pixel(params, n, p, q, (step + 2) * kTileK + thread < count, pixel);
  };
  __syncthreads();

  // A thread fetches, for one pixel, kFetch filters (or columns): neighbours where channels lie together in memory,
  // else kLaneStep apart, so that neighbouring lanes take neighbouring pixels.
  constexpr int kLaneStep = Config::kThreads / kTileK;
  const auto lane_of = [&](bool along_channels) {
    return along_channels ? thread % (kTileM / kFetch) * kFetch : thread / kTileK;
  };
  const auto pixel_of = [&](bool along_channels) {
    return along_channels ? thread / (kTileM / kFetch) : thread % kTileK;
  };
  const T* dy = params.dy.template as<const T>() +
                (static_cast<int64_t>(group) * filters + m0 + lane_of(params.dy_along_filters)) * params.dy.stride[1];

  Pack<T, kFetch> staged_a, staged_b;
  const auto fetch = [&](int step) {
    const WeightGradPixel(&pixel)[kTileK] = pixels[step & 1];
    const int64_t at = pixel[pixel_of(params.dy_along_filters)].dy_offset;
    const int filters_left =
        static_cast<int>(problem.filters_per_group()) - tile_filter - lane_of(params.dy_along_filters);
    if (params.dy_packs && filters_left >= kFetch) {
      staged_a = at >= 0 ? load_pack<kFetch>(dy + at) : Pack<T, kFetch>{};
    } else {
      const int lane_step = params.dy_along_filters ? 1 : kLaneStep;
#pragma unroll
      for (int e = 0; e < kFetch; ++e) {
        const bool inside = at >= 0 && e * lane_step < filters_left;
        staged_a.value[e] = inside ? dy[at + e * lane_step * params.dy.stride[1]] : T{};
      }
    }
    const WeightGradPixel& corner = pixel[pixel_of(params.x_along_channels)];
    const auto input = [&](int column) -> const T* {
      const WeightGradShift shift = column_shifts[slot_of(column)];
      const bool inside = static_cast<unsigned>(corner.h + shift.h) < static_cast<unsigned>(problem.H) &&
                          static_cast<unsigned>(corner.w + shift.w) < static_cast<unsigned>(problem.W);
      return inside ? params.x.template as<const T>() + corner.x_offset + column_offsets[slot_of(column)] : nullptr;
    };
    const int column = lane_of(params.x_along_channels);
    if (params.x_packs) {
      const T* from = input(column);
      staged_b = from ? load_pack<kFetch>(from) : Pack<T, kFetch>{};
    } else {
      const int lane_step = params.x_along_channels ? 1 : kLaneStep;
#pragma unroll
      for (int e = 0; e < kFetch; ++e) {
        const T* from = input(column + e * lane_step);
        staged_b.value[e] = from ? *from : T{};
      }
    }
  };
  const auto store_one = [&](const Pack<T, kFetch>& staged, bool along_channels, auto& tile) {
    const int k = pixel_of(along_channels), lane = lane_of(along_channels);
    Pack<Acc, kFetch> v;
#pragma unroll
    for (int e = 0; e < kFetch; ++e) v.value[e] = to_accumulate(staged.value[e]);
    if (along_channels) {
      store_pack<kFetch>(&tile[k][lane], v);
    } else {
#pragma unroll
      for (int e = 0; e < kFetch; ++e) tile[k][lane + e * kLaneStep] = v.value[e];
    }
  };
  const auto store = [&](int stage) {
    store_one(staged_a, params.dy_along_filters, tile_a[stage]);
    store_one(staged_b, params.x_along_channels, tile_b[stage]);
  };

  const int thread_m = thread / Config::kThreadsN * kPack, thread_n = thread % Config::kThreadsN * kPack;
  Acc acc[Config::kThreadM][Config::kThreadN] = {};
  const int steps = (count + kTileK - 1) / kTileK;
  fetch(0);
  store(0);
  __syncthreads();
  for (int step = 0; step < steps; ++step) {
    const int stage = step & 1;
    const bool more = step + 1 < steps;
    if (more) {
      fetch(step + 1);
      // The table of this step was last read before the previous barrier.
      next_pixels(step);
    }
#pragma unroll
    for (int k = 0; k < kTileK; ++k) {
      Pack<Acc, kPack> a[Config::kGroupsM], b[Config::kGroupsN];
#pragma unroll
      for (int g = 0; g < Config::kGroupsM; ++g) {
        a[g] = load_pack<kPack>(&tile_a[stage][k][thread_m + g * Config::kStepM]);
      }
#pragma unroll
      for (int g = 0; g < Config::kGroupsN; ++g) {
        b[g] = load_pack<kPack>(&tile_b[stage][k][thread_n + g * Config::kStepN]);
      }
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kThreadN; ++j) {
          acc[i][j] += a[i / kPack].value[i % kPack] * b[j / kPack].value[j % kPack];
        }
      }
    }
    if (more) {
      store(stage ^ 1);
      __syncthreads();
    }
  }

  const int last_filter = static_cast<int>(problem.filters_per_group()) - 1;
  const int64_t first_row = blockIdx.y * problem.K + tile_group * problem.filters_per_group();
#pragma unroll
  for (int i = 0; i < Config::kThreadM; ++i) {
    const int m = tile_filter + thread_m + i / kPack * Config::kStepM + i % kPack;
    Acc* row = params.partial + (first_row + m) * params.row;
#pragma unroll
    for (int g = 0; g < Config::kGroupsN; ++g) {
      const int n = tile_column + thread_n + g * Config::kStepN;
      Pack<Acc, kPack> v;
#pragma unroll
      for (int e = 0; e < kPack; ++e) v.value[e] = acc[i][g * kPack + e];
      if (m <= last_filter && n < params.row) store_pack<kPack>(row + n, v);
    }
  }
}

template <class T>
struct WeightGradSumParams {
  ConvProblem problem;
  const accumulate_t<T>* partial;  // [chunk][K][row]
  int64_t chunks, columns, row;
  bool channels_innermost;
  TensorView dw;
};

constexpr int kWeightGradSumThreads = 256;

// dw[k, c, r, s] = sum over the chunks, first to last. A thread makes one element.
template <class T>
__global__ void __launch_bounds__(kWeightGradSumThreads) weight_grad_sum_kernel(const WeightGradSumParams<T> params) {
  const ConvProblem& problem = params.problem;
  const int64_t count = problem.K * params.columns;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t k = i / params.columns, column = i % params.columns, window_positions = problem.R * problem.S;
    const accumulate_t<T>* partial = params.partial + k * params.row + column;
    accumulate_t<T> sum = 0;
    for (int64_t chunk = 0; chunk < params.chunks; ++chunk) sum += partial[chunk * problem.K * params.row];
    const int64_t channels = problem.channels_per_group();
    const int64_t c = params.channels_innermost ? column % channels : column / window_positions;
    const int64_t window = params.channels_innermost ? column / channels : column % window_positions;
    params.dw.template as<T>()[params.dw.offset(k, c, window / problem.S, window % problem.S)] =
        from_accumulate<T>(sum);
  }
}

// How the pixels are split: enough chunks to give every multiprocessor two blocks, but none so short that the sums cost
// more than the products, and no more than the workspace may hold.
struct WeightGradSplit {
  int64_t chunk_pixels, chunks;
};

inline WeightGradSplit weight_grad_split(int64_t pixels, int64_t tiles, int64_t partial_bytes, int multiprocessors) {
  constexpr int64_t kLeastPixels = 128, kMostWorkspace = int64_t{64} << 20;
  int64_t chunks = (2 * multiprocessors + tiles - 1) / tiles;
  chunks = std::min({chunks, (pixels + kLeastPixels - 1) / kLeastPixels, kMostWorkspace / partial_bytes});
  // A chunk is counted in int.
  chunks = std::max({chunks, int64_t{1}, (pixels >> 30) + 1});
  const int64_t chunk_pixels = (pixels + chunks - 1) / chunks;
  return {chunk_pixels, (pixels + chunk_pixels - 1) / chunk_pixels};
}

template <class Config>
void launch_weight_grad_simt(const Conv2dWeightGradCall& call, const CallContext& context, int multiprocessors) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  const ConvProblem& p = call.problem;
  WeightGradSimtParams<T> params;
  params.problem = p, params.dy = call.dy, params.x = call.x;
  params.pixels = p.N * p.P * p.Q;
  params.columns = static_cast<int>(p.gemm_k());
  params.row = (params.columns + Config::kPack - 1) / Config::kPack * Config::kPack;
  params.tiles_m_of_group = static_cast<int>((p.filters_per_group() + Config::kTileM - 1) / Config::kTileM);
  params.tiles_n = (params.columns + Config::kTileN - 1) / Config::kTileN;
  const auto along_channels = [](const TensorView& t) { return t.stride[1] == 1 && t.stride[3] != 1; };
  const auto packs = [](const TensorView& t, int64_t group_channels) {
    bool whole = pack_aligned(t.as<const T>(), Config::kFetch) && group_channels % Config::kFetch == 0;
    for (const int axis : {0, 2, 3}) whole = whole && t.stride[axis] % Config::kFetch == 0;
    return whole;
  };
  params.dy_along_filters = along_channels(call.dy);
  params.x_along_channels = along_channels(call.x);
  params.dy_packs = params.dy_along_filters && packs(call.dy, p.filters_per_group());
  params.x_packs = params.x_along_channels && packs(call.x, p.channels_per_group());
  params.channels_innermost = params.x_along_channels;

  const int64_t tiles = params.tiles_m_of_group * p.groups * params.tiles_n;
  const int64_t partial_bytes = p.K * params.row * static_cast<int64_t>(sizeof(Acc));
  const WeightGradSplit split = weight_grad_split(params.pixels, tiles, partial_bytes, multiprocessors);
  params.chunk_pixels = split.chunk_pixels;
  params.partial = static_cast<Acc*>(context.workspace->allocate(split.chunks * partial_bytes));

  LaunchConfig config;
  config.stream = context.stream;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(split.chunks));
  config.footprint.reads("dy", call.dy)
      .reads("x", call.x)
      .scratch("partial", params.partial, split.chunks * partial_bytes);
  launch("weight_grad_simt", config, weight_grad_simt_kernel<Config>, params);

  LaunchConfig sum;
  sum.stream = context.stream;
  sum.block = dim3(kWeightGradSumThreads);
  sum.grid = dim3(static_cast<unsigned>(
      std::min<int64_t>((p.K * params.columns + kWeightGradSumThreads - 1) / kWeightGradSumThreads, 1 << 16)));
  sum.footprint.reads("partial", params.partial, split.chunks * partial_bytes).writes("dw", call.dw);
  launch("weight_grad_sum", sum, weight_grad_sum_kernel<T>,
         WeightGradSumParams<T>{p, params.partial, split.chunks, params.columns, params.row, params.channels_innermost,
                                call.dw});
}

}  // namespace fastconv::cuda
