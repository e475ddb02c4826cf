// Which tile, and into how many parts K is split, for a product of M x N x K on a GPU: a count of clocks, the same on
// every call, nothing is tried out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../device.h"
#include "lookup.h"

namespace fastconv::cuda {

// The two tiles a kernel has, in the terms of GemmTuning.
struct TilePair {
  int large_m, large_n, small_m, small_n;
  int large_resident, small_resident;
  int small_percent;
};

inline int64_t tile_count(int64_t M, int64_t N, int64_t batch, int tile_m, int tile_n) {
  return (M + tile_m - 1) / tile_m * ((N + tile_n - 1) / tile_n) * batch;
}

// Time of all tiles in multiply-adds of one multiprocessor and value of k: whole waves of resident blocks, and what the
// blocks of the last wave need, of which a multiprocessor has `rest`. Fewer than `resident` leave it waiting for loads
// part of the time.
inline double wave_cost(int64_t tiles, int multiprocessors, int resident, int64_t tile_area, int percent) {
  const int64_t wave = static_cast<int64_t>(multiprocessors) * resident;
  const int64_t full = tiles / wave * resident;
  const int64_t rest = (tiles % wave + multiprocessors - 1) / multiprocessors;
  const double tail = rest == 0 ? 0.0 : 0.5 * static_cast<double>(rest) + 0.5 * resident;
  return (static_cast<double>(full) + tail) * static_cast<double>(tile_area) * 100.0 / percent;
}

inline bool prefer_large_tile(int64_t M, int64_t N, int64_t batch, const TilePair& tiles, const DeviceInfo& device) {
  const int multiprocessors = std::max(device.multiprocessors, 1);
  const auto cost = [&](int m, int n, int resident, int percent) {
    return wave_cost(tile_count(M, N, batch, m, n), multiprocessors, resident, static_cast<int64_t>(m) * n, percent);
  };
  return cost(tiles.large_m, tiles.large_n, tiles.large_resident, 100) <=
         cost(tiles.small_m, tiles.small_n, tiles.small_resident, tiles.small_percent);
}

// A kernel's side of the plan.
struct GemmKernelFacts {
  TilePair tiles;
  bool large_possible;
  int tile_k;
  int rate;           // multiply-adds of a multiprocessor in a clock
  int partial_bytes;  // of one partial sum
};

struct GemmPlan {
  bool large;
  int parts;  // of K, all of them with steps, all but the last equally many
  double clocks;
};

// `parts` changed so that no part is empty.
inline int even_parts(int64_t parts, int64_t steps) {
  const int64_t depth = (steps + parts - 1) / parts;
  return depth == 0 ? 1 : static_cast<int>((steps + depth - 1) / depth);
}

// The fastest plan that splits K (`split`) or does not. With a split there are at least two steps.
inline GemmPlan plan_gemm(int64_t M, int64_t N, int64_t K, int64_t batch, const GemmKernelFacts& kernel, bool split,
                          const DeviceInfo& device) {
  const GemmTuning& t = tuning(device.architecture).gemm;
  const TilePair& pair = kernel.tiles;
  const int multiprocessors = std::max(device.multiprocessors, 1);
  const int64_t steps = (K + kernel.tile_k - 1) / kernel.tile_k;
  GemmPlan best = {false, 0, 0.0};
  for (const bool large : {true, false}) {
    if (large && !kernel.large_possible) continue;
    const int m = large ? pair.large_m : pair.small_m, n = large ? pair.large_n : pair.small_n;
    const int resident = large ? pair.large_resident : pair.small_resident;
    const int64_t tiles = tile_count(M, N, batch, m, n);
    for (int64_t wanted = split ? 2 : 1; wanted <= (split ? t.split_max : 1); ++wanted) {
      const int parts = split ? even_parts(std::min(wanted, steps), steps) : 1;
      const int64_t depth = (steps + parts - 1) / parts * kernel.tile_k;
      const int64_t wave = static_cast<int64_t>(multiprocessors) * resident;
      const double waves = static_cast<double>((tiles * parts + wave - 1) / wave);
      double clocks = wave_cost(tiles * parts, multiprocessors, resident, static_cast<int64_t>(m) * n,
                                large ? 100 : pair.small_percent) *
                          static_cast<double>(depth) / kernel.rate +
                      waves * t.block_overhead;
      if (split) {  // partial sums are written and read
        const double bytes = 2.0 * parts * static_cast<double>(M * N * batch) * kernel.partial_bytes;
        clocks += t.launch_overhead + bytes / (static_cast<double>(t.memory_rate) * multiprocessors);
      }
      if (best.parts == 0 || clocks < best.clocks) best = {large, parts, clocks};
    }
  }
  return best;
}

}  // namespace fastconv::cuda
