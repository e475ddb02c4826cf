// The conv2d row "wgmma".
#include <algorithm>
#include <iterator>

#include "algorithms.h"
#include "conv2d_gemm.h"
#include "kernels/conv_wgmma.cuh"
#include "tuning/gemm_plan.h"
#include "wgmma_support.h"

namespace fastconv::cuda {

namespace {

constexpr int kTileM = 128, kTileK = 64, kNarrowestN = 64;
constexpr int64_t kMaxExtent = 0x7fffffff - kTileM;

std::string pair_text(int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }

// A multiple of 8, so that rows of channels are multiples of 16 bytes: more than C of zeros where x is packed.
int64_t stored_channels(const ConvProblem& p) { return (p.channels_per_group() + 7) / 8 * 8; }

int64_t tiles(const ConvProblem& p, int tile_n) {
  return tile_count(p.N * p.P * p.Q, p.filters_per_group(), p.groups, kTileM, tile_n);
}

// How far the pixels of y, or of a residual, lie apart where TMA can take them as rows of a matrix, else 0.
int64_t tma_pixel_stride(const TensorView& t, const ConvProblem& p) {
  const int64_t Kg = p.filters_per_group(), pixels = p.P * p.Q;
  const int64_t stride = p.N * pixels == 1 ? (p.K + 7) / 8 * 8 : pixels == 1 ? t.stride[0] : pixel_stride(t);
  const bool rows = pixels_are_even(t) && images_are_even(t, p.N) && stride > 0 && stride % 8 == 0;
  // Two columns at a time; groups are a dimension of the map, whose stride is Kg.
  const bool columns = t.stride[1] == 1 && Kg % (p.groups == 1 ? 2 : 8) == 0;
  return rows && columns && aligned_16(t.data) ? stride : 0;
}

Reasons wgmma_reasons(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  Reasons reasons = phase_extent_reasons(p);
  refuse_without_wgmma(reasons);
  if (call.dtype != DType::kFloat16 && call.dtype != DType::kBFloat16) {
    reasons.push_back(std::string("dtype is ") + dtype_name(call.dtype) + ", not float16 or bfloat16");
  }
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
    reasons.push_back("more than 2^31 - 129 pixels of x or y");
  } else if (tiles(p, kNarrowestN) > 0x7fffffff) {
    reasons.push_back(std::to_string(tiles(p, kNarrowestN)) + " tiles are above 2^31 - 1");
  }
  if (p.R * p.S * (stored_channels(p) + kTileK) > 0x7fffffff) {
    reasons.push_back("a reduction over " + std::to_string(p.gemm_k()) + " is above 2^31");
  }
  return reasons;
}

// The widest tile, whose operands are read least often, unless another fills the GPU or the filters better. The
// percentage is the arithmetic a tile does while the widest does 100: counted, from what the L2 cache feeds, 6,154
// bytes a clock to 132 multiprocessors, against 2,048 multiply-adds of each.
struct TileWidth {
  int n, percent;
};
constexpr TileWidth kTileWidths[] = {{256, 100}, {128, 75}, {64, 50}};

int chosen_width(const ConvProblem& p) {
  const int multiprocessors = std::max(current_device().multiprocessors, 1);
  const auto cost = [&](const TileWidth& t) {
    return wave_cost(tiles(p, t.n), multiprocessors, 1, int64_t{kTileM} * t.n, t.percent);
  };
  return std::min_element(std::begin(kTileWidths), std::end(kTileWidths),
                          [&](const TileWidth& a, const TileWidth& b) { return cost(a) < cost(b); })
      ->n;
}

// Where its tiles keep at least half of the GPU busy over a reduction that fills the ring, and at least three quarters
// of what they compute is asked for; the rest has smaller tiles, or a split reduction, in mma.sync's row.
bool wgmma_preferred(const Conv2dCall& call) {
  const ConvProblem& p = call.problem;
  const auto fills = [](int64_t extent, int64_t step) { return 4 * extent >= 3 * ((extent + step - 1) / step * step); };
  const int64_t steps = p.R * p.S * ((p.channels_per_group() + kTileK - 1) / kTileK);
  return 2 * tiles(p, chosen_width(p)) >= current_device().multiprocessors && steps >= 4 &&
         fills(p.channels_per_group(), kTileK) && fills(p.filters_per_group(), kNarrowestN);
}

template <class T>
void run_typed(const Conv2dCall& call, const CallContext& context) {
  const ConvProblem& p = call.problem;
  const ConvMmaProblem problem = forward_mma(call);
  const TensorView& residual = call.epilogue.residual;
  ConvWgmmaOperands<T> operands;
  operands.channels = stored_channels(p);
  operands.x = im2col_reads_in_place(call.x, p.channels_per_group())
                   ? call.x
                   : packed_channels<T>(call.x, p.groups, operands.channels, context);
  operands.weights = prepare_weights<T>(problem, operands.channels, context);
  operands.y_pixel_stride = tma_pixel_stride(call.y, p);
  operands.residual_pixel_stride = residual.present() ? tma_pixel_stride(residual, p) : 0;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", operands.x).writes("y", call.y).reads(call.epilogue, call.dtype, p.K);
  declare_weights(config.footprint, operands.weights, problem);
  const bool by_tma = operands.y_pixel_stride > 0 && operands.residual_pixel_stride > 0;
  visit_wgmma_epilogue<T>(call.epilogue, by_tma, [&](auto epilogue) {
    const auto launch_tile = [&](auto tile) {
      launch_conv_wgmma<decltype(tile)>(call, operands, epilogue, config,
                                        std::max(current_device().multiprocessors, 1));
    };
    switch (chosen_width(p)) {
      case 256:
        return launch_tile(WgmmaConfig<T, 256, 4>());
      case 128:
        return launch_tile(WgmmaConfig<T, 128, 6>());
      default:
        return launch_tile(WgmmaConfig<T, 64, 8>());
    }
  });
}

void run_wgmma(const Conv2dCall& call, const CallContext& context) {
  if (call.y.numel() == 0) return;
  call.dtype == DType::kFloat16 ? run_typed<half_t>(call, context) : run_typed<bfloat16_t>(call, context);
}

}  // namespace

const Algorithm<Conv2dCall> kConv2dWgmma = {
    "wgmma",
    "implicit GEMM on Hopper's tensor cores (TMA im2col, wgmma), fp16 and bf16; an x that is not NHWC with whole "
    "16-byte chunks of channels, and weights that are not KRSC, are packed into the workspace first",
    wgmma_reasons, wgmma_preferred, run_wgmma};

}  // namespace fastconv::cuda
