// The conv2d_weight_grad row "wgmma".
#include <algorithm>
#include <iterator>

#include "algorithms.h"
#include "conv2d_gemm.h"
#include "kernels/weight_grad_wgmma.cuh"
#include "tuning/gemm_plan.h"
#include "tuning/split_plan.h"
#include "wgmma_support.h"

namespace fastconv::cuda {
namespace {

constexpr int kTileM = 128, kTileK = 64;
constexpr int64_t kMaxExtent = 0x7fffffff - kTileM;

// Multiples of 8, so that they are whole 16-byte chunks in memory: packed operands have zeros in addition.
int64_t stored(int64_t channels) { return (channels + 7) / 8 * 8; }

int64_t steps(const ConvProblem& p) { return (p.N * p.P * p.Q + kTileK - 1) / kTileK; }

// Columns that tiles are cut from: each tap has whole blocks.
int64_t block_columns(const ConvProblem& p) {
  return p.R * p.S * ((p.channels_per_group() + kWeightGradBlock - 1) / kWeightGradBlock * kWeightGradBlock);
}

// Which of the two are the 128 rows of a tile, how many of the other are its columns, and the arithmetic that the tile
// does while the widest does 100, as conv2d_wgmma.cu counts it.
struct Tile {
  bool columns_are_rows;
  int n, percent;
};
constexpr Tile kTiles[] = {{false, 256, 100}, {false, 128, 75}, {false, 64, 50}, {true, 64, 50}};

int64_t tiles(const ConvProblem& p, const Tile& tile) {
  const int64_t filters = p.filters_per_group(), columns = block_columns(p);
  return tile.columns_are_rows ? tile_count(columns, filters, p.groups, kTileM, tile.n)
                               : tile_count(filters, columns, p.groups, kTileM, tile.n);
}

struct Plan {
  Tile tile;
  SplitPlan split;
};

Plan plan(const ConvProblem& p) {
  const int64_t sums = std::max<int64_t>(1, p.K * p.R * p.S * stored(p.channels_per_group()));
  Plan best = {};
  for (const Tile& tile : kTiles) {
    const double step_clocks = wgmma_step_clocks(kTileM, tile.n, tile.percent);
    const SplitPlan split = plan_split(tiles(p, tile), steps(p), step_clocks, sums, current_device());
    if (best.split.parts == 0 || split.clocks < best.split.clocks) best = {tile, split};
  }
  return best;
}

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
  limit(" tiles and parts of them", tiles(p, kTiles[2]) * kMostParts * current_device().multiprocessors);
  return reasons;
}

// Where its tile does, of what is asked for, at least four tenths of what the tensor cores could, which is what
// mma.sync's do; and where every multiprocessor's share goes round the ring.
bool wgmma_preferred(const Conv2dWeightGradCall& call) {
  const ConvProblem& p = call.problem;
  const Plan chosen = plan(p);
  const int64_t count = tiles(p, chosen.tile);
  const double asked = static_cast<double>(p.K * p.gemm_k());
  const double done = static_cast<double>(count) * kTileM * chosen.tile.n;
  return asked * chosen.tile.percent >= done * 40 && count * steps(p) >= 8 * current_device().multiprocessors;
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

  const Plan chosen = plan(p);
  const int parts = chosen.split.parts;
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
  if (chosen.tile.columns_are_rows) {
    launch_tile(WgmmaConfig<T, 64, 8>(), std::true_type());
  } else if (chosen.tile.n == 256) {
    launch_tile(WgmmaConfig<T, 256, 4>(), std::false_type());
  } else if (chosen.tile.n == 128) {
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
    wgmma_reasons, wgmma_preferred, run_wgmma};

}  // namespace fastconv::cuda
