// Which outputs a tap of a filter serves.
#pragma once

#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA {

struct TapRange {
  int64_t begin, end;
};

// The outputs q in [0, out) with q * stride + offset in [0, in). offset = tap * dilation - pad.
FC_INLINE TapRange tap_range(int64_t offset, int64_t stride, int64_t in, int64_t out) {
  int64_t begin = offset >= 0 ? 0 : ceil_div(-offset, stride);
  int64_t end = in - offset <= 0 ? 0 : ceil_div(in - offset, stride);
  if (end > out) end = out;
  if (begin > end) begin = end;
  return {begin, end};
}

}  // namespace fastconv::cpu::FASTCONV_ISA
