// The tensor-core product that GEMM and implicit-GEMM convolution share: a block multiplies a kTileM x kTileN tile,
// walking K through a ring of kStages stages in shared memory that cp.async fills ahead of the warps, each of which
// owns kWarpM x kWarpN of the tile:
//
//        kTileN                      stage  0       1       2       3
//     +-----+-----+                       +-------+-------+-------+-------+
//     | w0  | w1  | kTileM                | A | B | A | B | A | B | A | B |   multiply stage s while s + 1 .. s + 3
//     +-----+-----+                       +-------+-------+-------+-------+   are on their way: one barrier a step
//     | w2  | w3  |
//     +-----+-----+
//
// What is multiplied is up to two *loaders*, one an operand: GEMM, fprop, dgrad and wgrad differ in nothing else here.
// A loader is made for a tile layout (MmaTile) and copies this thread's chunks of 16 bytes, k-step by k-step from 0 on:
//
//   void load(int slot, void* shared)   Chunk `slot` of the current k-step, the tile's elements from (Tile::row(slot),
//                                       Tile::k(slot)) on, to `shared`: with cp_async_16 (zero fill outside), with
//                                       smaller cp_async pieces, or with a plain 16-byte store. All 16 bytes, always.
//   void advance()                      To the next k-step: Tile::kDepth further along K. After the last one it is
//                                       called too.
//
// `slot` is a constant after unrolling. Whoever constructs the loader gives it its origin (M or N, first k, limits).
#pragma once

#include "../primitives/cp_async.cuh"
#include "../primitives/launch.h"
#include "mma_tile.cuh"

namespace fastconv::cuda {

template <class T, int kTileM_, int kTileN_, int kWarpM_, int kWarpN_, int kStages_, Major kMajorA, Major kMajorB>
struct MmaConfig {
  using Element = T;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kWarpM = kWarpM_, kWarpN = kWarpN_, kStages = kStages_;
  static constexpr int kWarpsM = kTileM / kWarpM, kWarpsN = kTileN / kWarpN;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  using TileA = MmaTile<T, kTileM, kMajorA, kThreads>;
  using TileB = MmaTile<T, kTileN, kMajorB, kThreads>;
  static constexpr int kTileK = TileA::kDepth;
  static constexpr int kMmaM = kWarpM / 16, kMmaN = kWarpN / 8;  // mma instructions along each side of a warp's tile
  static constexpr int kStageBytes = TileA::kBytes + TileB::kBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  // A thread's part of the tile: [i][j][e] is register e of the mma at row i * 16, column j * 8 of the warp's tile.
  using Accumulators = float[kMmaM][kMmaN][4];

  // The epilogue's slice: 16 rows of every warp, in float. With 8 floats of padding a warp's accumulators, eight rows
  // of eight, fall into different banks.
  static constexpr int kSliceRows = kWarpsM * 16, kSliceStride = kTileN + 8;
  static constexpr int kSliceBytes = kSliceRows * kSliceStride * 4;
  static constexpr int kSharedBytes = kRingBytes > kSliceBytes ? kRingBytes : kSliceBytes;
  // Blocks on one multiprocessor: what the accumulators leave of 64 K registers for fragments and addresses, without
  // spills. 128 accumulators a thread: 256 threads of 255 registers; 64: 384 of 168; fewer: 512 of 128.
  static constexpr int kThreadAccumulators = kWarpM * kWarpN / 32;
  static constexpr int kResidentThreads = kThreadAccumulators > 64 ? 256 : kThreadAccumulators > 32 ? 384 : 512;
  static constexpr int kMinBlocks = kResidentThreads / kThreads;

  static_assert(kTileM % kWarpM == 0 && kTileN % kWarpN == 0, "warps cover the tile");
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "whole fragments, B's in pairs");
  static_assert(sizeof(T) == 2 || (kMajorA == Major::kK || kWarpM % 32 == 0), "words are read from 32 rows on");
  static_assert(sizeof(T) == 2 || (kMajorB == Major::kK || kWarpN % 32 == 0), "words are read from 32 rows on");
  static_assert(kTileN % 32 == 0, "the slice's padding relies on it");
  static_assert(kStages >= 2, "one stage is multiplied while another is filled");
  static_assert(kMinBlocks >= 1, "too many threads");
};

// Row and column of this thread's warp in the tile.
template <class Config>
__device__ __forceinline__ int warp_row() {
  return static_cast<int>(threadIdx.x) / 32 / Config::kWarpsN * Config::kWarpM;
}
template <class Config>
__device__ __forceinline__ int warp_column() {
  return static_cast<int>(threadIdx.x) / 32 % Config::kWarpsN * Config::kWarpN;
}

template <class Config>
__device__ __forceinline__ void multiply_stage(const unsigned char* stage, typename Config::Accumulators& acc) {
  using T = typename Config::Element;
  uint32_t a[2][Config::kMmaM][4], b[2][Config::kMmaN][2];
  const unsigned char* stage_b = stage + Config::TileA::kBytes;
  Config::TileA::load_a(a[0], stage, warp_row<Config>(), 0);
  Config::TileB::load_b(b[0], stage_b, warp_column<Config>(), 0);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // The second half's fragments are on their way while the first half is multiplied.
    if (half == 0) {
      Config::TileA::load_a(a[1], stage, warp_row<Config>(), 1);
      Config::TileB::load_b(b[1], stage_b, warp_column<Config>(), 1);
    }
#pragma unroll
    for (int i = 0; i < Config::kMmaM; ++i) {
#pragma unroll
      for (int j = 0; j < Config::kMmaN; ++j) {
        if constexpr (sizeof(T) == 4) {
          mma_m16n8k8_tf32(acc[i][j], a[half][i], b[half][j]);
        } else {
          mma_m16n8k16<T>(acc[i][j], a[half][i], b[half][j]);
        }
      }
    }
  }
}

// acc = the product over `steps` k-steps (0: zeros). `shared`: Config::kRingBytes, aligned to 128. When it returns,
// other warps may still be reading the ring: a barrier must come before anyone writes there.
template <class Config, class LoaderA, class LoaderB>
__device__ __forceinline__ void mma_main_loop(LoaderA& load_a, LoaderB& load_b, int steps, unsigned char* shared,
                                              typename Config::Accumulators& acc) {
  using TileA = typename Config::TileA;
  using TileB = typename Config::TileB;
#pragma unroll
  for (int i = 0; i < Config::kMmaM; ++i) {
#pragma unroll
    for (int j = 0; j < Config::kMmaN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }
  }
  const auto fetch = [&](int stage_offset) {
    unsigned char* stage = shared + stage_offset;
#pragma unroll
    for (int slot = 0; slot < TileA::kSlots; ++slot) load_a.load(slot, stage + TileA::slot_offset(slot));
#pragma unroll
    for (int slot = 0; slot < TileB::kSlots; ++slot) {
      load_b.load(slot, stage + TileA::kBytes + TileB::slot_offset(slot));
    }
    load_a.advance();
    load_b.advance();
  };
  // Groups are committed for stages that do not exist too: the wait counts groups.
#pragma unroll
  for (int stage = 0; stage < Config::kStages - 1; ++stage) {
    if (stage < steps) fetch(stage * Config::kStageBytes);
    cp_async_commit();
  }
  int filling = (Config::kStages - 1) * Config::kStageBytes, multiplying = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Config::kStages - 2>();
    // This step's stage has landed for all threads, and the one to be filled next is no longer read by any.
    __syncthreads();
    if (step + Config::kStages - 1 < steps) fetch(filling);
    cp_async_commit();
    multiply_stage<Config>(shared + multiplying, acc);
    filling = filling == Config::kRingBytes - Config::kStageBytes ? 0 : filling + Config::kStageBytes;
    multiplying = multiplying == Config::kRingBytes - Config::kStageBytes ? 0 : multiplying + Config::kStageBytes;
  }
}

}  // namespace fastconv::cuda
