// What an emulated CUDA thread may ask of the runtime: its coordinates, barriers, warp collectives, atomics. Kernels do
// not call these directly; cuda_shim.h gives them their CUDA names.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vector_types.h"

namespace fastconv::emulator {

// Lies at the top of the fiber's own stack, so that reading it counts as an access to local memory.
struct ThreadContext {
  uint3 thread_index, block_index;
  dim3 block_extent, grid_extent;
  int thread;  // linear index in the block
  int warp, lane;
  int cluster_rank;     // of the block in its cluster
  dim3 cluster_extent;  // blocks
  int agent;            // linear index in the cluster
};

// const: within one activation of a kernel the answer never changes, so the compiler may hoist the call.
__attribute__((const)) const ThreadContext& self();

// Source position of the caller, for reports. CUDA's own signatures have no room for it, so it comes as defaults.
struct Caller {
  const char* file;
  int line;
  static constexpr Caller here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class Shuffle { kIndex, kUp, kDown, kXor };

void block_barrier(Caller caller);
void warp_barrier(unsigned mask, Caller caller);
// The value of the lane that `kind` and `operand` select, or the caller's own where that lane is out of the segment.
uint64_t shuffle(unsigned mask, Shuffle kind, uint64_t value, int operand, int width, Caller caller);
unsigned ballot(unsigned mask, bool predicate, Caller caller);

// A read-modify-write: copies the old value to `old`, lets update(value, state) change a second copy, stores that.
using AtomicUpdate = void (*)(void* value, void* state);
void atomic_access(void* address, size_t bytes, void* old, AtomicUpdate update, void* state, Caller caller);

// The 32-bit address of a byte of shared memory, as PTX knows it, and back.
uint32_t shared_address(const void* pointer, Caller caller);
unsigned char* shared_pointer(uint32_t address);

// Start of the block's dynamic shared memory, 1024-byte aligned.
unsigned char* dynamic_shared_memory();

}  // namespace fastconv::emulator
