// How the weight gradient is cut into tasks and blocks: a function of the extents, with two forms.
//
//   by taps   x is packed once per block of pixels; every tap (r, s) reads it at its own offset
//   flat      x is packed as (pixel, (tap, c)) rows: 1x1 filters, filters that do not overlap, and few channels, whose
//             taps then share a vector (with fewer than kWeightGradFlatFilters filters the packing would cost more)
//
// A task owns a tile of dw (filters x channels x rows of taps) and walks over the pixels. When dw is too small to give
// enough tasks, the pixels are split too and the partial sums added afterwards, in order. The blocks of pixels and the
// splits decide the order of additions, so they depend on the problem alone, never on the number of threads.
#pragma once

#include "../../common/calls.h"
#include "weight_grad_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Scratch of a thread: at most 1 MiB together, in an L2 of 1 to 2 MiB.
constexpr int64_t kWeightGradSumBytes = 320 << 10;
constexpr int64_t kWeightGradInputBytes = 448 << 10;
constexpr int64_t kWeightGradLineBytes = 64 << 10;
constexpr int64_t kWeightGradFilterBytes = 448;  // of one pixel of dy
constexpr int64_t kWeightGradFlatFilters = 16;
constexpr int64_t kWeightGradPixels = 256, kWeightGradFlatPixels = 128;
constexpr int64_t kWeightGradPartialBytes = 512 << 10;  // all splits together
constexpr int64_t kWeightGradSplitPixels = 512;         // fewer are not worth adding a partial sum

FC_INLINE int64_t at_most(int64_t value, int64_t bound) { return value < bound ? value : bound; }
FC_INLINE int64_t at_least(int64_t value, int64_t bound) { return value > bound ? value : bound; }
FC_INLINE int64_t whole_multiple(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

struct WeightGradPlan {
  bool flat = false;
  int height = 1;                     // of the register tile
  int64_t C = 0, K = 0;               // of one group
  int64_t channels = 0;               // columns of dw: C, or C * R * S when flat
  int64_t k_block = 0, k_blocks = 0;  // filters of a task, padded to whole tiles
  int64_t c_block = 0, c_blocks = 0;  // columns of a task, padded to whole vectors
  int64_t r_block = 1, r_blocks = 1;  // rows of taps of a task
  int64_t taps = 1;                   // of a task, at most
  int64_t rows = 1, columns = 1;      // outputs of a block, by taps
  int64_t bands = 1, strips = 1;      // blocks of an image, by taps
  int64_t blocks = 1, splits = 1;
  int64_t dy_pitch = 0, x_pitch = 0;  // elements of a packed pixel
  int64_t dy_elements = 0, x_elements = 0, sum_elements = 0;
  int64_t line_elements = 0;  // an input row as [pixel][channel], flat with few channels; 0: not used

  int64_t tiles(int64_t groups) const { return groups * k_blocks * c_blocks * r_blocks; }
};

// A whole and odd number of cache lines, so that neighbouring pixels never fall on the same few sets of the cache.
FC_INLINE int64_t odd_lines(int64_t elements, int64_t size) {
  const int64_t lines = ceil_div(elements * size, 64);
  return (lines | 1) * 64 / size;
}

// Input elements of a block by taps; 0 channels fit anything.
inline int64_t weight_grad_input(const WeightGradPlan& plan, const ConvProblem& p) {
  const int64_t h = (plan.rows - 1) * p.stride_h + (plan.r_block - 1) * p.dilation_h + 1;
  const int64_t w = (plan.columns - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  return at_most(h, p.H) * at_most(w, p.W) * plan.x_pitch;
}

inline void set_columns(WeightGradPlan& plan, int64_t block, int64_t lanes, int64_t size) {
  plan.c_blocks = ceil_div(plan.channels, block);
  plan.c_block = whole_multiple(ceil_div(plan.channels, plan.c_blocks), plan.c_blocks > 1 ? 2 * lanes : lanes);
  plan.c_blocks = ceil_div(plan.channels, plan.c_block);
  plan.x_pitch = odd_lines(plan.c_block, size);
}

// The form by taps; false when its scratch does not fit.
inline bool plan_by_taps(WeightGradPlan& plan, const ConvProblem& p, int64_t lanes, int64_t size) {
  plan.channels = plan.C;
  plan.r_block = p.R;
  const int64_t sums = kWeightGradSumBytes / size, narrow = 2 * lanes;
  while (plan.r_block * p.S * plan.k_block * narrow > sums) {
    if (plan.r_block == 1) return false;
    plan.r_block = ceil_div(plan.r_block, 2);
  }
  int64_t block = sums / (plan.r_block * p.S * plan.k_block) / narrow * narrow;
  block = at_most(block, 1024 / size);
  plan.columns = ceil_div(p.Q, ceil_div(p.Q, kWeightGradPixels));
  plan.rows = at_most(p.P, at_least(1, kWeightGradPixels / plan.columns));
  for (set_columns(plan, block, lanes, size); weight_grad_input(plan, p) * size > kWeightGradInputBytes;
       set_columns(plan, block, lanes, size)) {
    if (block > narrow) {
      block = at_least(narrow, block / 2 / narrow * narrow);
    } else if (plan.rows > 1) {
      plan.rows /= 2;
    } else if (plan.r_block > 1) {
      plan.r_block = ceil_div(plan.r_block, 2);
    } else if (plan.columns > 16) {
      plan.columns /= 2;
    } else {
      return false;
    }
  }
  plan.rows = ceil_div(p.P, ceil_div(p.P, plan.rows));  // even bands
  plan.r_blocks = ceil_div(p.R, plan.r_block);
  plan.taps = plan.r_block * p.S;
  plan.bands = ceil_div(p.P, plan.rows);
  plan.strips = ceil_div(p.Q, plan.columns);
  plan.blocks = p.N * plan.bands * plan.strips;
  plan.dy_elements = plan.rows * plan.columns * plan.dy_pitch;
  plan.x_elements = weight_grad_input(plan, p);
  return true;
}

inline void plan_flat(WeightGradPlan& plan, const ConvProblem& p, int64_t lanes, int64_t size) {
  plan.flat = true;
  plan.channels = plan.C * p.R * p.S;
  plan.r_block = plan.r_blocks = plan.taps = 1;
  set_columns(plan, 1024 / size, lanes, size);
  plan.blocks = ceil_div(p.N * p.P * p.Q, kWeightGradFlatPixels);
  plan.dy_elements = kWeightGradFlatPixels * plan.dy_pitch;
  plan.x_elements = kWeightGradFlatPixels * plan.x_pitch;
  const int64_t span = (kWeightGradFlatPixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  const int64_t line = at_most(span, p.W) * plan.C;
  if (p.R * p.S > 1 && plan.C < 2 * lanes && line * size <= kWeightGradLineBytes) plan.line_elements = line;
}

inline void set_filters(WeightGradPlan& plan, int64_t blocks) {
  const int64_t filters = ceil_div(plan.K, blocks);
  plan.height = weight_grad_height(filters);
  plan.k_block = whole_multiple(filters, plan.height);
  plan.k_blocks = ceil_div(plan.K, plan.k_block);
}

template <class Acc>
WeightGradPlan plan_weight_grad(const ConvProblem& p, int64_t threads) {
  constexpr int64_t kLanes = Vec<Acc>::kLanes, kSize = sizeof(Acc);
  WeightGradPlan plan;
  plan.C = p.channels_per_group();
  plan.K = p.filters_per_group();
  set_filters(plan, ceil_div(plan.K, kWeightGradFilterBytes / kSize));
  plan.dy_pitch = odd_lines(plan.k_block, kSize);

  const bool one_tap = p.R * p.S == 1;
  const bool apart = p.stride_h > (p.R - 1) * p.dilation_h && p.stride_w > (p.S - 1) * p.dilation_w;
  const bool narrow = 4 * plan.C < 3 * whole_multiple(plan.C, kLanes) && plan.K >= kWeightGradFlatFilters;
  if (one_tap || apart || narrow || !plan_by_taps(plan, p, kLanes, kSize)) plan_flat(plan, p, kLanes, kSize);

  // Splits: until there are 16 tasks, a power of two.
  const int64_t tiles = plan.tiles(p.groups), sums = plan.taps * plan.k_block * plan.c_block;
  int64_t wanted = at_most(ceil_div(16, tiles), p.N * p.P * p.Q / kWeightGradSplitPixels);
  wanted = at_most(at_most(wanted, plan.blocks), kWeightGradPartialBytes / (tiles * sums * kSize));
  while (plan.splits * 2 <= wanted) plan.splits *= 2;

  // Fewer filters a task do not change the order of additions: here the number of threads may have a say.
  for (int64_t blocks = plan.k_blocks; plan.k_block >= 4 * plan.height; ++blocks) {
    const int64_t tasks = plan.tiles(p.groups) * plan.splits;
    if (tasks % threads == 0 || tasks >= 4 * threads) break;
    set_filters(plan, blocks + 1);
  }
  plan.sum_elements = plan.taps * plan.k_block * plan.c_block;
  return plan;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
