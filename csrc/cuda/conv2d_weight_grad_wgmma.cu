// The conv2d_weight_grad row "wgmma".
#include <algorithm>
#include <utility>

#include "algorithms.h"
#include "conv2d_gemm.h"
#include "kernels/weight_grad_wgmma.cuh"
#include "model.h"
#include "wgmma_support.h"

namespace fastconv::cuda {
namespace {

constexpr int kTileM = 128, kTileK = 64;
constexpr int64_t kMaxExtent = 0x7fffffff - kTileM;
constexpr int64_t kMostParts = 2;  // for each multiprocessor

// Multiples of 8, so that they are whole 16-byte chunks in memory: packed operands have zeros in addition.
int64_t stored(int64_t channels) { return (channels + 7) / 8 * 8; }

// Columns that tiles are cut from: each tap has whole blocks.
int64_t block_columns(const ConvProblem& p) {
  return p.R * p.S * ((p.channels_per_group() + kWeightGradBlock - 1) / kWeightGradBlock * kWeightGradBlock);
}

// The filters or, for few of them, the columns are the 128 rows of a tile. All sums go through the second kernel.
struct Plan {
  bool columns_are_rows;
  TilePlan tiles;
};

Plan plan(const Conv2dWeightGradCall& call) {
  const ConvProblem& p = call.problem;
  const int64_t sums = std::max<int64_t>(1, p.K * p.R * p.S * stored(p.channels_per_group()));
  constexpr int64_t kMostBytes = int64_t{256} << 20;
  const int64_t most = std::min<int64_t>(kMostParts * current_device().multiprocessors, kMostBytes / (4 * sums));
  const SplitRule rule{0, std::max<int64_t>(1, most), 1};
  const double dy = 2.0 * static_cast<double>(call.dy.numel()), x = 2.0 * static_cast<double>(call.x.numel());
  TileProblem problem{p.filters_per_group(), block_columns(p), p.N * p.P * p.Q, 1, p.groups, 2, dy + x, 0, 0};
  if (!in_whole_chunks<half_t>(call.dy, p.filters_per_group())) problem.pass_bytes += 2 * dy, ++problem.passes;
  if (!im2col_reads_in_place(call.x, p.channels_per_group())) problem.pass_bytes += 2 * x, ++problem.passes;
  const Plan upright{
      false, fastest({wgmma_kernel(2, 256, 1), wgmma_kernel(2, 128, 1), wgmma_kernel(2, 64, 1)}, problem, rule)};
  std::swap(problem.M, problem.N);
  const Plan turned{true, fastest({wgmma_kernel(2, 64, 1)}, problem, rule)};
  return turned.tiles.predicted.seconds < upright.tiles.predicted.seconds ? turned : upright;
}

Prediction predict(const Conv2dWeightGradCall& call) { return plan(call).tiles.predicted; }

Reasons wgmma_reasons(const Conv2dWeightGradCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  refuse_without_wgmma(reasons);
  if (call.dtype == DType::kFloat32) {
    reasons.push_back("dtype is float32: wgmma takes tf32 operands with pixels contiguous only, and here channels are");
  } else if (call.dtype == DType::kFloat64) {
    reasons.push_back("dtype is float64, not float16 or bfloat16");
  }
  refuse_im2col(reasons, p);
  const int64_t pixels = p.N * p.P * p.Q;
  if (pixels == 0) reasons.push_back("dy has no pixels");
  if (!reasons.empty()) return reasons;
  const auto limit = [&](const char* what, int64_t value) {
    if (value > kMaxExtent) reasons.push_back(std::to_string(value) + what + " are above 2^31 - 129");
  };
  limit(" output pixels", pixels);
  limit(" input pixels", p.N * p.H * p.W);
  limit(" columns of the gradient", block_columns(p));
  limit(" filters", p.K + 8 * p.groups);
  const int64_t narrowest = tile_count(p.filters_per_group(), block_columns(p), p.groups, kTileM, 64);
  limit(" tiles and parts of them", narrowest * kMostParts * current_device().multiprocessors);
  return reasons;
}

// How far dy's pixels lie apart where TMA takes them as rows of a matrix, else 0.
template <class T>
int64_t dy_pixel_stride(const TensorView& dy, const ConvProblem& p) {
  constexpr int64_t kMaxStride = int64_t{1} << 39;  // 2^40 bytes
  if (!in_whole_chunks<T>(dy, p.filters_per_group()) || !pixels_are_even(dy) || !images_are_even(dy, p.N)) return 0;
  const int64_t pixels = p.P * p.Q;
  const int64_t stride = p.N * pixels == 1 ? p.K : pixels == 1 ? dy.stride[0] : pixel_stride(dy);
  return stride > 0 && stride < kMaxStride ? stride : 0;
}

template <class T>
void run_typed(const Conv2dWeightGradCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  WeightGradWgmmaOperands operands;
  operands.filters = stored(p.filters_per_group()), operands.channels = stored(p.channels_per_group());
  operands.dy = call.dy, operands.dy_pixel_stride = dy_pixel_stride<T>(call.dy, p);
  if (operands.dy_pixel_stride == 0) {
    operands.dy = packed_channels<T>(call.dy, p.groups, operands.filters, context);
    operands.dy_pixel_stride = operands.dy.size[1];
  }
  operands.x = im2col_reads_in_place(call.x, p.channels_per_group())
                   ? call.x
                   : packed_channels<T>(call.x, p.groups, operands.channels, context);

  const Plan chosen = plan(call);
  const int parts = chosen.tiles.parts;
  const int64_t columns = p.R * p.S * operands.channels, sums = p.K * columns;
  const size_t bytes = static_cast<size_t>(parts * sums) * sizeof(float);
  auto* partials = static_cast<float*>(context.workspace->allocate(bytes));
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("dy", operands.dy).reads("x", operands.x).scratch("partial sums", partials, bytes);
  const auto launch_tile = [&](auto tile, auto columns_are_rows) {
    launch_weight_grad_wgmma<decltype(tile), decltype(columns_are_rows)::value>(
        p, operands, parts, partials, config, std::max(current_device().multiprocessors, 1));
  };
  if (chosen.columns_are_rows) {
    launch_tile(WgmmaConfig<T, 64, 8>(), std::true_type());
  } else if (chosen.tiles.kernel == 0) {
    launch_tile(WgmmaConfig<T, 256, 4>(), std::false_type());
  } else if (chosen.tiles.kernel == 1) {
    launch_tile(WgmmaConfig<T, 128, 6>(), std::false_type());
  } else {
    launch_tile(WgmmaConfig<T, 64, 8>(), std::false_type());
  }
  launch_weight_grad_mma_sum<T>(partials, parts, operands.channels, p, call.dw, context.stream);
}

void run_wgmma(const Conv2dWeightGradCall& call, const CallContext& context) {
  if (call.dw.numel() == 0) return;
  call.dtype == DType::kFloat16 ? run_typed<half_t>(call, context) : run_typed<bfloat16_t>(call, context);
}

}  // namespace

const Algorithm<Conv2dWeightGradCall> kWeightGradWgmma = {
    "wgmma",
    "implicit GEMM on Hopper's tensor cores (TMA im2col, wgmma), fp16 and bf16, output pixels split into parts whose "
    "sums are added in a fixed order; dy and x that are not NHWC with whole 16-byte chunks of channels are packed into "
    "the workspace first",
    wgmma_reasons,
    nullptr,
    run_wgmma,
    seconds_of<Conv2dWeightGradCall, predict>,
    predict};

}  // namespace fastconv::cuda
