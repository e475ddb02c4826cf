// Whether the GPU, and this build, have Hopper's warpgroup instructions: what the rows that use them share.
#pragma once

#include "requirements.h"

namespace fastconv::cuda {

void refuse_without_wgmma(Reasons& reasons);

}  // namespace fastconv::cuda
