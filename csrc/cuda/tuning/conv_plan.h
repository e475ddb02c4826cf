// Which tile the tensor-core convolution takes, and whether its reduction is split, by counting waves.
#pragma once

#include <algorithm>
#include <iterator>

#include "../phases.h"
#include "gemm_plan.h"

namespace fastconv::cuda {

// Large tiles read each operand least often; others where large ones would leave multiprocessors idle, or compute
// columns that do not exist. Resident blocks are what registers and shared memory allow (kGatherMinBlocks). The
// percentage is the arithmetic a tile does while the largest does 100: counted, for Hopper, from the L2 cache's 6,154
// bytes a clock, which feed mma.sync at its full rate with 128 x 128 tiles but not with smaller.
struct ConvTile {
  int m, n, resident, percent;
};
constexpr ConvTile kConvTiles[] = {{128, 128, 2, 100}, {128, 64, 3, 78}, {64, 64, 4, 58}, {128, 32, 4, 47}};

struct ConvPlan {
  int tile;    // index in kConvTiles
  int splits;  // parts of the reduction
};

// `phase_pixels`: of the largest phase; `steps`: of the longest reduction.
inline ConvPlan plan_conv(const PhasedConv& conv, int64_t phase_pixels, int64_t steps, const DeviceInfo& device) {
  const int multiprocessors = std::max(device.multiprocessors, 1);
  const auto tiles = [&](const ConvTile& t) {
    return tile_count(phase_pixels, conv.out_channels, conv.groups * conv.phases(), t.m, t.n);
  };
  ConvPlan plan{0, 1};
  double least = 0;
  for (int i = 0; i < static_cast<int>(std::size(kConvTiles)); ++i) {
    const ConvTile& t = kConvTiles[i];
    const double cost = wave_cost(tiles(t), multiprocessors, t.resident, int64_t{1} * t.m * t.n, t.percent);
    if (i == 0 || cost < least) plan.tile = i, least = cost;
  }
  // Parts such that all blocks together are resident at once. A part has eight steps or more: below that, filling the
  // ring and writing partial sums cost more than idle multiprocessors. The limit bounds the workspace.
  constexpr int64_t kMinSteps = 8, kMaxParts = 32;
  const ConvTile& chosen = kConvTiles[plan.tile];
  const int64_t wanted = int64_t{1} * multiprocessors * chosen.resident / std::max<int64_t>(tiles(chosen), 1);
  plan.splits = static_cast<int>(std::max<int64_t>(1, std::min({wanted, steps / kMinSteps, kMaxParts})));
  return plan;
}

}  // namespace fastconv::cuda
