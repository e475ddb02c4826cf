// Operators as problems for the tensor-core convolution, and what stands against them.
#include "conv_mma.h"

#include <algorithm>

#include "kernels/layout.cuh"
#include "requirements.h"

namespace fastconv::cuda {
namespace {

// Tap t is filter row t, for every phase.
WeightAxis plain_weights(int64_t filter) {
  WeightAxis a;
  a.taps[0] = static_cast<int>(filter);
  return a;
}

WeightAxis input_grad_weights(const PhaseAxis& axis) {
  WeightAxis a;
  a.phases = axis.phases, a.step = axis.filter_tap_step;
  for (int f = 0; f < axis.phases; ++f) a.taps[f] = axis.taps[f], a.first[f] = axis.filter_base[f];
  return a;
}

// Enlarged row where the window of output row `phase` starts.
int window_start(int phase, int64_t stride, int64_t pad) { return static_cast<int>(phase * stride - pad); }

WeightAxis summed_weights(const PhaseAxis& axis, int64_t filter, int64_t stride, int64_t pad, int64_t dilation,
                          int64_t scale) {
  WeightAxis a;
  a.phases = axis.phases, a.scale = static_cast<int>(scale);
  a.dilation = static_cast<int>(dilation), a.filter = static_cast<int>(filter);
  for (int f = 0; f < axis.phases; ++f) {
    a.taps[f] = axis.taps[f];
    a.first[f] = window_start(f, stride, pad) - axis.in_base[f] * a.scale;
  }
  return a;
}

// The phases of upsampling, but with every tap of the filter: several read the same stored row.
PhaseAxis gather_axis(PhaseAxis axis, int64_t filter, int64_t stride, int64_t pad, int64_t dilation, int64_t scale) {
  axis.scale = static_cast<int>(scale), axis.in_tap_step = static_cast<int>(dilation);
  for (int f = 0; f < axis.phases; ++f) {
    axis.taps[f] = static_cast<int>(filter);
    axis.in_base[f] = window_start(f, stride, pad);
  }
  return axis;
}

}  // namespace

ConvMmaProblem forward_mma(const Conv2dCall& call) {
  return {forward_phases(call), call.w, plain_weights(call.problem.R), plain_weights(call.problem.S)};
}

ConvMmaProblem input_grad_mma(const Conv2dInputGradCall& call) {
  const PhasedConv conv = input_grad_phases(call);
  return {conv, call.w, input_grad_weights(conv.h), input_grad_weights(conv.w)};
}

ConvMmaProblem upsample_phase_mma(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const PhasedConv phases = upsample_phases(call);
  ConvMmaProblem problem{forward_phases(call), call.w, {}, {}};
  problem.conv.h = phases.h, problem.conv.w = phases.w;
  problem.weights_h = summed_weights(phases.h, p.R, p.stride_h, p.pad_top, p.dilation_h, p.scale_h);
  problem.weights_w = summed_weights(phases.w, p.S, p.stride_w, p.pad_left, p.dilation_w, p.scale_w);
  return problem;
}

ConvMmaProblem upsample_gather_mma(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const PhasedConv phases = upsample_phases(call);
  ConvMmaProblem problem{forward_phases(call), call.w, plain_weights(p.R), plain_weights(p.S)};
  problem.conv.h = gather_axis(phases.h, p.R, p.stride_h, p.pad_top, p.dilation_h, p.scale_h);
  problem.conv.w = gather_axis(phases.w, p.S, p.stride_w, p.pad_left, p.dilation_w, p.scale_w);
  return problem;
}

void add_mma_reasons(Reasons& reasons, DType dtype, bool tf32) {
  if (tf32 ? dtype != DType::kFloat32 : dtype != DType::kFloat16 && dtype != DType::kBFloat16) {
    reasons.push_back(std::string("needs ") + (tf32 ? "float32" : "float16 or bfloat16") + ", but the tensors are " +
                      dtype_name(dtype));
  }
  refuse_without_mma(reasons);
}

Reasons forward_mma_reasons(const Conv2dCall& call, bool tf32) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  add_mma_reasons(reasons, call.dtype, tf32);
  if (p.scale_h != 1 || p.scale_w != 1) {
    reasons.push_back("upsamples its input by " + std::to_string(p.scale_h) + "x" + std::to_string(p.scale_w));
  }
  return reasons;
}

void add_patch_reasons(Reasons& reasons, const ConvProblem& p, int64_t tiles, int64_t slabs,
                       const std::function<int64_t()>& bytes) {
  const int64_t reach = std::max({p.R * p.dilation_h, p.S * p.dilation_w, p.stride_h, p.stride_w});
  if (reach > 256) {
    reasons.push_back("a window that reaches or steps over " + std::to_string(reach) + " pixels is above 256");
  }
  if (tiles > 0x7fffffff || slabs > 65535) reasons.push_back("more tiles than one grid holds");
  if (!reasons.empty()) return;
  const int64_t needed = bytes(), available = current_device().shared_bytes;
  if (available > 0 && needed > available) {
    reasons.push_back("the patch and the weights need " + std::to_string(needed) +
                      " bytes of shared memory, and a block has " + std::to_string(available));
  }
}

void add_conv_mma_reasons(Reasons& reasons, const ConvMmaProblem& problem) {
  const PhasedConv& conv = problem.conv;
  int64_t taps_h = 0, taps_w = 0, pixels = 0;
  for (int f = 0; f < conv.h.phases; ++f) taps_h = std::max<int64_t>(taps_h, conv.h.taps[f]);
  for (int f = 0; f < conv.w.phases; ++f) taps_w = std::max<int64_t>(taps_w, conv.w.taps[f]);
  if (taps_h > kConvMmaMaxTaps || taps_w > kConvMmaMaxTaps) {
    reasons.push_back("a window of " + std::to_string(taps_h) + "x" + std::to_string(taps_w) + " taps is above " +
                      std::to_string(kConvMmaMaxTaps) + " an axis");
  }
  constexpr int64_t kMax = 0x7fffffff;
  pixels = conv.N * conv.h.count[0] * conv.w.count[0];
  if (pixels > kMax - 128) {
    reasons.push_back(std::to_string(pixels) + " output pixels a phase are above 2^31 - 129");
    return;
  }
  const int64_t in_pixels = conv.in.size[0] * conv.in.size[2] * conv.in.size[3];
  if (in_pixels > kMax - 32) reasons.push_back(std::to_string(in_pixels) + " input pixels are above 2^31 - 33");
  if (taps_h * taps_w * (conv.in_channels + 8) > kMax) {
    reasons.push_back("a reduction over " + std::to_string(taps_h * taps_w * conv.in_channels) + " is above 2^31");
  }
  // Of the smallest tile, or of packing.
  const int64_t blocks = (std::max(pixels, in_pixels) + 31) / 32 * conv.phases() * conv.groups *
                         ((std::max(conv.out_channels, conv.in_channels) + 31) / 32);
  if (blocks > kMax) reasons.push_back(std::to_string(blocks) + " tiles are more than one grid holds");
  refuse_many_filter_tiles(reasons, problem);
}

void refuse_many_filter_tiles(Reasons& reasons, const ConvMmaProblem& problem) {
  const PhasedConv& conv = problem.conv;
  const int64_t of_a_tap = (conv.in_channels + 31) / 32 * ((conv.out_channels + 31) / 32) * conv.groups;
  const int64_t tiles = of_a_tap * problem.weights.size[2] * problem.weights.size[3];
  if (tiles > 0x7fffffff) reasons.push_back(std::to_string(tiles) + " tiles of filters are above 2^31 - 1");
}

bool weights_in_place(const ConvMmaProblem& problem, int64_t channels) {
  const PhasedConv& conv = problem.conv;
  const WeightAxis &h = problem.weights_h, &w = problem.weights_w;
  const int64_t chunk = 16 / static_cast<int64_t>(dtype_size(conv.dtype));
  const bool same_taps = h.phases == 1 && w.phases == 1 && !problem.sums();
  const bool dense = (conv.in_channels == 1 || conv.w_stride_in == 1) &&
                     (w.taps[0] == 1 || conv.w_stride_w == channels) &&
                     (h.taps[0] == 1 || conv.w_stride_h == channels * w.taps[0]);
  return same_taps && dense && conv.in_channels == channels && conv.w_stride_out % chunk == 0 &&
         aligned_16(conv.weights) && (conv.groups == 1 || conv.w_stride_group % chunk == 0);
}

TileProblem tile_problem(const ConvMmaProblem& problem, bool packs_weights) {
  const PhasedConv& conv = problem.conv;
  const int bytes = static_cast<int>(dtype_size(conv.dtype));
  const int64_t chunk = 16 / bytes, channels = (conv.in_channels + chunk - 1) / chunk * chunk;
  TileProblem p{conv.N * most_of(conv.h.count) * most_of(conv.w.count),
                conv.out_channels,
                channels,
                int64_t{1} * most_of(conv.h.taps) * most_of(conv.w.taps),
                conv.groups * conv.phases(),
                bytes,
                0,
                0,
                0};
  const double x = static_cast<double>(conv.in.numel()) * bytes, y = static_cast<double>(conv.out.numel()) * bytes;
  const double weights = static_cast<double>(p.N * p.K * p.taps * p.batch) * bytes;
  p.memory_bytes = x + weights + y * (conv.epilogue.residual.present() ? 2 : 1);
  const bool in_place = bytes == 2 ? in_whole_chunks<half_t>(conv.in, conv.in_channels)
                                   : in_whole_chunks<float>(conv.in, conv.in_channels);
  if (!in_place) p.pass_bytes += 2 * x, ++p.passes;
  if (packs_weights) p.pass_bytes += 2 * weights, ++p.passes;
  return p;
}

TilePlan plan_conv_mma(const ConvMmaProblem& problem) {
  const int bytes = static_cast<int>(dtype_size(problem.conv.dtype));
  const int64_t chunk = 16 / bytes, channels = (problem.conv.in_channels + chunk - 1) / chunk * chunk;
  TileProblem p = tile_problem(problem, !weights_in_place(problem, channels));
  p.K *= p.taps, p.taps = 1;
  // Parts of fewer steps cost more in filling the ring and writing partial sums than idle multiprocessors do. Blocks
  // that are resident at once: kGatherMinBlocks.
  constexpr SplitRule kRule{1, 32, 8};
  return fastest({mma_kernel(bytes, 128, 128, 64, 64, 2), mma_kernel(bytes, 128, 64, 64, 32, 3),
                  mma_kernel(bytes, 64, 64, 32, 32, 4), mma_kernel(bytes, 128, 32, 32, 32, 4)},
                 p, kRule);
}

bool conv_mma_preferred(const ConvMmaProblem& problem) {
  return problem.conv.in_channels >= 8 && problem.conv.out_channels >= 8;
}

void run_conv_mma(const ConvMmaProblem& problem, const CallContext& context) {
  switch (problem.conv.dtype) {
    case DType::kFloat16:
      return launch_conv_mma<half_t>(problem, context);
    case DType::kBFloat16:
      return launch_conv_mma<bfloat16_t>(problem, context);
    default:
      return launch_conv_mma<float>(problem, context);
  }
}

}  // namespace fastconv::cuda
