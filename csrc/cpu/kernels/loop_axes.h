// Loop nests over operands of any strides: axes sorted by stride and merged where every operand runs on, so that dense
// tensors of one layout become a single run, whatever that layout is.
#pragma once

#include "../../common/tensor_view.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int kMaxOperands = 6;

struct LoopAxis {
  int64_t size;
  int64_t stride[kMaxOperands];  // in elements; operand 0 decides the order
};

FC_INLINE bool continues(const LoopAxis& outer, const LoopAxis& inner, int operands) {
  for (int i = 0; i < operands; ++i)
    if (outer.stride[i] != inner.stride[i] * inner.size) return false;
  return true;
}

// Sorts outermost first, merges, and returns how many axes are left: at least one. No extent may be 0.
inline int merge_axes(LoopAxis* axes, int count) {
  int found = 0;
  for (int d = 0; d < count; ++d) {
    const LoopAxis axis = axes[d];
    if (axis.size == 1) continue;
    int at = found++;
    for (; at > 0 && axes[at - 1].stride[0] < axis.stride[0]; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  if (found == 0) {
    axes[0] = {1, {1, 1, 1, 1, 1, 1}};
    return 1;
  }
  int last = 0;
  for (int d = 1; d < found; ++d) {
    if (continues(axes[last], axes[d], kMaxOperands)) {
      axes[d].size *= axes[last].size;
      axes[last] = axes[d];
    } else {
      axes[++last] = axes[d];
    }
  }
  return last + 1;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
