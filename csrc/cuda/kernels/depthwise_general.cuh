// Depthwise convolution with any filter, stride, dilation, rows of zeros between the input's, and channel multiplier
// (depthwise_plan.h). A thread owns kVector channels of one output column and walks down a strip of rows, tap by tap;
// what neighbouring outputs read again comes from the L1 cache. The block's filters lie in shared memory:
//
//   filters[m][r][s][channel of the block], in the accumulate type
#pragma once

#include "depthwise.cuh"

namespace fastconv::cuda {

template <class T, int kVector_>
struct DepthwiseGeneralConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kVector = kVector_;
  static constexpr int kThreads = ThreadTiling::kThreads;
  static constexpr int kMinBlocks = 4;
  static constexpr int kMaxFilterBytes = 48 << 10;  // what a block gets unasked
};

template <class T>
struct DepthwiseGeneralParams {
  DepthwiseAxis h, w;
  const T* in;
  T* out;
  const T* first_tap;
  int64_t in_stride_n, in_stride_c, in_stride_h, in_stride_w;  // strides in elements
  int64_t out_stride_n, out_stride_c, out_stride_h, out_stride_w;
  int64_t w_stride_filter, w_stride_r, w_stride_s;
  int channels, spread, collect;
  int strip_rows;
  ThreadTiling tiling;
};

// Walks along one axis of the virtual input, tap by tap, keeping the division by the rows' distance up to date.
struct VirtualRow {
  int index, rest;  // virtual row = index * insert + rest, 0 <= rest < insert

  __device__ VirtualRow(int row, int insert) : index(row / insert), rest(row % insert) {
    if (rest < 0) rest += insert, --index;
  }
  __device__ __forceinline__ void advance(int whole, int part, int insert) {  // by whole * insert + part
    index += whole, rest += part;
    if (rest >= insert) rest -= insert, ++index;
  }
  // Whether it is a row of the input and not of the zeros between or around them.
  __device__ __forceinline__ bool real(int extent) const {
    return rest == 0 && static_cast<unsigned>(index) < static_cast<unsigned>(extent);
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    depthwise_general_kernel(const DepthwiseGeneralParams<typename Config::Element> params, const Epilogue epilogue) {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  constexpr int kVector = Config::kVector, kThreads = Config::kThreads;
  Acc* filters = reinterpret_cast<Acc*>(dynamic_shared_memory());

  const int thread = static_cast<int>(threadIdx.x);
  const ThreadPlace place(params.tiling);
  const DepthwiseAxis &axis_h = params.h, &axis_w = params.w;
  const int taps = axis_h.filter * axis_w.filter;
  const int block_channels = kVector << params.tiling.channel_bits;
  const int channel0 = place.channel_block * block_channels;
  for (int i = thread; i < params.collect * taps * block_channels; i += kThreads) {
    const int channel = i & (block_channels - 1), tap = i / block_channels % taps, m = i / block_channels / taps;
    if (channel0 + channel < params.channels) {
      const int64_t filter = static_cast<int64_t>(channel0 + channel) * params.collect + m;
      filters[i] =
          to_accumulate(params.first_tap[filter * params.w_stride_filter + tap / axis_w.filter * params.w_stride_r +
                                         tap % axis_w.filter * params.w_stride_s]);
    }
  }
  __syncthreads();

  const int lane = place.channel_lane * kVector, k = channel0 + lane, q = place.column;
  if (k >= params.channels || place.strip >= params.tiling.strips) return;

  typename Epilogue::Channel channel[kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) channel[v] = epilogue.channel(k + v);
  const T* image = params.in + place.n * params.in_stride_n +
                   static_cast<int64_t>(k / params.spread) * params.collect * params.in_stride_c;
  const int whole_h = axis_h.dilation / axis_h.insert, part_h = axis_h.dilation % axis_h.insert;
  const int whole_w = axis_w.dilation / axis_w.insert, part_w = axis_w.dilation % axis_w.insert;
  const int row0 = place.strip * params.strip_rows, row_end = min(row0 + params.strip_rows, axis_h.out);
#pragma unroll 1
  for (int p = row0; p < row_end; ++p) {
    Acc acc[kVector] = {};
    for (int m = 0; m < params.collect; ++m) {
      const Acc* filter = filters + m * taps * block_channels + lane;
      VirtualRow h(p * axis_h.stride - axis_h.pad, axis_h.insert);
#pragma unroll 1
      for (int r = 0; r < axis_h.filter; ++r, h.advance(whole_h, part_h, axis_h.insert)) {
        if (!h.real(axis_h.in)) {
          filter += axis_w.filter * block_channels;
          continue;
        }
        const T* row = image + m * params.in_stride_c + h.index * params.in_stride_h;
        VirtualRow w(q * axis_w.stride - axis_w.pad, axis_w.insert);
#pragma unroll 4
        for (int s = 0; s < axis_w.filter; ++s, filter += block_channels, w.advance(whole_w, part_w, axis_w.insert)) {
          if (!w.real(axis_w.in)) continue;
          const Pack<T, kVector> x = load_pack<kVector>(row + w.index * params.in_stride_w);
          const Pack<Acc, kVector> weight = load_pack<kVector>(filter);
#pragma unroll
          for (int v = 0; v < kVector; ++v) acc[v] += to_accumulate(x.value[v]) * weight.value[v];
        }
      }
    }
    Pack<T, kVector> y;
    epilogue.finish_run(channel, acc, place.n, k, p, q, y.value);
    store_pack<kVector>(params.out + place.n * params.out_stride_n + k * params.out_stride_c + p * params.out_stride_h +
                            q * params.out_stride_w,
                        y);
  }
}

// Why the filters of one channel, `collect` of them, do not fit where the kernel above keeps them.
inline Reasons depthwise_filter_reasons(const ConvProblem& c, int64_t collect, DType dtype) {
  constexpr int64_t kMost = DepthwiseGeneralConfig<float, 1>::kMaxFilterBytes;
  const int64_t bytes = collect * c.R * c.S * static_cast<int64_t>(dtype_size(accumulate_dtype(dtype)));
  if (bytes <= kMost) return {};
  return {"the filters of a channel take " + std::to_string(bytes) + " bytes of shared memory, of " +
          std::to_string(kMost)};
}

template <class Config, class Epilogue>
void launch_depthwise_general(const DepthwisePlan& plan, const Epilogue& epilogue, void* stream) {
  using T = typename Config::Element;
  DepthwiseGeneralParams<T> params;
  params.h = plan.h, params.w = plan.w;
  params.in = plan.in.as<const T>(), params.out = plan.out.as<T>();
  params.first_tap = static_cast<const T*>(plan.first_tap);
  const auto& in = plan.in.stride;
  params.in_stride_n = in[0], params.in_stride_c = in[1], params.in_stride_h = in[2], params.in_stride_w = in[3];
  const auto& out = plan.out.stride;
  params.out_stride_n = out[0], params.out_stride_c = out[1], params.out_stride_h = out[2],
  params.out_stride_w = out[3];
  params.w_stride_filter = plan.w_stride_filter;
  params.w_stride_r = plan.w_stride_r, params.w_stride_s = plan.w_stride_s;
  params.channels = plan.channels, params.spread = plan.spread, params.collect = plan.collect;

  const int64_t channel_bytes = plan.collect * plan.taps() * static_cast<int64_t>(sizeof(typename Config::Acc));
  const int max_channels = static_cast<int>(Config::kMaxFilterBytes / channel_bytes);
  params.tiling = tile_threads(plan, Config::kVector, max_channels, plan.w.out, plan.h.out, 4, params.strip_rows);

  LaunchConfig config;
  config.stream = stream;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(plan.N * params.tiling.channel_blocks * params.tiling.unit_blocks));
  config.dynamic_shared_bytes = static_cast<size_t>(channel_bytes) * Config::kVector << params.tiling.channel_bits;
  config.footprint = depthwise_footprint(plan);
  launch("depthwise_general", config, depthwise_general_kernel<Config, Epilogue>, params, epilogue);
}

}  // namespace fastconv::cuda
