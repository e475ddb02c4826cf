// The rows "wgmma" of conv2d and of conv2d_stats.
#include <algorithm>

#include "algorithms.h"
#include "kernels/conv_wgmma.cuh"
#include "kernels/wgmma_moments.cuh"
#include "model.h"
#include "wgmma_support.h"

namespace fastconv::cuda {

namespace {

constexpr int kTileM = 128, kTileK = 64, kNarrowestN = 64;
constexpr int64_t kMaxExtent = 0x7fffffff - 2 * kTileM;  // a cluster's tiles end beyond the last pixel

std::string pair_text(int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }

// A multiple of 8, so that rows of channels are multiples of 16 bytes: more than C of zeros where x is packed.
int64_t stored_channels(const ConvProblem& p) { return (p.channels_per_group() + 7) / 8 * 8; }

int64_t tiles(const ConvProblem& p, int tile_n) {
  return tile_count(p.N * p.P * p.Q, p.filters_per_group(), p.groups, kTileM, tile_n);
}

int64_t steps(const ConvProblem& p) { return p.R * p.S * ((p.channels_per_group() + kTileK - 1) / kTileK); }

Reasons wgmma_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  refuse_without_wgmma(reasons);
  refuse_wide_types(reasons, call.dtype);
  if (p.scale_h != 1 || p.scale_w != 1) {
    reasons.push_back("upsamples its input by " + pair_text(p.scale_h, p.scale_w));
  }
  refuse_im2col(reasons, p);
  if (p.groups > 1 && p.channels_per_group() % kTileK != 0) {
    reasons.push_back("groups of " + std::to_string(p.channels_per_group()) +
                      " channels, no multiple of 64: a step would read the next group's");
  }
  if (!reasons.empty()) return reasons;
  if (p.N * p.P * p.Q > kMaxExtent || p.N * p.H * p.W > kMaxExtent) {
    reasons.push_back("more than 2^31 - 257 pixels of x or y");
  } else if (tiles(p, kNarrowestN) > 0x7fffffff) {
    reasons.push_back(std::to_string(tiles(p, kNarrowestN)) + " tiles are above 2^31 - 1");
  }
  if (p.R * p.S * (stored_channels(p) + kTileK) > 0x7fffffff) {
    reasons.push_back("a reduction over " + std::to_string(p.gemm_k()) + " is above 2^31");
  }
  return reasons;
}

// With clusters, in which two blocks share what they fetch of the filters, where there are any: they start and end
// together, so for more than one wave of tiles.
TileKernel clustered(const ConvProblem& p, int tile_n) {
  const int multiprocessors = current_device().multiprocessors;
  return wgmma_kernel(2, tile_n, multiprocessors > 1 && tiles(p, tile_n) > multiprocessors ? 2 : 1);
}

TileProblem tile_problem(const Conv2dCall& call) {
  const ConvMmaProblem problem = forward_mma(call);
  return tile_problem(problem, !weights_in_place(problem, stored_channels(call.problem)));
}

// Of the tiles whose consumers share each.
TilePlan plan(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  return fastest({wgmma_kernel(2, 256, 1), wgmma_kernel(2, 128, 1), wgmma_kernel(2, 64, 1), clustered(p, 256),
                  clustered(p, 128), clustered(p, 64)},
                 tile_problem(call), kUnsplit);
}

// Of the narrow tiles, which the consumers of a block take by turns, even though the plan is the wide one.
bool narrow_clusters(const Conv2dCall& call) {
  return fastest({wgmma_kernel(2, 128, 1), clustered(call.problem, 128)}, tile_problem(call), kUnsplit)
             .predicted.cluster > 1;
}

Prediction predict(const Conv2dCall& call) { return plan(call).predicted; }

// visit(residual_by_tma, f) calls f with the epilogue, whose own memory `config` has declared.
template <class T, class Visit>
void run_with(const Conv2dCall& call, const CallContext& context, LaunchConfig config, const Visit& visit) {
  const ConvProblem& p = call.problem;
  const ConvMmaProblem problem = forward_mma(call);
  const TensorView& residual = call.epilogue.residual;
  ConvWgmmaOperands<T> operands;
  operands.channels = stored_channels(p);
  operands.x = im2col_reads_in_place(call.x, p.channels_per_group())
                   ? call.x
                   : packed_channels<T>(call.x, p.groups, operands.channels, context);
  operands.weights = prepare_weights<T>(problem, operands.channels, context);
  operands.y_pixel_stride = tma_pixel_stride(call.y, p.groups);
  operands.residual_pixel_stride = residual.present() ? tma_pixel_stride(residual, p.groups) : 0;
  config.stream = context.stream;
  config.footprint.reads("x", operands.x).writes("y", call.y).reads(call.epilogue, call.dtype, p.K);
  declare_weights(config.footprint, operands.weights, problem);
  const bool by_tma = operands.y_pixel_stride > 0 && operands.residual_pixel_stride > 0;
  visit(by_tma, [&](auto epilogue) {
    const auto launch_tile = [&](auto tile) {
      launch_conv_wgmma<decltype(tile)>(call, operands, epilogue, config,
                                        std::max(current_device().multiprocessors, 1));
    };
    const Prediction chosen = predict(call);
    const int width = chosen.tile_n, narrow = std::min(width, 128);
    const WgmmaTurns turns = {tiles(p, narrow), steps(p), width == 256, !decltype(epilogue)::kUnrolled};
    const bool ping_pong = prefer_ping_pong(turns, current_device());
    if (ping_pong) {
      const bool clusters = width == 256 ? narrow_clusters(call) : chosen.cluster > 1;
      if (narrow == 64) {
        clusters ? launch_tile(WgmmaConfig<T, 64, 8, 2, true>()) : launch_tile(WgmmaConfig<T, 64, 8, 1, true>());
      } else {
        clusters ? launch_tile(WgmmaConfig<T, 128, 6, 2, true>()) : launch_tile(WgmmaConfig<T, 128, 6, 1, true>());
      }
    } else if (width == 64) {
      launch_tile(WgmmaConfig<T, 64, 8>());  // narrow tiles of a single wave, and no clusters therefore
    } else if (width == 128) {
      launch_tile(WgmmaConfig<T, 128, 6>());
    } else {
      chosen.cluster > 1 ? launch_tile(WgmmaConfig<T, 256, 4, 2>()) : launch_tile(WgmmaConfig<T, 256, 4>());
    }
  });
}

template <class T>
void run_typed(const Conv2dCall& call, const CallContext& context) {
  run_with<T>(call, context, {},
              [&](bool residual_by_tma, auto f) { visit_wgmma_epilogue<T>(call.epilogue, residual_by_tma, f); });
}

void run_wgmma(const Conv2dCall& call, const CallContext& context) {
  if (call.y.numel() == 0) return;
  call.dtype == DType::kFloat16 ? run_typed<half_t>(call, context) : run_typed<bfloat16_t>(call, context);
}

// ---- with the statistics of y

Reasons stats_reasons(const Conv2dStatsCall& call) {
  const ConvProblem& p = call.conv.problem;
  const EpilogueArgs& e = call.conv.epilogue;
  Reasons reasons = wgmma_reasons(call.conv);
  if (tma_pixel_stride(call.conv.y, p.groups) == 0) {
    reasons.push_back("y's " + std::to_string(p.filters_per_group()) +
                      (p.groups > 1 ? " channels of a group" : " channels") +
                      " do not leave by TMA: they are no 16-byte chunks of an NHWC tensor");
  }
  if (e.residual.present() ||
      (e.act != Activation::kIdentity && e.act != Activation::kRelu && e.act != Activation::kRelu6)) {
    reasons.push_back("a residual, or an activation that is not ReLU or ReLU6");
  }
  return reasons;
}

// Where it takes less than the convolution in its own best row, and y read again for the statistics.
bool stats_preferred(const Conv2dStatsCall& call) {
  const Algorithm<Conv2dCall>* alone = choose_algorithm(conv2d_algorithms(), call.conv);
  if (!alone || !alone->predict) return false;
  const double y = static_cast<double>(call.conv.y.numel()) * static_cast<double>(dtype_size(call.conv.dtype));
  const double apart = alone->predict(call.conv).seconds + predict_stream(y, 0, false, 1, 1).seconds;
  return predict(call.conv).seconds < apart;
}

template <class T>
void run_stats_typed(const Conv2dStatsCall& call, const CallContext& context) {
  const ConvProblem& p = call.conv.problem;
  const int64_t rows = p.N * p.P * p.Q;
  const size_t bytes = moment_bytes(rows, p.K);
  float* moments = static_cast<float*>(context.workspace->allocate(bytes));
  LaunchConfig config;
  config.footprint.scratch("moments", moments, bytes);
  run_with<T>(call.conv, context, config, [&](bool, auto f) {
    visit_epilogue<T>(call.conv.epilogue, [&](auto epilogue) {
      if constexpr (decltype(epilogue)::kUnrolled) {
        f(WgmmaMomentsEpilogue<T>{epilogue, moments, static_cast<int>(p.K)});
      }
    });
  });
  merge_moments(moments, rows, p.K, static_cast<float*>(call.mean), static_cast<float*>(call.var), context);
}

void run_stats(const Conv2dStatsCall& call, const CallContext& context) {
  call.conv.dtype == DType::kFloat16 ? run_stats_typed<half_t>(call, context)
                                     : run_stats_typed<bfloat16_t>(call, context);
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dWgmma = {
    "wgmma",
    "implicit GEMM on Hopper's tensor cores (TMA im2col, wgmma), fp16 and bf16; an x that is not NHWC with whole "
    "16-byte chunks of channels, and weights that are not KRSC, are packed into the workspace first",
    wgmma_reasons,
    nullptr,
    run_wgmma,
    seconds_of<Conv2dCall, predict>,
    predict};

const Algorithm<Conv2dStatsCall> kConv2dStatsWgmma = {
    "wgmma",
    "conv2d's row wgmma, whose blocks sum up each chunk of y while it is in shared memory; the sums of 64 pixels are "
    "merged in a fixed order, and y is not read again",
    stats_reasons, stats_preferred, run_stats};

}  // namespace fastconv::cuda
