// The machine's limits, measured: what benchmarks divide by, and what predicted costs rest on.
#pragma once

#include "../cpu_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {

// `iterations` rounds over enough independent sums to hide the latency of FMA (4 cycles, 2 a cycle: 8) with room to
// spare, in registers. One thread; returns the floating-point operations done.
inline double fma_burst(int64_t iterations) {
  constexpr int kSums = kTileRows >= 12 ? 24 : 12;
  using V = VecF;
  V sums[kSums];
  // Different starting values, or the compiler finds that one chain would do.
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sums[i] = V(static_cast<float>(i + iterations % 7));
  // An addend of 0 would let the sums decay into denormal numbers, which are a hundred times slower.
  const V factor(0.999f), addend(static_cast<float>(1 + iterations % 5));
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) sums[i] = fma(sums[i], factor, addend);
  }
  V total = sums[0];
#pragma GCC unroll 24
  for (int i = 1; i < kSums; ++i) total = total + sums[i];
  // The sums are finite, which the compiler does not know: they have to be computed.
  const bool finite = total.reduce_add() < 3e38f;
  return finite ? static_cast<double>(iterations) * kSums * V::kLanes * 2 : 0;
}

// Copies whole vectors, through the caches as kernels do (memcpy goes around them where it is long).
inline void copy_burst(const float* from, float* to, int64_t count) {
  using V = VecF;
  for (int64_t i = 0; i + 4 * V::kLanes <= count; i += 4 * V::kLanes) {
    const V a = V::load(from + i), b = V::load(from + i + V::kLanes);
    const V c = V::load(from + i + 2 * V::kLanes), d = V::load(from + i + 3 * V::kLanes);
    a.store(to + i);
    b.store(to + i + V::kLanes);
    c.store(to + i + 2 * V::kLanes);
    d.store(to + i + 3 * V::kLanes);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
