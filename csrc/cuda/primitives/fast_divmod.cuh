// Division by a number that is known when the kernel is launched: one multiplication and one shift instead of the
// twenty instructions of a 32-bit division (Granlund and Montgomery, "Division by invariant integers using
// multiplication", PLDI 1994). For dividends of less than 2^31.
#pragma once

#include <cstdint>

#include "cuda.h"

namespace fastconv::cuda {

struct FastDivmod {
  unsigned divisor = 1;
  unsigned multiplier = 0;  // ceil(2^(31 + ceil(log2 divisor)) / divisor); not used for 1
  unsigned shift = 0;       // of the product's upper half

  FastDivmod() = default;
  explicit FastDivmod(int64_t d) : divisor(static_cast<unsigned>(d)) {
    if (d <= 1) return;
    unsigned log = 1;
    while ((int64_t{1} << log) < d) ++log;
    // Too large by less than d / 2^(31 + log) <= 2^-31, so that no dividend below 2^31 reaches the next quotient.
    multiplier = static_cast<unsigned>(((uint64_t{1} << (31 + log)) + divisor - 1) / divisor);
    shift = log - 1;
  }

  __device__ __forceinline__ int divide(int dividend) const {
    if (divisor == 1) return dividend;
    return static_cast<int>(__umulhi(static_cast<unsigned>(dividend), multiplier) >> shift);
  }
  // Returns the quotient.
  __device__ __forceinline__ int divmod(int dividend, int& remainder) const {
    const int quotient = divide(dividend);
    remainder = dividend - quotient * static_cast<int>(divisor);
    return quotient;
  }
};

}  // namespace fastconv::cuda
