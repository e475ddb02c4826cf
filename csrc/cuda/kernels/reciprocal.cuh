// 1 / v without the call that a correctly rounded division is.
#pragma once

#include "../primitives/cuda.h"

namespace fastconv::cuda {

// The hardware's estimate refined by Newton's steps, each of which doubles the digits. For v in float's normal range.
template <class Acc>
__device__ __forceinline__ Acc reciprocal(Acc v) {
  Acc estimate = static_cast<Acc>(__fdividef(1.0f, static_cast<float>(v)));
#pragma unroll
  for (size_t digits = sizeof(float); digits <= sizeof(Acc); digits += sizeof(float)) {
    estimate += estimate * (Acc(1) - v * estimate);
  }
  return estimate;
}

}  // namespace fastconv::cuda
