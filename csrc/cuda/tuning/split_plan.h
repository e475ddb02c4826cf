// Into how many parts a reduction is split on wgmma_pipeline.cuh's tiles, so that few tiles over a deep reduction
// occupy every multiprocessor: a count of clocks, the same on every call, nothing is tried out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../device.h"
#include "lookup.h"

namespace fastconv::cuda {

// A tile's multiply-adds in a step of 64 elements of K, of which a multiprocessor does 2,048 a clock at best, and
// `percent` of them with this tile.
inline double wgmma_step_clocks(int tile_m, int tile_n, int percent) {
  return static_cast<double>(tile_m) * tile_n * 64 / 2048 * 100 / percent;
}

constexpr int64_t kMostParts = 2;  // for each multiprocessor

struct SplitPlan {
  int parts;
  double clocks;
};

// Time of `tiles`, or parts of tiles, of `depth` steps each.
inline double turns_cost(int64_t tiles, int64_t depth, double step_clocks, const DeviceInfo& device) {
  const int64_t multiprocessors = std::max(device.multiprocessors, 1);
  const int64_t turns = (tiles + multiprocessors - 1) / multiprocessors;
  return static_cast<double>(turns) *
         (static_cast<double>(depth) * step_clocks + tuning(device.architecture).gemm.block_overhead);
}

// At least `least` parts of `tiles` of `steps` each; `sums` float sums are written and read again for each part. The
// numbers of parts considered fill quarters of the multiprocessors, or all of them up to four times.
inline SplitPlan plan_split(int64_t tiles, int64_t steps, double step_clocks, int64_t sums, const DeviceInfo& device,
                            int64_t least = 1) {
  const GemmTuning& t = tuning(device.architecture).gemm;
  constexpr int64_t kMostBytes = int64_t{256} << 20;
  constexpr double kAddition = 100;  // a part's sums, one after the other: eight of them hide a memory's latency
  const int64_t multiprocessors = std::max(device.multiprocessors, 1);
  const int64_t most = std::max(least, std::min({steps, kMostParts * multiprocessors, kMostBytes / (4 * sums)}));
  SplitPlan best = {0, 0.0};
  const auto consider = [&](int64_t wanted) {
    const int64_t depth = (steps + wanted - 1) / wanted, parts = std::max(least, (steps + depth - 1) / depth);
    const double bytes = 8.0 * static_cast<double>(parts * sums);
    const double clocks = turns_cost(tiles * parts, depth, step_clocks, device) +
                          bytes / static_cast<double>(t.memory_rate * multiprocessors) +
                          kAddition * static_cast<double>(parts);
    if (best.parts == 0 || clocks < best.clocks) best = {static_cast<int>(parts), clocks};
  };
  consider(least);
  for (const int quarters : {1, 2, 3, 4, 8, 12, 16}) {
    const int64_t parts = quarters * multiprocessors / (4 * std::max<int64_t>(tiles, 1));
    if (parts > least) consider(std::min(parts, most));
  }
  return best;
}

}  // namespace fastconv::cuda
