// Depthwise convolution with a filter known at compile time (depthwise_plan.h, dilation 1): memory-bound, so every
// input row is read once. A thread owns kVector channels of kColumns neighbouring output columns and slides down a
// strip of rows; output rows that are not complete yet wait in registers:
//
//        <- kInColumns ->              step j reads kStride input rows and adds each, tap by tap, to the kDepth groups
//   j    x x x x x x                   of output rows it touches; then the oldest group is complete, goes through the
//   j+1  x x x x x x   -> out out ..   epilogue and leaves, and the others move up by one.
//   j+2  x x x x x x
//
// A group is one row, or kInsert rows where the input has rows of zeros between its own (the gradient of a strided
// convolution): only taps that meet a real row are ever generated.
#pragma once

#include <algorithm>

#include "../device.h"
#include "../primitives/compiler_fence.cuh"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"
#include "depthwise_plan.h"

namespace fastconv::cuda {

// How threads share an image: 2^channel_bits along channels, the rest of a block along the columns of threads of one
// strip after the other. The direction whose shift is 0 is contiguous across a warp.
struct ThreadTiling {
  static constexpr int kThreads = 128, kThreadBits = 7;
  int channel_bits, channel_shift, unit_shift;
  int columns, strips;  // of threads, of rows
  int channel_blocks, unit_blocks;
};

// What a thread works on, in units of what one thread holds.
struct ThreadPlace {
  int64_t n;
  int channel_block, channel_lane, column, strip;

  __device__ explicit ThreadPlace(const ThreadTiling& tiling) {
    const unsigned thread = threadIdx.x, channel_blocks = tiling.channel_blocks, unit_blocks = tiling.unit_blocks;
    channel_block = static_cast<int>(blockIdx.x % channel_blocks);
    const unsigned rest = blockIdx.x / channel_blocks;
    n = rest / unit_blocks;
    channel_lane = static_cast<int>((thread >> tiling.channel_shift) & ((1u << tiling.channel_bits) - 1));
    const unsigned units = ThreadTiling::kThreads >> tiling.channel_bits;
    const unsigned unit = rest % unit_blocks * units + ((thread >> tiling.unit_shift) & (units - 1));
    column = static_cast<int>(unit % tiling.columns), strip = static_cast<int>(unit / tiling.columns);
  }
};

template <class T, int kFilter_, int kInsert_, int kStride_, int kVector_, int kColumns_>
struct DepthwiseConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kFilter = kFilter_, kInsert = kInsert_, kStride = kStride_;  // the same along both axes
  static constexpr int kVector = kVector_, kColumns = kColumns_;
  static constexpr int kThreads = ThreadTiling::kThreads;
  static constexpr int kMaxChannels = 128;  // of a block: their filters lie in shared memory
  // One pack of padding: the transposing stores of a warp, tap after tap, then fall into different banks.
  static constexpr int kFilterRow = kMaxChannels + 4;
  // Blocks on one multiprocessor: leaves 128 registers a thread, or 168. Sixteen warps with a row of packs each under
  // way (32 KiB and more a multiprocessor) cover the latency of memory.
  static constexpr int kMinBlocks = kFilter < 7 ? 4 : 3;
  // Groups of output rows that one input row reaches.
  static constexpr int kDepth = (kFilter - 1 + kInsert - 1) / (kInsert * kStride) + 1;
  static constexpr int kInColumns = ((kColumns - 1) * kStride + kFilter - 1) / kInsert + 1;

  static_assert(kInsert == 1 || kStride == 1, "a forward or a backward pass");
  static_assert(kColumns % kInsert == 0, "the zeros between columns stand where the compiler knows them");
  static_assert(kThreads * kVector >= kMaxChannels && kInColumns <= 32, "one mask of valid columns");

  // The tap through which input row `in` of a step reaches row `out` of the group that began `age` steps ago.
  static constexpr int tap(int age, int in, int out) { return age * kInsert * kStride + in * kInsert - out * kStride; }
};

template <class T>
struct DepthwiseParams {
  const T* in;
  T* out;
  const T* first_tap;
  int64_t in_stride_n, in_stride_c, in_stride_h, in_stride_w;  // strides in elements
  int64_t out_stride_n, out_stride_c, out_stride_h, out_stride_w;
  int64_t w_stride_filter, w_stride_r, w_stride_s;
  int channels, spread;
  int in_h, in_w, out_h, out_w;
  int first_row, first_column;  // output coordinates of group 0; 0, or -1 where an even group begins before the image
  int in_row, in_column;        // input coordinates of their windows
  int groups, strip_groups;     // groups of rows: of the image, of one strip
  ThreadTiling tiling;
};

// A complete group of output rows: through the epilogue and out, as far as it lies in the image.
template <class Config, class Epilogue>
__device__ __forceinline__ void depthwise_store(
    const DepthwiseParams<typename Config::Element>& params, const Epilogue& epilogue,
    const typename Epilogue::Channel (&channel)[Config::kVector],
    const typename Config::Acc (&group)[Config::kInsert][Config::kColumns][Config::kVector], int64_t n, int k, int p0,
    int q0) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kColumns = Config::kColumns, kVector = Config::kVector, kRuns = Config::kInsert * kColumns;
  T* out = params.out + n * params.out_stride_n + k * params.out_stride_c;
  const auto store = [&](int run, const Acc(&acc)[kVector]) {
    const int p = p0 + run / kColumns, q = q0 + run % kColumns;
    if (static_cast<unsigned>(p) >= static_cast<unsigned>(params.out_h) ||
        static_cast<unsigned>(q) >= static_cast<unsigned>(params.out_w)) {
      return;
    }
    Pack<T, kVector> y;
    epilogue.finish_run(channel, acc, n, k, p, q, y.value);
    store_pack<kVector>(out + p * params.out_stride_h + q * params.out_stride_w, y);
  };
  if constexpr (Epilogue::kUnrolled || kRuns == 1) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) store(run, group[run / kColumns][run % kColumns]);
  } else {
    // The code once, and each run brought to it by selection: an index known only at run time would send the
    // accumulators to local memory.
#pragma unroll 1
    for (int run = 0; run < kRuns; ++run) {
      Acc acc[kVector];
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) acc[v] = i == run || i == 0 ? group[i / kColumns][i % kColumns][v] : acc[v];
      }
      store(run, acc);
    }
  }
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    depthwise_kernel(const DepthwiseParams<typename Config::Element> params, const Epilogue epilogue) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kFilter = Config::kFilter, kVector = Config::kVector, kColumns = Config::kColumns;
  constexpr int kInsert = Config::kInsert, kDepth = Config::kDepth, kInColumns = Config::kInColumns;
  constexpr int kThreads = Config::kThreads;
  __shared__ __align__(16) Acc filters[kFilter * kFilter][Config::kFilterRow];

  const int thread = static_cast<int>(threadIdx.x);
  const ThreadPlace place(params.tiling);
  const int block_channels = kVector << params.tiling.channel_bits;
  const int channel0 = place.channel_block * block_channels;
  for (int i = thread; i < kFilter * kFilter * block_channels; i += kThreads) {
    const int channel = i / (kFilter * kFilter), tap = i % (kFilter * kFilter);  // as the taps lie in memory
    if (channel0 + channel < params.channels) {
      filters[tap][channel] =
          to_accumulate(params.first_tap[(channel0 + channel) * params.w_stride_filter +
                                         tap / kFilter * params.w_stride_r + tap % kFilter * params.w_stride_s]);
    }
  }
  __syncthreads();

  const int lane = place.channel_lane * kVector, k = channel0 + lane;
  const int column = place.column * kColumns, q0 = params.first_column + column;
  if (k >= params.channels || place.strip >= params.tiling.strips) return;

  // Columns of the window that lie in the image: the same on every row.
  const int w0 = params.in_column + column / kInsert * Config::kStride;
  unsigned inside = 0;
#pragma unroll
  for (int t = 0; t < kInColumns; ++t) {
    inside |= static_cast<unsigned>(static_cast<unsigned>(w0 + t) < static_cast<unsigned>(params.in_w)) << t;
  }
  const int group0 = place.strip * params.strip_groups;
  const int group_end = min(group0 + params.strip_groups, params.groups);
  int h = params.in_row + group0 * Config::kStride;
  const T* row = params.in + place.n * params.in_stride_n + k / params.spread * params.in_stride_c +
                 h * params.in_stride_h + w0 * params.in_stride_w;
  typename Epilogue::Channel channel[kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) channel[v] = epilogue.channel(k + v);

  Acc acc[kDepth][kInsert][kColumns][kVector] = {};  // youngest group first
#pragma unroll 1
  for (int group = group0 - (kDepth - 1); group < group_end; ++group) {
#pragma unroll
    for (int e = 0; e < Config::kStride; ++e, ++h, row += params.in_stride_h) {
      Pack<T, kVector> x[kInColumns];
      const unsigned valid = static_cast<unsigned>(h) < static_cast<unsigned>(params.in_h) ? inside : 0;
#pragma unroll
      for (int t = 0; t < kInColumns; ++t) {
        x[t] = {};
        if (valid >> t & 1) x[t] = load_pack<kVector>(row + t * params.in_stride_w);
      }
      if constexpr (kVector > 1) compiler_fence();  // one channel's filter fits in registers, a pack's does not
#pragma unroll
      for (int age = kDepth - 1; age >= 0; --age) {
#pragma unroll
        for (int f = 0; f < kInsert; ++f) {
          const int r = Config::tap(age, e, f);
          if (r < 0 || r >= kFilter) continue;
#pragma unroll
          for (int s = 0; s < kFilter; ++s) {
            const Pack<Acc, kVector> weight = load_pack<kVector>(&filters[r * kFilter + s][lane]);
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
              // Column j meets input column t through tap s where t * kInsert == j * kStride + s.
              const int at = j * Config::kStride + s;
              if (at % kInsert != 0) continue;
#pragma unroll
              for (int v = 0; v < kVector; ++v) {
                acc[age][f][j][v] += to_accumulate(x[at / kInsert].value[v]) * weight.value[v];
              }
            }
          }
        }
      }
    }
    if (group >= group0) {
      const int p0 = params.first_row + group * kInsert;
      depthwise_store<Config>(params, epilogue, channel, acc[kDepth - 1], place.n, k, p0, q0);
    }
#pragma unroll
    for (int age = kDepth - 1; age >= 0; --age) {
#pragma unroll
      for (int i = 0; i < kInsert * kColumns * kVector; ++i) {
        const int f = i / (kColumns * kVector), j = i / kVector % kColumns, v = i % kVector;
        acc[age][f][j][v] = age > 0 ? acc[age > 0 ? age - 1 : 0][f][j][v] : Acc(0);
      }
    }
  }
}

// Tiles `rows` rows in strips of `strip`, set here. Each strip reads the rows above it again, so strips of at least
// `least` rows make three waves of threads at most; but a GPU that would stay partly idle gets down to two rows each. A
// block holds the filters of at most `max_channels` channels, `vector` a thread.
inline ThreadTiling tile_threads(const DepthwisePlan& plan, int vector, int max_channels, int columns, int rows,
                                 int least, int& strip) {
  const auto blocks_of = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  constexpr int64_t kThreadsPerMultiprocessor = 512;  // at 128 registers each
  ThreadTiling t;
  t.columns = columns;
  const int lanes = blocks_of(plan.channels, vector);
  const int64_t wave = current_device().multiprocessors * kThreadsPerMultiprocessor;
  const int64_t threads = plan.N * lanes * columns;  // of one strip
  const int64_t strips = std::max(
      {int64_t{1}, std::min<int64_t>(3 * wave / threads, rows / least), std::min<int64_t>(wave / threads, rows / 2)});
  strip = blocks_of(rows, strips);
  t.strips = blocks_of(rows, strip);

  const int64_t units = static_cast<int64_t>(t.columns) * t.strips;
  const bool along_channels = plan.out.stride[1] == 1;
  // Channels: as wide as a warp, if that leaves few lanes without one. Columns: as many as there are.
  int bits = ThreadTiling::kThreadBits;
  if (along_channels) {
    bits = 5;
    while (bits > 2 && blocks_of(lanes, 1 << bits) * (1 << bits) * 7 > lanes * 8) --bits;
  } else {
    for (int64_t extent = 1; bits > 0 && extent < units; extent *= 2) --bits;
  }
  while (bits > 0 && vector << bits > max_channels) --bits;
  t.channel_bits = bits;
  t.channel_shift = along_channels ? 0 : ThreadTiling::kThreadBits - bits;
  t.unit_shift = along_channels ? bits : 0;
  t.channel_blocks = blocks_of(lanes, 1 << bits);
  t.unit_blocks = blocks_of(units, ThreadTiling::kThreads >> bits);
  return t;
}

inline Footprint depthwise_footprint(const DepthwisePlan& plan) {
  Footprint footprint;
  footprint.reads("input", plan.in).reads("w", plan.weights).writes("output", plan.out);
  return footprint.reads(plan.epilogue, plan.dtype, plan.channels);
}

template <class Config, class Epilogue>
void launch_depthwise(const DepthwisePlan& plan, const Epilogue& epilogue, void* stream) {
  using T = typename Config::Element;
  DepthwiseParams<T> params;
  params.in = plan.in.as<const T>(), params.out = plan.out.as<T>();
  params.first_tap = static_cast<const T*>(plan.first_tap);
  const auto& in = plan.in.stride;
  params.in_stride_n = in[0], params.in_stride_c = in[1], params.in_stride_h = in[2], params.in_stride_w = in[3];
  const auto& out = plan.out.stride;
  params.out_stride_n = out[0], params.out_stride_c = out[1], params.out_stride_h = out[2],
  params.out_stride_w = out[3];
  params.w_stride_filter = plan.w_stride_filter;
  params.w_stride_r = plan.w_stride_r, params.w_stride_s = plan.w_stride_s;
  params.channels = plan.channels, params.spread = plan.spread;
  params.in_h = plan.h.in, params.in_w = plan.w.in, params.out_h = plan.h.out, params.out_w = plan.w.out;
  // Group 0 begins where a window begins on a real row, at most kInsert - 1 rows in front of the image.
  const auto first = [](int pad) { return -((Config::kInsert - pad % Config::kInsert) % Config::kInsert); };
  params.first_row = first(plan.h.pad), params.first_column = first(plan.w.pad);
  params.in_row = (params.first_row - plan.h.pad) / Config::kInsert;
  params.in_column = (params.first_column - plan.w.pad) / Config::kInsert;
  params.groups = (plan.h.out - params.first_row + Config::kInsert - 1) / Config::kInsert;

  const int columns = (plan.w.out - params.first_column + Config::kColumns - 1) / Config::kColumns;  // of threads
  params.tiling = tile_threads(plan, Config::kVector, Config::kMaxChannels, columns, params.groups, 2 * Config::kDepth,
                               params.strip_groups);

  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(plan.N * params.tiling.channel_blocks * params.tiling.unit_blocks));
  config.footprint = depthwise_footprint(plan);
  launch("depthwise", config, depthwise_kernel<Config, Epilogue>, params, epilogue);
}

}  // namespace fastconv::cuda
