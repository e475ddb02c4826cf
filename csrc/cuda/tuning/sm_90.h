// Hopper: 64 K registers, 228 KiB of shared memory a multiprocessor. mma.sync keeps its Ampere form here; these values
// are for it. wgmma's tiles and ring are chosen beside its kernel.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm90 = {{
    2,
    4,
    60,  // bound by registers as on sm_80: the larger shared memory holds no further block
    2,
    2,
    60,  // 256 threads of up to 128 registers, twice
    1280,
    128,  // mma.sync reaches about five eighths of wgmma's 2048
    17,   // 4.1 TB/s over 132 multiprocessors at 1.83 GHz
    1500,
    4000,  // about a memory latency at either end; 2 us
    32,
}};

}  // namespace fastconv::cuda
