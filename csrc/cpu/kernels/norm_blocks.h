// How BatchNorm's kernels walk over an (N, C, H, W) image with up to six operands: in blocks of rows, each row a run of
// elements that goes through dense buffers of the accumulate type.
//
//   channels last:  a block is a strip of pixels x up to kNormRun channels; a row is a pixel
//   other strides:  a block is a run of up to kNormRun pixels of one channel; it has one row
//
// The pixels of a block-column (the same channels) are divided into groups: the units of parallel work, and of partial
// sums. The division depends on the extents alone.
#pragma once

#include "../cpu_kernels.h"
#include "loop_axes.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kNormRun = 256;    // elements of a row at most
constexpr int64_t kNormStrip = 64;   // pixels of a block, channels last: together they stay in L2
constexpr int64_t kNormGroups = 32;  // per channel, at most
constexpr int kNormOperands = kMaxOperands;

struct NormBlock {
  int64_t channel, rows, length;  // the first channel
  int64_t offset[kNormOperands], row_step[kNormOperands], element_step[kNormOperands];
  int64_t pixels;  // of each of its channels
};

class NormBlocks {
 public:
  // Operand 0 decides the shape and the layout; absent operands have null data.
  NormBlocks(const TensorView* operands, int count) : C(operands[0].size[1]) {
    along_channels = C > 1;
    for (int i = 0; i < count; ++i) {
      along_channels = along_channels && (!operands[i].present() || operands[i].stride[1] == 1);
      channel_step_[i] = operands[i].stride[1];
    }
    const int from[3] = {0, 2, 3};
    for (int d = 0; d < 3; ++d) {
      axis_[d] = {operands[0].size[from[d]], {}};
      for (int i = 0; i < count; ++i) axis_[d].stride[i] = operands[i].stride[from[d]];
    }
    axes_ = merge_axes(axis_, 3);
    const int64_t inner = axis_[axes_ - 1].size;
    run_ = along_channels ? kNormStrip : kNormRun;
    runs_per_row_ = ceil_div(inner, run_);
    runs_ = runs_per_row_;
    for (int d = 0; d + 1 < axes_; ++d) runs_ *= axis_[d].size;
    columns = along_channels ? ceil_div(C, kNormRun) : C;
    const int64_t wanted = along_channels ? kNormGroups : ceil_div(kNormGroups, C);
    groups = wanted < runs_ ? wanted : runs_;
  }

  // body(group, block) over all blocks of a group and column, in order.
  template <class F>
  void for_column(int64_t group, int64_t column, F&& body) const {
    NormBlock b;
    b.channel = along_channels ? column * kNormRun : column;
    const int64_t left = C - b.channel, channels = !along_channels ? 1 : left < kNormRun ? left : kNormRun;
    const LoopAxis& inner = axis_[axes_ - 1];
    for (int64_t i = group * runs_ / groups; i < (group + 1) * runs_ / groups; ++i) {
      const int64_t at = i % runs_per_row_ * run_;
      b.pixels = inner.size - at < run_ ? inner.size - at : run_;
      b.rows = along_channels ? b.pixels : 1;
      b.length = along_channels ? channels : b.pixels;
      for (int o = 0; o < kNormOperands; ++o) {
        b.offset[o] = b.channel * channel_step_[o] + at * inner.stride[o];
        b.row_step[o] = inner.stride[o];
        b.element_step[o] = along_channels ? channel_step_[o] : inner.stride[o];
      }
      int64_t rest = i / runs_per_row_;
      for (int d = axes_ - 2; d >= 0; --d) {
        for (int o = 0; o < kNormOperands; ++o) b.offset[o] += rest % axis_[d].size * axis_[d].stride[o];
        rest /= axis_[d].size;
      }
      body(b);
    }
  }

  // parallel body(group, column) over all of them.
  template <class F>
  void for_tasks(F&& body) const {
    int64_t pixels = 1;
    for (int d = 0; d < axes_; ++d) pixels *= axis_[d].size;
    const int64_t cost = ceil_div(pixels, groups) * (along_channels ? (C < kNormRun ? C : kNormRun) : 1);
    parallel_for(groups * columns, ceil_div(16384, cost), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(task % groups, task / groups);
    });
  }

  const int64_t C;
  bool along_channels;
  int64_t groups, columns;

 private:
  LoopAxis axis_[3];
  int axes_;
  int64_t channel_step_[kNormOperands] = {};
  int64_t run_, runs_per_row_, runs_;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
