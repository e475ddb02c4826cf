// How BatchNorm's kernels walk over an (N, C, H, W) image with up to six operands: in blocks of rows of elements.
//
//   channels last:  a row is up to kNormChannels channels of one pixel, a block up to kNormPixels pixels
//   other strides:  a row is a run of pixels of one channel, a block up to kNormRun elements: a piece of a plane, or
//                   the small planes of several images
//
// The blocks of a column (the same channels) are divided into groups: the units of parallel work, and of partial sums.
// The division depends on the extents alone.
#pragma once

#include "../cpu_kernels.h"
#include "loop_axes.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

// A block of a float image is 128 KiB at most, channels last: it is still in L2 when it is read again.
constexpr int64_t kNormChannels = 256, kNormPixels = 128;
constexpr int64_t kNormRun = 1024;   // elements of a row at most
constexpr int64_t kNormGroups = 32;  // per channel, at most
constexpr int kNormOperands = kMaxOperands;

struct NormBlock {
  int64_t channel, rows, length;  // the first channel
  int64_t offset[kNormOperands], row_step[kNormOperands], element_step[kNormOperands];
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
    LoopAxis axes[3];
    for (int d = 0; d < 3; ++d) {
      axes[d] = {operands[0].size[from[d]], {}};
      for (int i = 0; i < count; ++i) axes[d].stride[i] = operands[i].stride[from[d]];
    }
    int left = merge_axes(axes, 3);
    for (int d = 0; d < left; ++d) pixels *= axes[d].size;
    if (!along_channels) {
      element_ = axes[--left];
      runs_ = ceil_div(element_.size, kNormRun);
    }
    if (left > 0) row_ = axes[--left];
    strip_ = along_channels ? kNormPixels : element_.size < kNormRun ? kNormRun / element_.size : 1;
    strips_ = ceil_div(row_.size, strip_);
    blocks_ = runs_ * strips_;
    for (outers_ = 0; left > 0; ++outers_) {
      outer_[outers_] = axes[--left];
      blocks_ *= outer_[outers_].size;
    }
    columns = along_channels ? ceil_div(C, kNormChannels) : C;
    const int64_t wanted = along_channels ? kNormGroups : ceil_div(kNormGroups, C);
    groups = wanted < blocks_ ? wanted : blocks_;
  }

  int64_t first_channel(int64_t column) const { return along_channels ? column * kNormChannels : column; }
  // Of a column: one, but channels last.
  int64_t channels(int64_t column) const {
    const int64_t left = C - first_channel(column);
    return !along_channels ? 1 : left < kNormChannels ? left : kNormChannels;
  }

  // body(block) over all blocks of a group and column, in order.
  template <class F>
  void for_column(int64_t group, int64_t column, F&& body) const {
    NormBlock b;
    b.channel = first_channel(column);
    for (int o = 0; o < kNormOperands; ++o) {
      b.row_step[o] = row_.stride[o];
      b.element_step[o] = along_channels ? channel_step_[o] : element_.stride[o];
    }
    for (int64_t i = group * blocks_ / groups; i < (group + 1) * blocks_ / groups; ++i) {
      const int64_t run = i % runs_ * kNormRun, row = i / runs_ % strips_ * strip_;
      b.rows = row_.size - row < strip_ ? row_.size - row : strip_;
      b.length = along_channels ? channels(column) : element_.size - run < kNormRun ? element_.size - run : kNormRun;
      for (int o = 0; o < kNormOperands; ++o)
        b.offset[o] = b.channel * channel_step_[o] + run * element_.stride[o] + row * row_.stride[o];
      int64_t rest = i / runs_ / strips_;
      for (int d = 0; d < outers_; ++d) {
        for (int o = 0; o < kNormOperands; ++o) b.offset[o] += rest % outer_[d].size * outer_[d].stride[o];
        rest /= outer_[d].size;
      }
      body(b);
    }
  }

  // parallel body(group, column) over all of them.
  template <class F>
  void for_tasks(F&& body) const {
    const int64_t cost = ceil_div(pixels, groups) * (along_channels ? (C < kNormChannels ? C : kNormChannels) : 1);
    parallel_for(groups * columns, ceil_div(16384, cost), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(task % groups, task / groups);
    });
  }

  const int64_t C;
  bool along_channels;
  int64_t groups, columns;
  int64_t pixels = 1;  // of a channel

 private:
  LoopAxis element_{1, {}}, row_{1, {}}, outer_[2];
  int outers_ = 0;
  int64_t channel_step_[kNormOperands] = {};
  int64_t runs_ = 1, strip_ = 1, strips_ = 1, blocks_ = 1;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
