// What the lanes of a warp ask of its tensor core together: loading and storing 8 x 8 matrices (ldmatrix, stmatrix) and
// multiplying (mma.sync). Kernels call these through csrc/cuda/primitives/ldmatrix.cuh, stmatrix.cuh and mma.cuh.
// Fragment layouts are those of the PTX ISA, sections "ldmatrix", "stmatrix" and "Matrix fragments for mma".
#pragma once

#include <cstdint>

#include "device.h"

namespace fastconv::emulator {

// 1, 2 or 4 matrices of 16-bit elements. Lane 8 * i + j passes the address of row j of matrix i, 16 bytes; further
// lanes' addresses are not looked at.
void load_matrices(uint32_t* fragments, int matrices, bool transposed, const void* row, Caller caller);

// The way back, from the fragments that load_matrices() gives.
void store_matrices(const uint32_t* fragments, int matrices, bool transposed, void* row, Caller caller);

enum class MatrixElement { kHalf, kBFloat16, kTf32 };

// d += a * b, 16 x 8 += 16 x k * k x 8 with k = 16, or 8 for tf32. `d` is f32, four elements a lane.
void multiply_matrices(float* d, const uint32_t* a, const uint32_t* b, MatrixElement element, Caller caller);

}  // namespace fastconv::emulator
