// Host side of conv_mma.cuh: brings the operands into form where they are not, chooses the tile and the split,
// launches.
#pragma once

#include <algorithm>

#include "../conv_mma.h"
#include "../device.h"
#include "conv_mma.cuh"
#include "conv_mma_reduce.cuh"
#include "layout.cuh"
#include "prepare_weights.cuh"

namespace fastconv::cuda {
namespace conv_mma_detail {

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

  const int most_taps = most_of(conv.h.taps) * most_of(conv.w.taps);
  const int64_t most_pixels = conv.N * most_of(conv.h.count) * most_of(conv.w.count);
  const TilePlan plan = plan_conv_mma(problem);
  const int splits = plan.parts;
  const int64_t row = conv.groups * conv.out_channels;
  params.partial_stride_phase = most_pixels * row;
  params.partial_stride_split = params.partial_stride_phase * conv.phases();
  const size_t partial_bytes = static_cast<size_t>(splits * params.partial_stride_split) * sizeof(float);
  if (splits > 1) params.output.partials = static_cast<float*>(context.workspace->allocate(partial_bytes));

  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", in);
  declare_weights(config.footprint, weights, problem);
  if (splits > 1) {
    config.footprint.scratch("partial sums", params.output.partials, partial_bytes);
  } else {
    config.footprint.writes("y", conv.out).reads(conv.epilogue, conv.dtype, row);
  }
  switch (plan.kernel) {
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
