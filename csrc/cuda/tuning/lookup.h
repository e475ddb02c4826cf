// The tuning of an architecture: the newest file that is not newer than it.
#pragma once

#include "sm_75.h"
#include "sm_80.h"
#include "sm_90.h"

namespace fastconv::cuda {

constexpr const Tuning& tuning(int architecture) {
  if (architecture >= 90) return kTuningSm90;
  if (architecture >= 80) return kTuningSm80;
  return kTuningSm75;
}

}  // namespace fastconv::cuda
