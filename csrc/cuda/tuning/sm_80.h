// Ampere and Ada: 64 K registers; 164 KiB (sm_80) or 100 KiB (sm_86, sm_89) of shared memory a multiprocessor.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm80 = {{
    2,
    4,
    60,  // 128 x 128: 64 KiB and 128 threads of up to 255 registers; 64 x 64: 32 KiB, 128 threads of up to 128
    2,
    8,
    70,  // 256 threads of 128 registers twice; 64 threads of 128 registers, 8 times
    8,
    32,  // the ring of four stages is full for at least half of a part
}};

}  // namespace fastconv::cuda
