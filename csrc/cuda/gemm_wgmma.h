// What the GEMM rows on Hopper's warpgroup tensor cores have in common on the host.
#pragma once

#include "gemm_rows.h"

namespace fastconv::cuda {

// The tiles: 128 rows x 256 or 128 columns, one block a multiprocessor with either.
constexpr int kGemmWgmmaTileM = 128, kGemmWgmmaWideN = 256, kGemmWgmmaNarrowN = 128;

// What stands against 16-bit operands, or floats as tf32, in these rows.
Reasons gemm_wgmma_reasons(const GemmCall& call, bool tf32);

}  // namespace fastconv::cuda
