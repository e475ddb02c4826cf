// Ampere and Ada: 64 K registers; 164 KiB (sm_80) or 100 KiB (sm_86, sm_89) of shared memory a multiprocessor.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm80 = {
    1.41e9,  // boost clock of an A100
    0,       // no wgmma
    1024,
    64,   // sm_80; sm_86 and sm_89 have half of the first and twice the second
    128,  // 32 banks of four bytes
    64,
    5120,  // 80 slices of 64 bytes
    12,    // 1.9 TB/s over 108 multiprocessors at 1.41 GHz
    40e6,   1500,
    3000,  // about a memory latency at either end; 2 us
    2,
    4,  // 128 x 128: 64 KiB and 128 threads of up to 255 registers; 64 x 64: 32 KiB, 128 threads of up to 128
    2,
    2,  // 256 threads of up to 128 registers, twice
    90,
    60,  // an 8 x 8 tile loads a quarter of a word for every FMA, a 4 x 4 one half a word
    32,
};

}  // namespace fastconv::cuda
