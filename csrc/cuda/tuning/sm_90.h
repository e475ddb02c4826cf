// Hopper: 64 K registers, 228 KiB of shared memory a multiprocessor. The figures are an H200's.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm90 = {
    1.83e9,  // boost clock
    2048,    // 989 TFLOP/s of 132 multiprocessors
    1280,    // mma.sync reaches about five eighths of wgmma's 2048
    128,     // four partitions of 32 lanes
    128,     // 32 banks of four bytes
    64,
    6154,  // as DeepGEMM counts it; 46.6 a multiprocessor
    17,    // 4.1 TB/s over 132 multiprocessors, what copies reach (public figures)
    50e6,   1500,
    4000,  // about a memory latency at either end; 2 us
    2,
    4,  // bound by registers as on sm_80: the larger shared memory holds no further block
    2,
    2,  // 256 threads of up to 128 registers, twice
    90,
    60,  // an 8 x 8 tile loads a quarter of a word for every FMA, a 4 x 4 one half a word
    32,
};

}  // namespace fastconv::cuda
