// Host side of conv_mma.cuh: brings the operands into form where they are not, chooses the tile and the split,
// launches.
#pragma once

#include <algorithm>

#include "../conv_mma.h"
#include "../device.h"
#include "../tuning/conv_plan.h"
#include "conv_mma.cuh"
#include "conv_mma_reduce.cuh"
#include "layout.cuh"

namespace fastconv::cuda {
namespace conv_mma_detail {

inline int most(const int (&values)[kMaxPhases]) { return *std::max_element(values, values + kMaxPhases); }

inline ConvMmaAxis kernel_axis(const PhaseAxis& axis) {
  ConvMmaAxis a;
  a.phases = axis.phases, a.in_extent = axis.in_extent, a.in_step = axis.in_step;
  a.tap_step = axis.in_tap_step, a.scale = axis.scale;
  for (int f = 0; f < axis.phases; ++f) {
    a.taps[f] = axis.taps[f], a.base[f] = axis.in_base[f], a.count[f] = axis.count[f];
    a.count_divmod[f] = FastDivmod(axis.count[f]);
  }
  return a;
}

template <class T>
struct PreparedWeights {
  const T* data;
  int64_t stride_phase, stride_group, stride_out, elements;
};

// One dense matrix for each phase and group, in place where the filters are one already (KRSC): the kernel's main loop
// then has one way to read B, whichever operator and layout it serves. Packing reads the weights once and writes them
// once, a small part of what the convolution itself moves.
template <class T>
PreparedWeights<T> prepare_weights(const ConvMmaProblem& problem, int64_t channels, const CallContext& context) {
  constexpr int64_t kChunk = 16 / sizeof(T);
  const PhasedConv& conv = problem.conv;
  const WeightAxis &h = problem.weights_h, &w = problem.weights_w;
  const bool same_taps = h.phases == 1 && w.phases == 1 && h.scale == 0 && w.scale == 0;
  const bool dense = (conv.in_channels == 1 || conv.w_stride_in == 1) &&
                     (w.taps[0] == 1 || conv.w_stride_w == channels) &&
                     (h.taps[0] == 1 || conv.w_stride_h == channels * w.taps[0]);
  const auto* source = static_cast<const T*>(conv.weights);
  if (same_taps && dense && conv.in_channels == channels && conv.w_stride_out % kChunk == 0 && aligned_16(source) &&
      (conv.groups == 1 || conv.w_stride_group % kChunk == 0)) {
    return {source, 0, conv.w_stride_group, conv.w_stride_out, 0};
  }
  const int most_taps = most(h.taps) * most(w.taps);
  PreparedWeights<T> p;
  p.stride_out = most_taps * channels;
  p.stride_group = p.stride_out * conv.out_channels;
  p.stride_phase = h.phases * w.phases == 1 ? 0 : p.stride_group * conv.groups;
  p.elements = p.stride_group * conv.groups * h.phases * w.phases;
  T* packed = static_cast<T*>(context.workspace->allocate(static_cast<size_t>(p.elements) * sizeof(T)));
  p.data = packed;
  PackWeightsParams<T> params;
  params.source = source, params.packed = packed;
  params.stride_group = conv.w_stride_group, params.stride_out = conv.w_stride_out;
  params.stride_in = conv.w_stride_in, params.stride_h = conv.w_stride_h, params.stride_w = conv.w_stride_w;
  params.packed_stride_phase = p.stride_group * conv.groups;
  params.packed_stride_group = p.stride_group, params.packed_stride_out = p.stride_out;
  params.in_channels = static_cast<int>(conv.in_channels), params.padded_in_channels = static_cast<int>(channels);
  params.out_channels = static_cast<int>(conv.out_channels);
  params.h = h, params.w = w;
  if (most_taps > 0) {
    Footprint footprint;
    footprint.reads("w", problem.weights).scratch("packed w", packed, static_cast<size_t>(p.elements) * sizeof(T));
    launch_pack_conv_weights(params, conv.groups, most_taps, footprint, context.stream);
  }
  return p;
}

template <class Config, class T>
void launch_tiles(ConvMmaParams<T>& params, int64_t most_pixels, int64_t splits, const LaunchConfig& base,
                  int most_taps) {
  const int64_t tiles_m = (most_pixels + Config::kTileM - 1) / Config::kTileM;
  const int64_t tiles_n = (params.out_channels + Config::kTileN - 1) / Config::kTileN;
  params.tiles_n = FastDivmod(tiles_n);
  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(tiles_m * tiles_n * params.groups.divisor * params.phases.divisor),
                     static_cast<unsigned>(splits));
  config.dynamic_shared_bytes = Config::kSharedBytes + (most_taps + 1) * sizeof(TapPlace);
  launch("conv_mma", config, conv_mma_kernel<Config>, params);
}

}  // namespace conv_mma_detail

template <class T>
void launch_conv_mma(const ConvMmaProblem& problem, const CallContext& context) {
  using namespace conv_mma_detail;
  constexpr int64_t kChunk = 16 / sizeof(T);
  const PhasedConv& conv = problem.conv;
  const int64_t channels = (conv.in_channels + kChunk - 1) / kChunk * kChunk;
  const TensorView in = in_whole_chunks<T>(conv.in, conv.in_channels)
                            ? conv.in
                            : packed_channels<T>(conv.in, conv.groups, channels, context);
  const PreparedWeights<T> weights = prepare_weights<T>(problem, channels, context);

  ConvMmaParams<T> params;
  params.in = in.as<const T>();
  params.in_stride_n = in.stride[0], params.in_stride_h = in.stride[2], params.in_stride_w = in.stride[3];
  params.weights = weights.data;
  params.w_stride_phase = weights.stride_phase, params.w_stride_group = weights.stride_group;
  params.w_stride_out = weights.stride_out;
  params.batch = static_cast<int>(conv.N);
  params.in_channels = static_cast<int>(channels), params.out_channels = static_cast<int>(conv.out_channels);
  params.h = kernel_axis(conv.h), params.w = kernel_axis(conv.w);
  params.groups = FastDivmod(conv.groups), params.phases = FastDivmod(conv.phases());
  params.out_stride_n = conv.out.stride[0], params.out_stride_channel = conv.out.stride[1];
  params.out_stride_h = conv.out.stride[2], params.out_stride_w = conv.out.stride[3];
  params.output = {conv.out.as<T>(), conv.out.stride[1], conv.out_channels, 0, false, conv.out.stride[1] != 1,
                   nullptr,          conv.epilogue};
  bool aligned_rows = true;
  for (const int axis : {0, 2, 3}) {
    aligned_rows = aligned_rows && (conv.out.size[axis] == 1 || conv.out.stride[axis] % kChunk == 0);
  }
  params.output.vectors = mma_vectors(params.output, aligned_rows);

  const int most_taps = most(conv.h.taps) * most(conv.w.taps);
  const int64_t most_pixels = conv.N * most(conv.h.count) * most(conv.w.count);
  const int64_t steps = (most_taps * channels * static_cast<int64_t>(sizeof(T)) + 63) / 64;
  const ConvPlan plan = plan_conv(conv, most_pixels, steps, current_device());
  const int splits = plan.splits;
  const int64_t row = conv.groups * conv.out_channels;
  params.partial_stride_phase = most_pixels * row;
  params.partial_stride_split = params.partial_stride_phase * conv.phases();
  const size_t partial_bytes = static_cast<size_t>(splits * params.partial_stride_split) * sizeof(float);
  if (splits > 1) params.output.partials = static_cast<float*>(context.workspace->allocate(partial_bytes));

  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", in);
  if (weights.elements > 0) {
    config.footprint.reads("packed w", weights.data, static_cast<size_t>(weights.elements) * sizeof(T));
  } else {
    config.footprint.reads("w", problem.weights);
  }
  if (splits > 1) {
    config.footprint.scratch("partial sums", params.output.partials, partial_bytes);
  } else {
    config.footprint.writes("y", conv.out).reads(conv.epilogue, conv.dtype, row);
  }
  switch (plan.tile) {
    case 0:
      launch_tiles<MmaConfig<T, 128, 128, 64, 64, 4, Major::kK, Major::kK>>(params, most_pixels, splits, config,
                                                                            most_taps);
      break;
    case 1:
      launch_tiles<MmaConfig<T, 128, 64, 64, 32, 4, Major::kK, Major::kK>>(params, most_pixels, splits, config,
                                                                           most_taps);
      break;
    case 2:
      launch_tiles<MmaConfig<T, 64, 64, 32, 32, 4, Major::kK, Major::kK>>(params, most_pixels, splits, config,
                                                                          most_taps);
      break;
    default:
      launch_tiles<MmaConfig<T, 128, 32, 32, 32, 4, Major::kK, Major::kK>>(params, most_pixels, splits, config,
                                                                           most_taps);
  }
  if (splits > 1) launch_conv_mma_reduce(params, conv, splits, partial_bytes, context.stream);
}

}  // namespace fastconv::cuda
