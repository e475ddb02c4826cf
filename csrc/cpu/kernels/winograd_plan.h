// How a convolution by Winograd's minimal filtering is cut: between threads, into blocks of tiles, and into panels of
// filters per block. None of it decides the bits of an output: those depend on its tile and on the chains alone.
#pragma once

#include "blocking.h"
#include "winograd_tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {

// V of a block should stay in an L2 of 1 to 2 MiB beside the products and the filters in use.
constexpr int64_t kWinogradTileBytes = 320 << 10;
// Panels for which V comes from L2 once, where filters are large. 28x28x512: 7.1 ms with one, 6.5 ms with two, no less
// with more.
constexpr int64_t kWinogradPanels = 2;
constexpr int64_t kWinogradNearFilters = 2400 << 10;  // in L2 or little larger: 128 channels and filters
// Where the transformed filters come from the L3 for every block, it has at least so many tiles, in register tiles.
constexpr int64_t kWinogradFewestTiles = 2;
// Channels summed one after the other, as kChain. Half as many, because the transform back magnifies their rounding:
// the error stays below ten times torch's at any C (fifteen with 256).
constexpr int64_t kWinogradChain = 128;
// Transformed filters that stay in L2 from block to block.
constexpr int64_t kWinogradSmallFilters = 768 << 10;

struct WinogradBlocking {
  int64_t tiles = 1;  // of a block
  bool filters_near = false;
  int64_t panels = 1;   // multiplied before their outputs are transformed
  int64_t c_pitch = 0;  // V[position][tile][c], a vector's multiple of channels and a cache line against aliasing
  int64_t v_position = 0;
  int64_t m_pitch = 0;  // M[position][tile][panel][k]
  int64_t m_position = 0;
};

// Extents of one group, and tiles of the whole batch.
struct WinogradExtents {
  int64_t groups, C, K;
  int64_t tiles_h, tiles_w, tiles;
};

template <int kOutputs>
WinogradExtents winograd_extents(const ConvProblem& p) {
  const int64_t tiles_h = ceil_div(p.P, kOutputs), tiles_w = ceil_div(p.Q, kOutputs);
  return {p.groups, p.channels_per_group(), p.filters_per_group(), tiles_h, tiles_w, p.N * tiles_h * tiles_w};
}

// Cycles of one thread, roughly: two fused multiply-adds, a load and half a store each.
template <int kOutputs>
double winograd_cycles(const WinogradExtents& e, int64_t tiles, int64_t panels) {
  using Size = WinogradSize<kOutputs>;
  const double vectors = static_cast<double>(ceil_div(e.C, VecF::kLanes));
  const double groups = static_cast<double>(ceil_div(panels, panel_count<float>(e.K)));
  const double multiply = Size::kPositions * static_cast<double>(e.C * panels * kPanelVectors) / 2;
  const double transform =
      3 * Size::kPositions * groups * vectors + 2.5 * Size::kPositions * static_cast<double>(panels * kPanelVectors);
  return static_cast<double>(tiles) * (multiply + transform);
}

// The grid with the least time for its slowest thread: work, and filters from the L3 at 8 bytes a cycle.
template <int kOutputs>
Shares winograd_shares(const WinogradExtents& e, int64_t threads) {
  const int64_t panels = e.groups * panel_count<float>(e.K);
  const int64_t work = e.tiles * WinogradSize<kOutputs>::kPositions * e.C * e.K * e.groups;
  threads = larger(1, smaller(threads, work / kThreadWork));
  Shares best;
  double best_cost = 0;
  for (int64_t channel = 1; channel <= smaller(threads, panels); ++channel) {
    const int64_t pixel = smaller(threads / channel, e.tiles);
    const int64_t share_panels = ceil_div(panels, channel), share_tiles = ceil_div(e.tiles, pixel);
    const double filter_bytes = static_cast<double>(WinogradSize<kOutputs>::kPositions * e.C * share_panels *
                                                    kPanelWidth<float> * static_cast<int64_t>(sizeof(float)));
    const double cost = winograd_cycles<kOutputs>(e, share_tiles, share_panels) + filter_bytes / 8;
    if (best_cost == 0 || cost < best_cost) best_cost = cost, best = {channel, pixel, false};
  }
  return best;
}

template <int kOutputs>
WinogradBlocking winograd_blocking(const WinogradExtents& e, const Shares& shares) {
  constexpr int64_t kItem = sizeof(float), kLine = 64 / kItem, kPositions = WinogradSize<kOutputs>::kPositions;
  // An odd number of cache lines from row to row and from position to position.
  const auto odd_lines = [](int64_t elements) {
    const int64_t lines = ceil_div(elements, kLine);
    return (lines + 1 - lines % 2) * kLine;
  };
  WinogradBlocking b;
  const int64_t share = ceil_div(e.tiles, shares.pixel),
                panels = ceil_div(panel_count<float>(e.K) * e.groups, shares.channel);
  b.c_pitch = odd_lines(ceil_div(e.C, VecF::kLanes) * VecF::kLanes);
  const int64_t filters = kPositions * e.C * panels * kPanelWidth<float> * kItem;
  const int64_t fitting = kWinogradTileBytes / (kPositions * b.c_pitch * kItem);
  const int64_t fewest = filters > kWinogradSmallFilters ? kWinogradFewestTiles * kTileRows : kTileRows;
  b.tiles = larger(larger(fitting, 1) / kTileRows * kTileRows, fewest);
  b.tiles = balanced(share, b.tiles);
  b.filters_near = filters <= kWinogradNearFilters;
  b.panels = b.filters_near ? 1 : smaller(kWinogradPanels, smaller(panels, panel_count<float>(e.K)));
  b.v_position = odd_lines(b.tiles * b.c_pitch);
  b.m_pitch = b.panels * kPanelWidth<float>;
  b.m_position = odd_lines(b.tiles * b.m_pitch);
  return b;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
