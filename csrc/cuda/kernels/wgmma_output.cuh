// How the sums of wgmma_pipeline.cuh leave: a consumer warpgroup's accumulators, 64 rows after 64, pass the epilogue
// and become rows of D. What D is, an `Output` says:
//   TensorMap map; bool by_tma;    (columns, rows, batch), and whether D is stored through it
//   bool vectors;                  whether 16 bytes of a row can be written at once
//   int columns;                   of one batch
//   int rows_of(batch)
//   int64_t stride_column;         in elements
//   int channel(batch, column)     the epilogue's name of a column
//   OutputRow<T> row(batch, row)
//   TensorMap residual;            with WgmmaResidualEpilogue alone: laid out as `map`'s tensor
#pragma once

#include <cstring>

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/mbarrier.cuh"
#include "../primitives/named_barrier.cuh"
#include "../primitives/opaque.cuh"
#include "../primitives/pack.cuh"
#include "../primitives/stmatrix.cuh"
#include "../primitives/tma.cuh"
#include "../primitives/wgmma.cuh"

namespace fastconv::cuda {

template <class Config>
struct WgmmaShared;  // wgmma_pipeline.cuh

// Where column 0 of a row lies, and the row's place in the epilogue's tensors.
template <class T>
struct OutputRow {
  T* data;
  int64_t n, p, q;
};

// A tile's first row and column, in the batch's matrix, and how many steps of K its sums take; where the reduction is
// split, of which part, and which step is the part's first.
struct WgmmaTile {
  int batch, m, n, steps;
  int part = 0, first_step = 0;
};

// ChannelEpilogue with a residual that TMA fetches into the chunk that its sums will leave through: only for outputs
// that are stored by TMA.
template <class T>
struct WgmmaResidualEpilogue : ChannelEpilogue<T> {
  using Acc = accumulate_t<T>;
  using typename ChannelEpilogue<T>::Channel;
  __device__ Acc value(const Channel& c, Acc acc, Acc residual) const {
    return min_nan(max_nan(c.scale * (acc + c.bias) + c.shift + residual, this->low), this->high);
  }
};
template <class Epilogue>
constexpr bool kFetchesResidual = false;
template <class T>
constexpr bool kFetchesResidual<WgmmaResidualEpilogue<T>> = true;

// Whether take(), a member of the epilogue, is shown every chunk that has been written: wgmma_moments.cuh. Only for
// outputs that are stored by TMA, too.
template <class Epilogue>
constexpr bool kTakesMoments = false;

// visit_epilogue(), where the residual, if there is one, can be fetched (`residual_by_tma`) or not.
template <class T, class F>
void visit_wgmma_epilogue(const EpilogueArgs& args, bool residual_by_tma, F&& f) {
  if (!args.residual.present() || !residual_by_tma) return visit_epilogue<T>(args, f);
  EpilogueArgs rest = args;
  rest.residual = TensorView();
  visit_epilogue<T>(rest, [&](auto epilogue) {
    if constexpr (decltype(epilogue)::kUnrolled) {
      f(WgmmaResidualEpilogue<T>{epilogue});
    } else {
      f(GeneralEpilogue<T>{args});
    }
  });
}

namespace wgmma_detail {

// All threads of one consumer; barrier numbers are constants.
__device__ __forceinline__ void consumer_barrier(int consumer) {
  consumer == 0 ? named_barrier_sync<1>(128) : named_barrier_sync<2>(128);
}

// Chunk number `number` of a consumer, counted from 1 on over all of its tiles, and its residual's barrier.
template <class Config>
struct ChunkPlace {
  unsigned char* chunk;
  uint64_t* fetched;
  uint32_t parity;

  __device__ __forceinline__ ChunkPlace(WgmmaShared<Config>& shared, int consumer, int number)
      : chunk(shared.chunks[consumer][number & 1]),
        fetched(&shared.fetched[consumer][number & 1]),
        parity((number - 1) / 2 & 1) {}
};

// The row in D of a consumer's chunk `c` of a tile, and its column: row blocks of one column after the other.
template <class Config>
__device__ __forceinline__ int chunk_row(const WgmmaTile& tile, int consumer, int c) {
  return tile.m + Config::consumer_row(consumer) + c % Config::kRowBlocks * Config::kWgmmaM;
}
template <class Config>
__device__ __forceinline__ int chunk_column(const WgmmaTile& tile, int c) {
  return tile.n + c / Config::kRowBlocks * Config::kChunkN;
}
// Of its columns group * 8 to group * 8 + 7, a thread's sums in the upper or lower half of its warp's rows.
template <class Config>
__device__ __forceinline__ constexpr int sum_index(int c, int group, int half) {
  const int column_groups = c / Config::kRowBlocks * Config::kChunkN / 8 + group;
  return c % Config::kRowBlocks * (Config::kTileN / 2) + column_groups * 4 + half * 2;
}
template <class Config>
constexpr int kChunkCount = Config::kRowBlocks * Config::kTileN / Config::kChunkN;

// One thread of a consumer, when the store that read this chunk's memory last has done so: the residual of the tile's
// chunk c, if there is one.
template <class Config, class Output>
__device__ __forceinline__ void fetch_residual(const Output& output, WgmmaShared<Config>& shared, const WgmmaTile& tile,
                                               int consumer, int number, int c) {
  const int n = chunk_column<Config>(tile, c);
  if (c >= kChunkCount<Config> || n >= output.columns) return;
  const ChunkPlace<Config> place(shared, consumer, number);
  mbarrier_arrive_expect(place.fetched, Config::kWgmmaM * kSwizzleBytes);
  tma_load_3d(place.chunk, &output.residual, place.fetched, n, chunk_row<Config>(tile, consumer, c), tile.batch);
}

// Before a tile's products: the first two chunks' residuals arrive meanwhile.
template <class Config, class Output>
__device__ __forceinline__ void fetch_first_residuals(const Output& output, WgmmaShared<Config>& shared,
                                                      const WgmmaTile& tile, int consumer, int stored) {
  if (threadIdx.x % Config::kWarpgroup != 0) return;
  tma_wait_stores_read<1>();  // all but the last tile's last, which was the other buffer's
  fetch_residual(output, shared, tile, consumer, stored + 1, 0);
  tma_wait_stores_read<0>();
  fetch_residual(output, shared, tile, consumer, stored + 2, 1);
}

// Two neighbouring elements of a chunk, in the swizzle of TMA.
template <class T>
__device__ __forceinline__ T* chunk_pair(unsigned char* chunk, int line, int column) {
  const int byte = column * static_cast<int>(sizeof(T));
  return reinterpret_cast<T*>(chunk + line * kSwizzleBytes + ((byte / 16 ^ line % 8) * 16 + byte % 16));
}

// The sums of 64 rows of a chunk to shared memory. finish(group, pairs): what the thread has of a group of 8 columns,
// two neighbours in its warp's rows 0 to 7 and in 8 to 15. 16-bit elements go through stmatrix, which takes four
// matrices at a time: both halves of the rows, of two groups; a lane passes the place of row lane % 16 in the first or
// the second. kReplaces: finish() reads what is replaced, other lanes' rows here.
template <int kColumns, bool kReplaces, class T, class Finish>
__device__ __forceinline__ void write_chunk(unsigned char* chunk, int thread, const Finish& finish) {
  Pack<T, 2> pairs[2][2];
  const int warp_rows = thread / 32 * 16;
#pragma unroll
  for (int j = 0; j < kColumns / 8; j += 2) {
    finish(j, pairs[0]);
    finish(j + 1, pairs[1]);
    if constexpr (sizeof(T) == 2) {
      uint32_t fragments[4];
      memcpy(fragments, pairs, sizeof fragments);
      if constexpr (kReplaces) __syncwarp();
      stmatrix(fragments, chunk_pair<T>(chunk, warp_rows + thread % 16, (j + thread % 32 / 16) * 8));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int line = warp_rows + thread % 32 / 4 + i % 2 * 8;
        store_pack<2>(chunk_pair<T>(chunk, line, (j + i / 2) * 8 + thread % 4 * 2), pairs[i / 2][i % 2]);
      }
    }
  }
}

// Chunk by chunk of columns: registers -> epilogue -> shared memory, in the swizzle that TMA expects -> D. The eight
// rows that a warp writes at once fall into different banks thanks to it. `stored` counts the consumer's chunks, whose
// two buffers take turns from tile to tile, too. A residual lies in the chunk already, where each warp replaces its own
// rows.
template <class Config, class Output, class Epilogue>
__device__ __forceinline__ void store_by_tma(const float (&acc)[Config::kAccumulators], const Output& output,
                                             WgmmaShared<Config>& shared, const Epilogue& epilogue,
                                             const WgmmaTile& tile, int consumer, int& stored) {
  using T = typename Config::Element;
#pragma unroll
  for (int c = 0; c < kChunkCount<Config>; ++c) {
    const int n0 = chunk_column<Config>(tile, c);
    if (n0 >= output.columns) break;
    // Addresses are computed anew for every chunk: there are no registers to keep them in.
    stored = opaque(stored + 1);
    const int thread = opaque(static_cast<int>(threadIdx.x) % Config::kWarpgroup);
    const ChunkPlace<Config> place(shared, consumer, stored);
    if constexpr (kFetchesResidual<Epilogue>) {
      if (thread == 0 && c > 0) {  // the other buffer's next
        tma_wait_stores_read<0>();
        fetch_residual(output, shared, tile, consumer, stored + 1, c + 1);
      }
      mbarrier_wait(place.fetched, place.parity);
    } else {
      if (thread == 0) tma_wait_stores_read<1>();  // the store before the last was this buffer's
      consumer_barrier(consumer);
    }
    const auto finish = [&](int group, Pack<T, 2>(&pairs)[2]) {
      const int column = group * 8 + thread % 4 * 2;
      const int n = min(n0 + column, output.columns - 2);  // columns are even here
      const typename Epilogue::Channel channels[2] = {epilogue.channel(output.channel(tile.batch, n)),
                                                      epilogue.channel(output.channel(tile.batch, n + 1))};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* sums = &acc[sum_index<Config>(c, group, half)];
        if constexpr (kFetchesResidual<Epilogue>) {
          const int line = thread / 32 * 16 + thread % 32 / 4 + half * 8;
          const Pack<T, 2> residual = load_pack<2>(chunk_pair<T>(place.chunk, line, column));
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            pairs[half].value[e] =
                from_accumulate<T>(epilogue.value(channels[e], sums[e], to_accumulate(residual.value[e])));
          }
        } else {
#pragma unroll
          for (int e = 0; e < 2; ++e) pairs[half].value[e] = from_accumulate<T>(epilogue.value(channels[e], sums[e]));
        }
      }
    };
    write_chunk<Config::kChunkN, kFetchesResidual<Epilogue>, T>(place.chunk, thread, finish);
    fence_proxy_async();
    consumer_barrier(consumer);
    if (thread == 0) {
      tma_store_3d(&output.map, place.chunk, n0, chunk_row<Config>(tile, consumer, c), tile.batch);
      tma_commit_stores();
    }
    // Two barriers lie between this and the next write to the chunk.
    if constexpr (kTakesMoments<Epilogue>) {
      epilogue.template take<Config>(place.chunk, output, tile, n0, chunk_row<Config>(tile, consumer, c));
    }
  }
}

// Rows that lie anywhere, columns together: chunk by chunk through shared memory, as above, but within a warp, of which
// eight lanes then write the 128 bytes of a row.
template <class Config, class Output, class Epilogue>
__device__ __forceinline__ void store_vectors(const float (&acc)[Config::kAccumulators], const Output& output,
                                              typename Config::Chunks& chunks, const Epilogue& epilogue,
                                              const WgmmaTile& tile, int consumer) {
  using T = typename Config::Element;
  constexpr int kVector = 16 / sizeof(T), kLanes = kSwizzleBytes / 16;
#pragma unroll
  for (int c = 0; c < kChunkCount<Config>; ++c) {
    const int n0 = chunk_column<Config>(tile, c);
    if (n0 >= output.columns) break;
    const int thread = opaque(static_cast<int>(threadIdx.x) % Config::kWarpgroup);
    unsigned char* chunk = chunks[consumer][0];
    const auto finish = [&](int group, Pack<T, 2>(&pairs)[2]) {
      const int n = min(n0 + group * 8 + thread % 4 * 2, output.columns - 2);
      const typename Epilogue::Channel channels[2] = {epilogue.channel(output.channel(tile.batch, n)),
                                                      epilogue.channel(output.channel(tile.batch, n + 1))};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* sums = &acc[sum_index<Config>(c, group, half)];
#pragma unroll
        for (int e = 0; e < 2; ++e) pairs[half].value[e] = from_accumulate<T>(epilogue.value(channels[e], sums[e]));
      }
    };
    __syncwarp();  // the last chunk has been read
    write_chunk<Config::kChunkN, false, T>(chunk, thread, finish);
    __syncwarp();
    const int column = thread % kLanes * kVector;
#pragma unroll 1
    for (int i = thread % 32 / kLanes; i < 16; i += 32 / kLanes) {
      const int line = thread / 32 * 16 + i, m = chunk_row<Config>(tile, consumer, c) + line;
      if (m >= output.rows_of(tile.batch) || n0 + column >= output.columns) continue;
      store_pack<kVector>(output.row(tile.batch, m).data + n0 + column,
                          load_pack<kVector>(chunk_pair<T>(chunk, line, column)));
    }
  }
}

// Any strides, any epilogue: a warp's 16 rows of a chunk pass through its part of shared memory as floats, after which
// lanes hold neighbouring columns, or neighbouring rows where columns lie apart (NCHW, a column-major D), and the
// epilogue's code stands in one place.
template <class Config, class Output, class Epilogue>
__device__ __forceinline__ void store_elements(const float (&acc)[Config::kAccumulators], const Output& output,
                                               typename Config::Chunks& chunks, const Epilogue& epilogue,
                                               const WgmmaTile& tile, int consumer) {
  constexpr int kRows = 16, kChunkN = Config::kChunkN;
  static_assert(sizeof(chunks[0]) >= 4 * kRows * kChunkN * sizeof(float), "a slice for each of the four warps");
  const int warp = static_cast<int>(threadIdx.x) % Config::kWarpgroup / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float* slice = reinterpret_cast<float*>(chunks[consumer]) + warp * kRows * kChunkN;
  // Pairs of columns change places with the row, all 16 differently: two columns read at once meet every bank once. Of
  // four neighbouring rows, written at once, it moves groups of 8 columns to different ones.
  static_assert(kChunkN % 32 == 0);
  const auto at = [slice](int row, int column) {
    return slice + row * kChunkN + (column ^ (row % 4 * 8 + row / 4 * 2));
  };
  const bool along_rows = output.stride_column != 1;
#pragma unroll 1
  for (int c = 0; c < kChunkCount<Config>; ++c) {
    const int n0 = chunk_column<Config>(tile, c), m0 = chunk_row<Config>(tile, consumer, c) + warp * kRows;
    if (n0 >= output.columns) break;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Config::kAccumulators; i += 2) {
      // Registers cannot be indexed by a run-time value.
      constexpr int kSums = Config::kTileN / 2;
      if (i % kSums / (kChunkN / 2) * Config::kRowBlocks + i / kSums != c) continue;
      const int j = i / 4 % (kChunkN / 8), row = lane / 4 + i / 2 % 2 * 8;
      store_pack<2>(at(row, j * 8 + lane % 4 * 2), Pack<float, 2>{{acc[i], acc[i + 1]}});
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < kRows * kChunkN / 32; ++i) {
      const int row = along_rows ? lane % kRows : i / (kChunkN / 32);
      const int column = along_rows ? i * (32 / kRows) + lane / kRows : i % (kChunkN / 32) * 32 + lane;
      const int m = m0 + row, n = n0 + column;
      if (m >= output.rows_of(tile.batch) || n >= output.columns) continue;
      const auto place = output.row(tile.batch, m);
      const int channel = output.channel(tile.batch, n);
      place.data[n * output.stride_column] =
          epilogue.finish(epilogue.channel(channel), *at(row, column), place.n, channel, place.p, place.q);
    }
  }
}

}  // namespace wgmma_detail
}  // namespace fastconv::cuda
