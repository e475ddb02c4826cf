#include "phases_wgmma.h"

#include <algorithm>

#include "kernels/phases_wgmma.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kTileM = 128, kTileK = 64, kNarrowestN = 64;
constexpr int64_t kMax = 0x7fffffff;
constexpr int kMaxStep = 8;

std::string pair_text(int64_t h, int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }

int64_t pieces(int64_t extent, int64_t piece) { return (extent + piece - 1) / piece; }

int64_t tiles(const PhasedConv& conv, int tile_n) {
  int64_t rows = 0;  // of tiles
  for (int fh = 0; fh < conv.h.phases; ++fh) {
    for (int fw = 0; fw < conv.w.phases; ++fw) rows += pieces(conv.N * conv.h.count[fh] * conv.w.count[fw], kTileM);
  }
  return rows * pieces(conv.out_channels, tile_n) * conv.groups;
}

int64_t most_steps(const PhasedConv& conv) {
  return int64_t{most_of(conv.h.taps)} * most_of(conv.w.taps) * pieces(conv.in_channels, kTileK);
}

int phases_with_pixels(const PhaseAxis& axis) {
  return static_cast<int>(std::count_if(axis.count, axis.count + axis.phases, [](int count) { return count > 0; }));
}

void refuse_axis(Reasons& reasons, const char* name, const PhaseAxis& axis) {
  const int most = most_of(axis.count);
  int least = most;
  for (const int count : axis.count) least = count > 0 ? std::min(least, count) : least;
  Im2colAxis box = phases_im2col_axis(axis, most);
  if (box.upper < 0) box.upper = phases_im2col_axis(axis, least).upper;  // the one that ends further inside
  refuse_im2col_axis(reasons, name, box);
}

template <class T>
void run_typed(const ConvMmaProblem& problem, const CallContext& context) {
  const PhasedConv& conv = problem.conv;
  PhasesWgmmaOperands<T> operands;
  operands.channels = pieces(conv.in_channels, 8) * 8;
  operands.in = im2col_reads_in_place(conv.in, conv.in_channels)
                    ? conv.in
                    : packed_channels<T>(conv.in, conv.groups, operands.channels, context);
  operands.weights = prepare_column_weights<T>(problem, context);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", operands.in).writes("y", conv.out);
  config.footprint.reads(conv.epilogue, conv.dtype, conv.groups * conv.out_channels);
  declare_weights(config.footprint, operands.weights, problem);
  const int multiprocessors = std::max(current_device().multiprocessors, 1);
  const int width = plan_phases_wgmma(problem).predicted.tile_n;
  const PhasesWgmmaWork<T> work = phases_wgmma_work(problem, operands, width);
  visit_epilogue<T>(conv.epilogue, [&](auto epilogue) {
    switch (width) {
      case 256:
        return launch_phases_wgmma<WgmmaConfig<T, 256, 4>>(problem, work, epilogue, config, multiprocessors);
      case 128:
        return launch_phases_wgmma<WgmmaConfig<T, 128, 6>>(problem, work, epilogue, config, multiprocessors);
      default:
        return launch_phases_wgmma<WgmmaConfig<T, 64, 8>>(problem, work, epilogue, config, multiprocessors);
    }
  });
}

}  // namespace

void add_phases_wgmma_reasons(Reasons& reasons, const ConvMmaProblem& problem) {
  const PhasedConv& conv = problem.conv;
  refuse_without_wgmma(reasons);
  refuse_wide_types(reasons, conv.dtype);
  const int64_t in_pixels = conv.in.size[0] * conv.in.size[2] * conv.in.size[3];
  if (conv.in_channels == 0 || in_pixels == 0) reasons.push_back("the input has no channels or no pixels");
  const int phases_h = phases_with_pixels(conv.h), phases_w = phases_with_pixels(conv.w);
  if (phases_h * phases_w > kMaxWgmmaPhases) {
    reasons.push_back(pair_text(phases_h, phases_w) + " phases are more than " + std::to_string(kMaxWgmmaPhases));
  }
  if (conv.h.in_step > kMaxStep || conv.w.in_step > kMaxStep) {
    reasons.push_back("windows " + pair_text(conv.h.in_step, conv.w.in_step) + " pixels apart are beyond im2col's 8");
  }
  refuse_axis(reasons, "H", conv.h);
  refuse_axis(reasons, "W", conv.w);
  if (conv.groups > 1 && conv.in_channels % kTileK != 0) {
    reasons.push_back("groups of " + std::to_string(conv.in_channels) +
                      " channels, no multiple of 64: a step would read the next group's");
  }
  if (!reasons.empty()) return;
  const int64_t pixels = conv.N * most_of(conv.h.count) * most_of(conv.w.count);
  if (pixels > kMax - kTileM || in_pixels > kMax - kTileM) {
    reasons.push_back("more than 2^31 - 129 pixels of the input, or of a phase of the output");
  } else if (tiles(conv, kNarrowestN) > kMax) {
    reasons.push_back(std::to_string(tiles(conv, kNarrowestN)) + " tiles are above 2^31 - 1");
  }
  if (most_steps(conv) * kTileK > kMax) {
    reasons.push_back("a reduction over " + std::to_string(most_steps(conv) * kTileK) + " is above 2^31");
  }
  refuse_many_filter_tiles(reasons, problem);
}

// Weights with output channels contiguous are read where they lie, unless taps are sums of them.
TilePlan plan_phases_wgmma(const ConvMmaProblem& problem) {
  const PhasedConv& conv = problem.conv;
  const bool packs = problem.sums() || (conv.out_channels > 1 && conv.w_stride_out != 1);
  return fastest({wgmma_kernel(2, 256, 1), wgmma_kernel(2, 128, 1), wgmma_kernel(2, 64, 1)},
                 tile_problem(problem, packs), kUnsplit);
}

void run_phases_wgmma(const ConvMmaProblem& problem, const CallContext& context) {
  if (problem.conv.out.numel() == 0) return;
  problem.conv.dtype == DType::kFloat16 ? run_typed<half_t>(problem, context) : run_typed<bfloat16_t>(problem, context);
}

}  // namespace fastconv::cuda
