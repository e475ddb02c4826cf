// How a block of convolutions (1x1, depthwise, 1x1; or depthwise, 1x1) is cut up for fused_block_mma.cuh: which tile of
// output pixels a thread block takes, where everything lies in its shared memory, and how many clocks that should take.
#pragma once

#include <algorithm>
#include <limits>

#include "../../common/calls.h"

namespace fastconv::cuda {

// Hidden channels are computed 32 at a time.
constexpr int kFusedChunk = 32;
// A thread filters this many outputs of a column at once; tiles have a multiple of as many rows.
constexpr int kFusedRun = 4;
// Of a hidden pixel in shared memory: 64 bytes of channels and 16 that keep the stores of eight pixels, 4 x 4 bytes
// each, and the loads of two pixels four columns apart, 64 bytes each, in different banks.
constexpr int kFusedPixelBytes = 80;

// Tiles of output pixels x filters that there are kernels for.
struct FusedTile {
  int pixels, filters;
  int resident;  // blocks that a multiprocessor has registers for
};
constexpr FusedTile kFusedTiles[] = {{128, 64, 2}, {64, 128, 2}, {64, 256, 1}};
constexpr int64_t kFusedMaxFilters = 256;

// A block in the kernel's terms; without `expand`, x is the depthwise stage's input.
struct FusedBlock {
  DType dtype;
  TensorView x, y;
  const ConvStage* expand;
  const ConvStage* depthwise;
  const ConvStage* project;

  const ConvProblem& window() const { return depthwise->problem; }
  int64_t hidden() const { return window().C; }
  int64_t filters() const { return project->problem.K; }
  int64_t channels() const { return expand ? expand->problem.C : 0; }  // that the first stage adds up
};

// In bytes from the start of the shared memory, and extents. The slice of outputs overlays all of it in the end.
struct FusedLayout {
  int tile_p, tile_q;         // of output pixels
  int window_rows;            // hidden rows under the tile
  int phase_columns;          // hidden columns under it, for each column modulo the stride
  int pixel_capacity;         // hidden pixels that lie in the image, at most; in whole fragments
  int depth_chunks;           // 16-byte chunks of a pixel of x; even
  int tap_pitch;              // elements from one row of a filter to the next
  int x, hidden, columns;     // the table of pixels comes first
  int hidden_bytes;           // of one chunk of channels
  int weights, weight_bytes;  // two of them: expand's, project's, the filters
  int project, filters;       // within the weights
  int64_t total;
};

struct FusedPlan {
  FusedTile tile;
  FusedLayout layout;
  int64_t tiles_p, tiles_q;
  double clocks;  // counted, until the last multiprocessor is through
};

namespace fused_detail {

inline int64_t round_up(int64_t v, int64_t step) { return (v + step - 1) / step * step; }

// Columns of stride_w phases, so that neighbouring outputs read neighbouring pixels.
inline int64_t phase_columns(const ConvProblem& w, int64_t tile_q) {
  return ((tile_q - 1) * w.stride_w + (w.S - 1) * w.dilation_w) / w.stride_w + 1;
}

inline FusedLayout layout_of(const FusedBlock& block, FusedTile tile, int64_t tile_p, int64_t tile_q,
                             int64_t tap_pitch) {
  const ConvProblem& w = block.window();
  const auto narrow = [](int64_t v) { return static_cast<int>(std::min<int64_t>(v, 0x7fffffff)); };
  const int64_t rows = (tile_p - 1) * w.stride_h + (w.R - 1) * w.dilation_h + 1;
  const int64_t columns = (tile_q - 1) * w.stride_w + (w.S - 1) * w.dilation_w + 1;
  const int64_t phase = phase_columns(w, tile_q);
  const int64_t pixels = round_up(std::min(rows, w.H) * std::min(columns, w.W), 16);
  const int64_t depth_chunks = (block.channels() + 15) / 16 * 2, slabs = (depth_chunks + 3) / 4;
  const int64_t hidden_bytes = round_up(rows * phase * w.stride_w * kFusedPixelBytes, 128);
  const int64_t expand_bytes = slabs * kFusedChunk * 64;
  const int64_t project_bytes = round_up(block.filters(), 16) * kFusedChunk * 2;
  const int64_t filter_bytes = round_up(kFusedChunk * w.R * tap_pitch * 2, 128);
  FusedLayout l;
  l.tile_p = narrow(tile_p), l.tile_q = narrow(tile_q);
  l.window_rows = narrow(rows), l.phase_columns = narrow(phase);
  l.pixel_capacity = narrow(pixels), l.depth_chunks = narrow(depth_chunks), l.tap_pitch = narrow(tap_pitch);
  int64_t at = round_up(pixels * 8, 128);
  const auto take = [&](int64_t bytes) {
    const int64_t here = at;
    at += bytes;
    return narrow(here);
  };
  l.x = take(slabs * pixels * 64);
  l.hidden_bytes = narrow(hidden_bytes);
  l.hidden = take(hidden_bytes * (block.expand ? 1 : 2));
  l.columns = take(int64_t{tile.pixels} * 64);
  l.project = narrow(expand_bytes), l.filters = narrow(expand_bytes + project_bytes);
  l.weight_bytes = narrow(expand_bytes + project_bytes + filter_bytes);
  l.weights = take(2 * (expand_bytes + project_bytes + filter_bytes));
  const int64_t slice = int64_t{tile.filters == 64 ? 128 : 64} * (tile.filters + 8) * 4;
  l.total = std::max(at, slice);
  return l;
}

// Hidden rows (or columns) of all tiles along an axis that lie in the image; of very many tiles, as if all did.
inline int64_t hidden_extent(int64_t in, int64_t out, int64_t step, int64_t stride, int64_t reach, int64_t pad) {
  if (out / step > 1024) return out / step * ((step - 1) * stride + reach);
  int64_t sum = 0;
  for (int64_t p = 0; p < out; p += step) {
    const int64_t first = p * stride - pad, last = (std::min(p + step, out) - 1) * stride - pad + reach;
    sum += std::max<int64_t>(std::min(last, in) - std::max<int64_t>(first, 0), 0);
  }
  return sum;
}

}  // namespace fused_detail

// Counted: instructions for 8 outputs of the window (8 a tap, 3 to load and widen each pair of values, 44 to finish and
// store them), of which a multiprocessor issues 128 a clock.
inline double window_clocks(const ConvProblem& w) {
  const double loads = static_cast<double>(((kFusedRun - 1) * w.stride_h + w.R) * w.S);
  return (8 * static_cast<double>(w.R * w.S) + 3 * loads + 44) / 8 / 128;
}

// Counted, for one image: what the kernel takes of a multiprocessor. mma.sync with operands from shared memory does 680
// multiply-adds a clock (three ldmatrix for four of them); a hidden value takes 5 instructions to finish and store.
inline double fused_clocks(const FusedBlock& block, int64_t tile_p, int64_t tile_q) {
  using namespace fused_detail;
  const ConvProblem& w = block.window();
  const int64_t rows = hidden_extent(w.H, w.P, tile_p, w.stride_h, (w.R - 1) * w.dilation_h + 1, w.pad_top);
  const int64_t columns = hidden_extent(w.W, w.Q, tile_q, w.stride_w, (w.S - 1) * w.dilation_w + 1, w.pad_left);
  const auto real = [](int64_t v) { return static_cast<double>(v); };
  const double pixels = real(rows) * real(columns);
  const double outputs = real(round_up(w.P, kFusedRun)) * real((w.Q + tile_q - 1) / tile_q * round_up(tile_q, 8));
  const double expand = block.expand ? real(round_up(block.channels(), 16)) / 680 + 5.0 / 128 : 0;
  const double project = real(round_up(block.filters(), 16)) / 680;
  return real(round_up(block.hidden(), kFusedChunk)) * (pixels * expand + outputs * (window_clocks(w) + project));
}

// What a chunk of a tile takes at least, whatever else the multiprocessor has to do; assumed: three stages behind
// barriers, each with the latency of its copies and products.
constexpr double kFusedChunkLatency = 1500;

// The tile that takes the fewest clocks of those that fit into `shared_bytes`; where none does, the one that needs the
// least. Few tiles for the GPU make the smaller ones win: what counts is the multiprocessor that has most of them.
inline FusedPlan fused_plan(const FusedBlock& block, int64_t shared_bytes, int multiprocessors, int64_t tap_pitch) {
  const ConvProblem& w = block.window();
  FusedPlan best;
  bool fits = false;
  double best_cost = std::numeric_limits<double>::infinity();
  for (const FusedTile& tile : kFusedTiles) {
    if (block.filters() > tile.filters) continue;
    for (int64_t tile_p = kFusedRun; tile_p <= 16; tile_p *= 2) {
      const int64_t tile_q = std::min<int64_t>(w.Q, tile.pixels / tile_p);
      FusedPlan plan;
      plan.tile = tile;
      plan.layout = fused_detail::layout_of(block, tile, tile_p, tile_q, tap_pitch);
      plan.tiles_p = (w.P + tile_p - 1) / tile_p, plan.tiles_q = (w.Q + tile_q - 1) / tile_q;
      const int64_t tiles = w.N * plan.tiles_p * plan.tiles_q, all = std::max(multiprocessors, 1);
      const auto rounds = [&](int64_t at_once) { return static_cast<double>((tiles + at_once - 1) / at_once); };
      const double chunks = static_cast<double>((block.hidden() + kFusedChunk - 1) / kFusedChunk);
      const double of_tile = fused_clocks(block, tile_p, tile_q) / static_cast<double>(plan.tiles_p * plan.tiles_q);
      plan.clocks = std::max(rounds(all) * of_tile, rounds(all * tile.resident) * chunks * kFusedChunkLatency);
      const bool suffices = plan.layout.total <= shared_bytes;
      const double cost = suffices ? plan.clocks : static_cast<double>(plan.layout.total);
      if (fits > suffices || (fits == suffices && cost >= best_cost)) continue;
      best = plan, fits = suffices, best_cost = cost;
    }
  }
  return best;
}

}  // namespace fastconv::cuda
