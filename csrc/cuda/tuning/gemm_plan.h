// Which tile, and whether K is split, for a product of M x N x K on a GPU: by counting waves. Convolutions as implicit
// GEMM ask here too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../device.h"
#include "lookup.h"

namespace fastconv::cuda {

// The two tiles a kernel has, in the terms of GemmTuning.
struct TileChoice {
  int large_m, large_n, small_m, small_n;
  int large_resident, small_resident;
  int small_percent;
};

inline int64_t tile_count(int64_t M, int64_t N, int64_t batch, int tile_m, int tile_n) {
  return (M + tile_m - 1) / tile_m * ((N + tile_n - 1) / tile_n) * batch;
}

// Time of all tiles in multiplications of one multiprocessor: whole waves of resident blocks, each of a tile's area.
// The last wave counts by how many blocks a multiprocessor gets, so that 100 tiles on 132 multiprocessors cost one, not
// two.
inline double wave_cost(int64_t tiles, int multiprocessors, int resident, int64_t tile_area, int percent) {
  const int64_t wave = static_cast<int64_t>(multiprocessors) * resident;
  const int64_t full = tiles / wave * resident;
  const int64_t rest = (tiles % wave + multiprocessors - 1) / multiprocessors;
  // A lone block leaves a multiprocessor waiting for its loads half of the time.
  const double tail = rest == 0 ? 0.0 : rest < resident ? rest * 0.5 + resident * 0.5 : static_cast<double>(rest);
  return (static_cast<double>(full) + tail) * static_cast<double>(tile_area) * 100.0 / percent;
}

inline bool prefer_large_tile(int64_t M, int64_t N, int64_t batch, const TileChoice& tiles, const DeviceInfo& device) {
  const int multiprocessors = std::max(device.multiprocessors, 1);
  const int64_t large_area = static_cast<int64_t>(tiles.large_m) * tiles.large_n;
  const int64_t small_area = static_cast<int64_t>(tiles.small_m) * tiles.small_n;
  return wave_cost(tile_count(M, N, batch, tiles.large_m, tiles.large_n), multiprocessors, tiles.large_resident,
                   large_area, 100) <= wave_cost(tile_count(M, N, batch, tiles.small_m, tiles.small_n), multiprocessors,
                                                 tiles.small_resident, small_area, tiles.small_percent);
}

// Parts of K such that all tiles together fill the multiprocessors, no part having fewer than split_min_steps; 1 where
// the tiles do already, or K is too short.
inline int split_parts(int64_t tiles, int64_t steps, int resident, const GemmTuning& tuning, const DeviceInfo& device) {
  const int64_t wanted = static_cast<int64_t>(device.multiprocessors) * resident / std::max<int64_t>(tiles, 1);
  const int64_t possible = steps / tuning.split_min_steps;
  return static_cast<int>(std::max<int64_t>(1, std::min({wanted, possible, static_cast<int64_t>(tuning.split_max)})));
}

// `parts` rounded so that every part has steps, all but the last equally many.
inline int even_parts(int parts, int64_t steps) {
  const int64_t depth = (steps + parts - 1) / parts;
  return depth == 0 ? 1 : static_cast<int>((steps + depth - 1) / depth);
}

}  // namespace fastconv::cuda
