// Depthwise weight gradient, in two kernels and a fixed order of additions:
//
//   dw[k, r, s] = sum over n, p, q of  dy[n, k, p, q] * x[n, k / multiplier, p * stride_h - pad_h + r * dilation_h,
//                                                         q * stride_w - pad_w + s * dilation_w]
//
// First kernel: a block takes a range of dy's rows (n, p run together) and some channels. A thread keeps kTaps taps of
// one filter row for kVector channels in registers and walks over pixels, kColumns of a row at a time:
//
//   thread = (channel, tap group, pixel lane)     dy  o o o o          kColumns + kTaps - 1 columns of x (at stride 1)
//   all tap groups of a channel lie in one        x   x x x x x x      feed kColumns * kTaps products a channel
//   block: what they read again is in L1
//
// Then the pixel lanes are added up through shared memory, in order, and the block's sums go to the workspace. Second
// kernel: one thread a weight adds up the blocks' sums, in order.
#pragma once

#include <algorithm>

#include "depthwise.cuh"

namespace fastconv::cuda {

// kTaps is the filter's width, with kStride known; or 1, for any width, stride and dilation.
template <class T, int kTaps_, int kStride_, int kVector_, int kColumns_>
struct DepthwiseWeightGradConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kTaps = kTaps_, kStride = kStride_, kVector = kVector_, kColumns = kColumns_;
  static constexpr int kMaxThreads = 256;
  static constexpr int kMaxGroups = 8;  // tap groups in one block
  static constexpr int kMinBlocks = 2;  // leaves 128 registers a thread
  static constexpr int kInColumns = kTaps > 1 ? (kColumns - 1) * kStride + kTaps : kColumns;
  static constexpr int kSums = kTaps * kVector;  // of one thread
  // Rows of the reduction's array are one longer than their sums, if those are even in number: pixel lanes then
  // write to different banks.
  static constexpr int kReductionElements = kMaxThreads * (kSums + 1);

  static_assert(kInColumns <= 32, "one mask of valid columns");
  static_assert(kReductionElements * sizeof(Acc) <= (48u << 10), "the reduction fits in static shared memory");
};

template <class T>
struct DepthwiseWeightGradParams {
  const T* dy;
  const T* x;
  accumulate_t<T>* sums;                                       // [row block][tap of the filter][channel]
  int64_t dy_stride_n, dy_stride_c, dy_stride_h, dy_stride_w;  // strides in elements
  int64_t x_stride_n, x_stride_c, x_stride_h, x_stride_w;
  int64_t rows;        // N * P
  int64_t block_rows;  // of one block
  int channels, multiplier;
  int H, W, P, Q, R, S;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int channel_lanes, groups_of_block, pixel_lanes;  // threads of a block
  bool channels_innermost;                          // consecutive threads: channels, or pixels
  int groups;                                       // of taps: R filter rows, or R * S single taps
  int channel_blocks, group_blocks;
};

// Place of the sums of (tap or channel `i` of a thread, tap group, channel lane) in a row of the reduction.
template <class Config>
__device__ __forceinline__ int weight_grad_sum(const DepthwiseWeightGradParams<typename Config::Element>& params, int i,
                                               int group, int channel_lane) {
  return (i * params.groups_of_block + group) * params.channel_lanes + channel_lane;
}

template <class Config>
__global__ void __launch_bounds__(Config::kMaxThreads, Config::kMinBlocks)
    depthwise_weight_grad_kernel(const DepthwiseWeightGradParams<typename Config::Element> params) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kTaps = Config::kTaps, kVector = Config::kVector, kColumns = Config::kColumns;
  constexpr int kInColumns = Config::kInColumns;
  __shared__ Acc reduction[Config::kReductionElements];

  unsigned block = blockIdx.x;
  const int channel0 = static_cast<int>(block % params.channel_blocks) * params.channel_lanes * kVector;
  block /= params.channel_blocks;
  const int group0 = static_cast<int>(block % params.group_blocks) * params.groups_of_block;
  const int64_t row_block = block / params.group_blocks;

  int rest = static_cast<int>(threadIdx.x);
  const auto next = [&](int extent) {
    const int index = rest % extent;
    rest /= extent;
    return index;
  };
  int channel_lane, group, pixel_lane;
  if (params.channels_innermost) {
    channel_lane = next(params.channel_lanes), group = next(params.groups_of_block), pixel_lane = rest;
  } else {
    pixel_lane = next(params.pixel_lanes), group = next(params.groups_of_block), channel_lane = rest;
  }
  const int k = channel0 + channel_lane * kVector;
  const int tap0 = (group0 + group) * kTaps;  // of the filter, row by row
  const int r = tap0 / params.S, s0 = tap0 % params.S;

  Acc acc[kTaps][kVector] = {};
  if (k < params.channels && group0 + group < params.groups) {
    const T* dy = params.dy + k * params.dy_stride_c;
    const T* x = params.x + k / params.multiplier * params.x_stride_c;
    const int runs = (params.Q + kColumns - 1) / kColumns;  // of a row
    const int64_t row0 = row_block * params.block_rows;
    int64_t rows_left = min(params.block_rows, params.rows - row0);
    int64_t n = row0 / params.P;
    int p = static_cast<int>(row0 % params.P);
    for (int run = pixel_lane;; run += params.pixel_lanes) {
      for (; run >= runs; run -= runs, --rows_left) {
        if (++p == params.P) p = 0, ++n;
      }
      if (rows_left <= 0) break;
      const int q0 = run * kColumns, h = p * params.stride_h - params.pad_h + r * params.dilation_h;
      if (static_cast<unsigned>(h) >= static_cast<unsigned>(params.H)) continue;

      const T* dy_row = dy + n * params.dy_stride_n + p * params.dy_stride_h + q0 * params.dy_stride_w;
      Pack<T, kVector> gradient[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        gradient[j] = {};
        if (q0 + j < params.Q) gradient[j] = load_pack<kVector>(dy_row + j * params.dy_stride_w);
      }
      const int column_step = kTaps > 1 ? 1 : params.stride_w;
      const int w0 = q0 * params.stride_w - params.pad_w + s0 * params.dilation_w;
      const T* x_row = x + n * params.x_stride_n + h * params.x_stride_h + w0 * params.x_stride_w;
      Pack<T, kVector> value[kInColumns];
#pragma unroll
      for (int t = 0; t < kInColumns; ++t) {
        value[t] = {};
        if (static_cast<unsigned>(w0 + t * column_step) < static_cast<unsigned>(params.W)) {
          value[t] = load_pack<kVector>(x_row + t * column_step * params.x_stride_w);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (q0 + j >= params.Q) break;  // not a product with zero: x may be NaN there
#pragma unroll
        for (int s = 0; s < kTaps; ++s) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            const T factor = value[kTaps > 1 ? j * Config::kStride + s : j].value[v];
            acc[s][v] += to_accumulate(gradient[j].value[v]) * to_accumulate(factor);
          }
        }
      }
    }
  }

  const int sums = Config::kSums * params.groups_of_block * params.channel_lanes;
  const int stride = sums | 1;
#pragma unroll
  for (int i = 0; i < Config::kSums; ++i) {
    reduction[pixel_lane * stride + weight_grad_sum<Config>(params, i, group, channel_lane)] =
        acc[i / kVector][i % kVector];
  }
  __syncthreads();
  const int threads = params.channel_lanes * params.groups_of_block * params.pixel_lanes;
  for (int i = static_cast<int>(threadIdx.x); i < sums; i += threads) {
    rest = i;
    channel_lane = next(params.channel_lanes), group = next(params.groups_of_block);
    const int channel = channel0 + channel_lane * kVector + rest % kVector;
    const int tap = (group0 + group) * kTaps + rest / kVector;
    if (channel >= params.channels || group0 + group >= params.groups) continue;
    Acc sum = 0;
    for (int lane = 0; lane < params.pixel_lanes; ++lane) sum += reduction[lane * stride + i];
    params.sums[(row_block * params.R * params.S + tap) * params.channels + channel] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    depthwise_weight_grad_sum_kernel(const accumulate_t<T>* sums, int row_blocks, int channels, int S, int64_t weights,
                                     TensorView dw) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;  // tap * channels + channel
  if (at >= weights) return;
  accumulate_t<T> sum = 0;
  for (int block = 0; block < row_blocks; ++block) sum += sums[block * weights + at];
  const int tap = static_cast<int>(at / channels);
  dw.as<T>()[dw.offset(at % channels, 0, tap / S, tap % S)] = from_accumulate<T>(sum);
}

template <class Config>
void launch_depthwise_weight_grad(const Conv2dWeightGradCall& call, const CallContext& context) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  const ConvProblem& c = call.problem;
  const auto as_int = [](int64_t v) { return static_cast<int>(v); };
  const auto blocks_of = [](int n, int each) { return (n + each - 1) / each; };
  DepthwiseWeightGradParams<T> params;
  params.dy = call.dy.as<const T>(), params.x = call.x.as<const T>();
  const auto &dy = call.dy.stride, &x = call.x.stride;
  params.dy_stride_n = dy[0], params.dy_stride_c = dy[1], params.dy_stride_h = dy[2], params.dy_stride_w = dy[3];
  params.x_stride_n = x[0], params.x_stride_c = x[1], params.x_stride_h = x[2], params.x_stride_w = x[3];
  params.channels = as_int(c.K), params.multiplier = as_int(c.filters_per_group());
  params.H = as_int(c.H), params.W = as_int(c.W), params.P = as_int(c.P), params.Q = as_int(c.Q);
  params.R = as_int(c.R), params.S = as_int(c.S);
  params.stride_h = as_int(c.stride_h), params.stride_w = as_int(c.stride_w);
  params.pad_h = as_int(c.pad_top), params.pad_w = as_int(c.pad_left);
  params.dilation_h = as_int(c.dilation_h), params.dilation_w = as_int(c.dilation_w);

  params.channels_innermost = call.dy.stride[1] == 1;
  params.groups = Config::kTaps > 1 ? params.R : params.R * params.S;
  params.groups_of_block = std::min(params.groups, Config::kMaxGroups);
  params.group_blocks = blocks_of(params.groups, params.groups_of_block);
  const int lanes = blocks_of(params.channels, Config::kVector);
  constexpr int kWarp = 32;
  if (params.channels_innermost) {
    params.channel_lanes = std::min(lanes, kWarp);
    params.pixel_lanes = Config::kMaxThreads / (params.channel_lanes * params.groups_of_block);
  } else {
    params.pixel_lanes = kWarp;
    params.channel_lanes = std::min(lanes, Config::kMaxThreads / (kWarp * params.groups_of_block));
  }
  params.channel_blocks = blocks_of(params.channels, params.channel_lanes * Config::kVector);

  // Rows are dealt out so that the GPU is full several times over; the sums of all blocks take 32 MiB at most.
  params.rows = c.N * c.P;
  constexpr int64_t kBlocksPerMultiprocessor = 8, kMaxSumBytes = int64_t{32} << 20;
  const int64_t blocks = static_cast<int64_t>(params.channel_blocks) * params.group_blocks;
  const int64_t weights = c.K * c.R * c.S;
  int64_t row_blocks = current_device().multiprocessors * kBlocksPerMultiprocessor / blocks;
  row_blocks = std::min({row_blocks, params.rows, kMaxSumBytes / (weights * static_cast<int64_t>(sizeof(Acc)))});
  params.block_rows = row_blocks > 1 ? (params.rows + row_blocks - 1) / row_blocks : std::max<int64_t>(params.rows, 1);
  row_blocks = params.rows > 0 ? (params.rows + params.block_rows - 1) / params.block_rows : 0;
  const size_t sum_bytes = static_cast<size_t>(row_blocks * weights) * sizeof(Acc);
  params.sums = static_cast<Acc*>(context.workspace->allocate(sum_bytes));

  LaunchConfig config;
  config.stream = context.stream;
  if (row_blocks > 0) {
    config.block = dim3(static_cast<unsigned>(params.channel_lanes * params.groups_of_block * params.pixel_lanes));
    config.grid = dim3(static_cast<unsigned>(blocks * row_blocks));
    config.footprint.reads("dy", call.dy).reads("x", call.x).scratch("sums", params.sums, sum_bytes);
    launch("depthwise_weight_grad", config, depthwise_weight_grad_kernel<Config>, params);
  }
  config.footprint = Footprint().reads("sums", params.sums, sum_bytes).writes("dw", call.dw);
  config.block = dim3(256);
  config.grid = dim3(static_cast<unsigned>((weights + 255) / 256));
  const Acc* sums = params.sums;
  launch("depthwise_weight_grad_sum", config, depthwise_weight_grad_sum_kernel<T>, sums, as_int(row_blocks),
         params.channels, params.S, weights, call.dw);
}

}  // namespace fastconv::cuda
