// Turing: CUDA cores only here (mma.sync of bf16 and cp.async come with sm_80). 64 K registers and 64 KiB of shared
// memory a multiprocessor.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm75 = {
    1.55e9,  // boost clock of an RTX 2080 Ti
    0,
    0,    // no tensor-core rows
    64,   // four partitions of 16 lanes
    128,  // 32 banks of four bytes
    64,
    2048,   // 32 slices of 64 bytes
    6,      // 616 GB/s over 68 multiprocessors at 1.55 GHz
    5.5e6,  // 5.5 MiB
    1500,
    3000,  // about a memory latency at either end; 2 us
    0,      0, 2,
    2,  // 256 threads of up to 128 registers, twice
    90,
    60,  // an 8 x 8 tile loads a quarter of a word for every FMA, a 4 x 4 one half a word
    16,
};

}  // namespace fastconv::cuda
