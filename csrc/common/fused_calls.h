// Calls that do the work of two in calls.h.
#pragma once

#include "calls.h"

namespace fastconv {

// y = epilogue(conv(x, w)), and BatchNormStatsCall's mean and variance of y as it is stored.
struct Conv2dStatsCall {
  Conv2dCall conv;
  void* mean = nullptr;  // K elements of the accumulate type
  void* var = nullptr;
};

}  // namespace fastconv
