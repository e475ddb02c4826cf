// Turing: CUDA cores only here (mma.sync of bf16 and cp.async come with sm_80). 64 K registers and 64 KiB of shared
// memory a multiprocessor.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm75 = {{
    0,
    0,
    0,  // no tensor-core rows
    2,
    2,
    60,  // 256 threads of up to 128 registers, twice; a 4 x 4 thread tile loads half a word for every FMA
    0,
    64,  // four partitions of 16 lanes
    6,   // 616 GB/s over 68 multiprocessors at 1.55 GHz
    1500,
    3000,  // about a memory latency at either end; 2 us
    16,
}};

}  // namespace fastconv::cuda
