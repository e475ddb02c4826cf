// The windows of a pooling from its arguments, checked.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

struct Windows {
  const Ints& kernel;
  const Ints& stride;
  const Ints& padding;
  const Ints& dilation;
  bool ceil_mode;
};

PoolProblem make_pool(const Ints& input, const Windows& windows, const char* op);

}  // namespace fastconv::ops
