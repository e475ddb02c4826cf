// One operand's tile of a stage in shared memory, as tensor cores want it: its layout, who copies which piece, and how
// a warp takes fragments from it. kRows of M (operand A) or N (operand B), kDepth of K: 64 bytes of K whatever the
// type, so that K = 32 for 16-bit types, 16 for float, and two mma deep. Memory order of the operand decides the
// layout:
//
//   Major::kK    lines are rows, 4 chunks along K      Major::kMN   lines are values of k, kRows / kChunk chunks
//
//      row 0   | c0 | c1 | c2 | c3 |                      k = 0   | c0 | c1 | ...        |
//      row 1   | c0 | c1 | c2 | c3 |                      k = 1   | c0 | c1 | ...        |
//
// A chunk is 16 bytes, what one cp.async moves and what ldmatrix reads a row of. Chunk c of line l is stored in place
// c ^ swizzle(l): the eight lines that one ldmatrix phase reads, and the eight chunks that a quarter of a warp writes,
// then lie in different banks.
#pragma once

#include "../primitives/ldmatrix.cuh"
#include "../primitives/mma.cuh"

namespace fastconv::cuda {

// Which direction of an operand is contiguous in memory.
enum class Major { kK, kMN };

template <class T, int kRows_, Major kMajor_, int kThreads>
struct MmaTile {
  using Element = T;
  static constexpr int kRows = kRows_;
  static constexpr Major kMajor = kMajor_;
  static constexpr int kChunk = 16 / sizeof(T);  // elements
  static constexpr int kDepth = 64 / sizeof(T);
  static constexpr int kLines = kMajor == Major::kK ? kRows : kDepth;
  static constexpr int kLineChunks = (kMajor == Major::kK ? kDepth : kRows) / kChunk;
  static constexpr int kBytes = kRows * 64;
  static constexpr int kLineBytes = kLineChunks * 16;
  static constexpr int kSlots = kLines * kLineChunks / kThreads;  // chunks that a thread copies, each stage
  static constexpr int kLinesApart = kThreads / kLineChunks;      // between a thread's chunks

  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "half_t, bfloat16_t, or float rounded to tf32");
  static_assert(kRows % 16 == 0, "whole fragments");
  static_assert(kThreads % kLineChunks == 0 && kLines % kLinesApart == 0, "every thread copies kSlots chunks");
  static_assert(kMajor == Major::kK || sizeof(T) == 2 || kLineChunks % 8 == 0, "float lines span all banks");

  // Where in the tile the first element of this thread's chunk `slot` lies. The chunk runs along K for Major::kK, along
  // the rows for Major::kMN; only the other coordinate depends on the slot.
  __device__ static int row(int slot) {
    return kMajor == Major::kK ? line(slot) : static_cast<int>(threadIdx.x) % kLineChunks * kChunk;
  }
  __device__ static int k(int slot) {
    return kMajor == Major::kK ? static_cast<int>(threadIdx.x) % kLineChunks * kChunk : line(slot);
  }
  // Bytes from the start of the tile to where that chunk is stored.
  __device__ static int slot_offset(int slot) {
    return offset(line(slot), static_cast<int>(threadIdx.x) % kLineChunks);
  }

  __device__ static int offset(int line, int chunk) { return (line * kLineChunks + (chunk ^ swizzle(line))) * 16; }

  // The swizzle repeats every eight lines, so that fragments 16 rows apart differ by a constant: of Major::kK tiles a
  // thread needs one address, the rest is in the instructions.
  //
  // A's fragments for `kCount` times 16 rows from `row0` on, half `depth_half` (0 or 1) of the tile's depth.
  template <int kCount>
  __device__ __forceinline__ static void load_a(uint32_t (&a)[kCount][4], const unsigned char* tile, int row0,
                                                int depth_half) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int first = row0 + i * 16;
      if constexpr (kMajor == Major::kK) {
        ldmatrix_x4(a[i], tile + first * kLineBytes + offset(lane % 16, depth_half * 2 + lane / 16));
      } else if constexpr (sizeof(T) == 2) {
        ldmatrix_x4_trans(a[i],
                          tile + offset(depth_half * 16 + lane / 16 * 8 + lane % 8, first / kChunk + lane / 8 % 2));
      } else {
        // ldmatrix transposes 16-bit elements only.
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = word(tile, row0, i, e % 2, depth_half * 8 + e / 2 * 4);
      }
      round_to_tf32(a[i]);
    }
  }

  // B's fragments for `kCount` times 8 rows (columns of the product).
  template <int kCount>
  __device__ __forceinline__ static void load_b(uint32_t (&b)[kCount][2], const unsigned char* tile, int row0,
                                                int depth_half) {
    static_assert(kCount % 2 == 0, "fragments are loaded in pairs");
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const int first = row0 + i * 8;
      uint32_t pair[4];
      if constexpr (kMajor == Major::kK) {
        ldmatrix_x4(pair, tile + first * kLineBytes + offset(lane / 16 * 8 + lane % 8, depth_half * 2 + lane / 8 % 2));
      } else if constexpr (sizeof(T) == 2) {
        ldmatrix_x4_trans(pair,
                          tile + offset(depth_half * 16 + lane / 8 % 2 * 8 + lane % 8, first / kChunk + lane / 16));
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) pair[e] = word(tile, row0, i / 2, e / 2, depth_half * 8 + e % 2 * 4);
      }
      round_to_tf32(pair);
      b[i][0] = pair[0], b[i][1] = pair[1];
      b[i + 1][0] = pair[2], b[i + 1][1] = pair[3];
    }
  }

 private:
  __device__ static int line(int slot) { return static_cast<int>(threadIdx.x) / kLineChunks + slot * kLinesApart; }

  __device__ static int swizzle(int line) {
    // Two lines of 64 bytes share the 128 bytes of all banks; longer ones have them to themselves.
    if constexpr (kLineChunks == 4) return line / 2 % 4;
    // A warp reads single floats, 8 along the line from 4 lines: pairs of chunks, apart in the four lines.
    if constexpr (kMajor == Major::kMN && sizeof(T) == 4) return line % 4 * 2;
    return line % 8;
  }

  // The float at row lane / 4 of the lower or upper eight of 16 rows, the `group`-th from row0 (a multiple of 32) on,
  // and at k + lane % 4 (k a multiple of 4). Spelled so that the compiler sees what is the same for all: the swizzle
  // takes two bits of the chunk, which only `group` and `upper` share, so four addresses and constants beside them
  // reach everything.
  __device__ __forceinline__ static uint32_t word(const unsigned char* tile, int row0, int group, int upper, int k) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int place = offset(lane % 4, lane / 16) + lane / 4 % 4 * 4;
    const int twisted = place ^ ((group % 2 * 4 + upper * 2) * 16);
    return *reinterpret_cast<const uint32_t*>(tile + twisted + (row0 / kChunk + group / 2 * 8 + k * kLineChunks) * 16);
  }

  __device__ __forceinline__ static void round_to_tf32(uint32_t (&r)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int e = 0; e < 4; ++e) r[e] = to_tf32(detail::bits_float(r[e]));
    }
  }
};

}  // namespace fastconv::cuda
