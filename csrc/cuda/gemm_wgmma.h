// What the GEMM rows on Hopper's warpgroup tensor cores have in common on the host.
#pragma once

#include "gemm_rows.h"

namespace fastconv::cuda {

// The tiles: 128 rows x 256 or 128 columns, one block a multiprocessor with either. The narrow one fetches a third more
// for the same product: 85 % of the wide one's rate is what that is taken to cost, not measured.
constexpr int kGemmWgmmaTileM = 128, kGemmWgmmaWideN = 256, kGemmWgmmaNarrowN = 128, kGemmWgmmaNarrowPercent = 85;

// What stands against 16-bit operands, or floats as tf32, in these rows.
Reasons gemm_wgmma_reasons(const GemmCall& call, bool tf32);

}  // namespace fastconv::cuda
