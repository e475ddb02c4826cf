// Hopper: 64 K registers, 228 KiB of shared memory a multiprocessor. mma.sync keeps its Ampere form here, at about
// five eighths of wgmma's rate; these values are for it.
#pragma once

#include "tuning.h"

namespace fastconv::cuda {

constexpr Tuning kTuningSm90 = {{
    2,
    4,
    60,  // bound by registers, as on sm_80: the larger shared memory holds no further block
    2,
    8,
    70,
    8,
    32,
}};

}  // namespace fastconv::cuda
