// The bfloat16 kernel on AMX tiles: up to two tiles of at most 16 pixels x two blocks of 16 filters, so that each of
// four TDPBF16PS (16 cycles each) costs one tile load. The intrinsics are GCC's macros over volatile assembly without a
// memory clobber, hence the barriers.
#pragma once

#include <immintrin.h>

#include "bf16_tile.h"

namespace fastconv::cpu::FASTCONV_ISA::bf16 {

struct TileEngine {
  static constexpr int64_t kRows = 16;   // pixels of a tile
  static constexpr int64_t kTiles = 2;   // at a time
  static constexpr int64_t kPitch = 32;  // of the sums
  static constexpr bool kSlices = true;  // goes on from sums of fewer steps

  // Tiles 0-3 are sums, 4 and 5 pixels, 6 and 7 filters. The configuration belongs to the thread, and other users of
  // AMX in it (oneDNN) expect to find none.
  TileEngine(int64_t rows, int64_t channels) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : channels / 2);
      config.bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? 2 * channels : 64);
    }
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileEngine() { _tile_release(); }
  TileEngine(const TileEngine&) = delete;

  template <int kPixelTiles, int kBlocks, int kNextLines = 0>
  static __attribute__((noinline)) void run(const TileArgs& t) {
    const char *b0 = t.filters[0], *b1 = t.filters[1], *a0 = t.pixels[0], *a1 = t.pixels[1];
    const int64_t step = t.pixel_step, filter_bytes = t.channels * 32;
    asm volatile("" ::: "memory");
    if (t.more) {
      constexpr int64_t kBytes = kPitch * sizeof(float);
      _tile_loadd(0, t.sums, kBytes);
      if constexpr (kBlocks > 1) _tile_loadd(1, t.sums + 16, kBytes);
      if constexpr (kPixelTiles > 1) _tile_loadd(2, t.sums + kRows * kPitch, kBytes);
      if constexpr (kPixelTiles > 1 && kBlocks > 1) _tile_loadd(3, t.sums + kRows * kPitch + 16, kBytes);
    } else {
      _tile_zero(0);
      if constexpr (kBlocks > 1) _tile_zero(1);
      if constexpr (kPixelTiles > 1) _tile_zero(2);
      if constexpr (kPixelTiles > 1 && kBlocks > 1) _tile_zero(3);
    }
    const char* next = t.next;
    for (int64_t i = 0; i < t.steps; ++i) {
      const int64_t at = t.offsets[i];
#pragma GCC unroll 16
      for (int line = 0; line < kNextLines; ++line) _mm_prefetch(next + 64 * line, _MM_HINT_T1);
      next += 64 * kNextLines;
      _tile_loadd(4, a0 + at, step);
      _tile_loadd(6, b0, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kBlocks > 1) {
        _tile_loadd(7, b1, 64);
        _tile_dpbf16ps(1, 4, 7);
        b1 += filter_bytes;
      }
      if constexpr (kPixelTiles > 1) {
        _tile_loadd(5, a1 + at, step);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kBlocks > 1) _tile_dpbf16ps(3, 5, 7);
      }
      b0 += filter_bytes;
    }
  }

  // The products only begin here: what the caller does before `store` runs beside them.
  void multiply(int64_t tiles, int64_t blocks, const TileArgs& t) const {
    if (tiles > 1 && blocks > 1 && t.next_lines > 0) return t.next_lines > 4 ? run<2, 2, 16>(t) : run<2, 2, 4>(t);
    if (tiles > 1) return blocks > 1 ? run<2, 2>(t) : run<2, 1>(t);
    return blocks > 1 ? run<1, 2>(t) : run<1, 1>(t);
  }
  void store(int64_t tiles, int64_t blocks, float* sums) const {
    constexpr int64_t kBytes = kPitch * sizeof(float);
    asm volatile("" ::: "memory");
    _tile_stored(0, sums, kBytes);
    if (blocks > 1) _tile_stored(1, sums + 16, kBytes);
    if (tiles > 1) {
      _tile_stored(2, sums + kRows * kPitch, kBytes);
      if (blocks > 1) _tile_stored(3, sums + kRows * kPitch + 16, kBytes);
    }
    asm volatile("" ::: "memory");
  }
};

}  // namespace fastconv::cpu::FASTCONV_ISA::bf16
