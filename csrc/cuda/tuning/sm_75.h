// Turing: CUDA cores only here (mma.sync of bf16 and cp.async come with sm_80). 64 KiB of shared memory and 64 K
// registers a multiprocessor, 1024 threads.
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
    16,
    16,  // the double buffer fills in one step, but a partial sum costs two passes over DRAM
}};

}  // namespace fastconv::cuda
