// Ampere and Ada: 64 K registers; 164 KiB (sm_80) or 100 KiB (sm_86, sm_89) of shared memory a multiprocessor.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm80 = {{
    2,
    4,
    60,  // 128 x 128: 64 KiB and 128 threads of up to 255 registers; 64 x 64: 32 KiB, 128 threads of up to 128
    2,
    2,
    60,  // 256 threads of up to 128 registers, twice
    1024,
    64,  // sm_80; sm_86 and sm_89 have half of the first and twice the second
    12,  // 1.9 TB/s over 108 multiprocessors at 1.41 GHz
    1500,
    3000,  // about a memory latency at either end; 2 us
    32,
}};

}  // namespace fastconv::cuda
