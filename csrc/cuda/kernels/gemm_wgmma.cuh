// D[b] = epilogue(A[b] * B[b]) on Hopper's warpgroup tensor cores: the tiles of a batch of matrix products for
// wgmma_pipeline.cuh.
//
// Transposed operands are not copied: whichever of an operand's directions is contiguous decides its shared-memory
// layout, which wgmma takes as it is. Borders of M, N and K are TMA's: zeros on the way in, nothing on the way out.
#pragma once

#include "../../common/calls.h"
#include "../primitives/launch.h"
#include "../primitives/tensor_map.h"
#include "tile_raster.cuh"
#include "wgmma_pipeline.cuh"

namespace fastconv::cuda {

template <class T>
struct GemmWgmmaOutput {
  TensorMap map, residual;
  bool by_tma;
  static constexpr bool vectors = false;  // nearly all that they could take is stored by TMA
  int rows, columns;                      // M, N
  T* data;
  int64_t stride_batch, stride_row, stride_column;  // in elements

  __device__ __forceinline__ int rows_of(int) const { return rows; }
  __device__ __forceinline__ int channel(int, int column) const { return column; }
  __device__ __forceinline__ OutputRow<T> row(int batch, int m) const {
    return {data + batch * stride_batch + m * stride_row, batch, m, 0};
  }
};

// Of parts of a split K: (part, batch, M, columns).
struct GemmWgmmaPartials {
  static constexpr bool kTransposed = false;
  float* data;
  int lines, columns;  // M, and N up to whole sectors
  int batch;

  __device__ __forceinline__ float* line(const WgmmaTile& tile, int m) const {
    return data + ((static_cast<int64_t>(tile.part) * batch + tile.batch) * lines + m) * columns;
  }
  __device__ __forceinline__ WgmmaSpan span(const WgmmaTile& tile, int block) const {
    const int n = tile.n + block * kWgmmaSpan;
    return {n, columns - n};
  }
};

// kRows rows of A, or columns of B, from `row` on, and kTileK elements of K, for kBlocks blocks of the cluster. A box
// has at most one swizzled row's elements along the contiguous direction.
template <class Config, int kRows, int kBlocks>
__device__ __forceinline__ void fetch_operand(unsigned char* tile, const TensorMap* map, uint64_t* full, bool mn_major,
                                              int row, int k, int batch) {
  const auto load = [&](unsigned char* to, int x, int y) {
    if constexpr (kBlocks > 1) {
      tma_load_multicast_3d(to, map, full, (1 << kBlocks) - 1, x, y, batch);
    } else {
      tma_load_3d(to, map, full, x, y, batch);
    }
  };
  if constexpr (Config::kTf32) {
    load(tile, k, row);
  } else {
    if (!mn_major) return load(tile, k, row);
    constexpr int kBlock = Config::kTileK;
    static_assert(kRows % kBlock == 0, "whole boxes");
#pragma unroll
    for (int r = 0; r < kRows; r += kBlock) load(tile + r * kSwizzleBytes, row + r, k);
  }
}

// Output: GemmWgmmaOutput<T>, or GemmWgmmaPartials.
template <class T, class Output>
struct GemmWgmmaWork {
  TensorMap a, b;
  Output output;
  int steps, parts;             // of the whole K
  int tiles_m, tiles_n, tiles;  // tiles: of the whole batch and all parts; with clusters, two along M count as one
  bool a_mn_major, b_mn_major;
  bool a_batched, b_batched;  // else all products share the operand

  template <class Config>
  __device__ __forceinline__ WgmmaTile tile(int number) const {
    const int tiles_of_product = tiles_m * tiles_n;
    const TilePlace place = raster_tile(number % tiles_of_product, tiles_m, tiles_n);
    int row = place.row;
    if constexpr (Config::kCluster > 1) row = row * Config::kCluster + static_cast<int>(cluster_rank());
    WgmmaTile tile = {number / tiles_of_product, row * Config::kTileM, place.column * Config::kTileN, steps};
    if constexpr (std::is_same_v<Output, GemmWgmmaPartials>) {
      // The parts one after the other: blocks that run at the same time read the same columns and rows of K.
      const int part = tile.batch / output.batch;
      tile.batch -= part * output.batch;
      take_part(tile, part, parts);
    }
    return tile;
  }

  template <class Config>
  struct Source {
    const GemmWgmmaWork& work;
    int m, n, a_batch, b_batch, k;

    __device__ __forceinline__ void fetch(unsigned char* a, unsigned char* b, uint64_t* full) {
      fetch_operand<Config, Config::kTileM, 1>(a, &work.a, full, work.a_mn_major, m, k, a_batch);
      constexpr int kShare = Config::kTileN / Config::kCluster;
      int first = 0;
      if constexpr (Config::kCluster > 1) first = kShare * static_cast<int>(cluster_rank());
      fetch_operand<Config, kShare, Config::kCluster>(b + first * kSwizzleBytes, &work.b, full, work.b_mn_major,
                                                      n + first, k, b_batch);
      k += Config::kTileK;
    }
  };
  template <class Config>
  __device__ __forceinline__ Source<Config> source(const WgmmaTile& tile) const {
    return {*this,
            tile.m,
            tile.n,
            a_batched ? tile.batch : 0,
            b_batched ? tile.batch : 0,
            tile.first_step * Config::kTileK};
  }

  template <class F>
  __device__ __forceinline__ void visit_majors(F&& f) const {
    constexpr MajorConstant<OperandMajor::kK> k;
    constexpr MajorConstant<OperandMajor::kMn> mn;
    if constexpr (sizeof(T) == 4) {
      f(k, k);
    } else if (a_mn_major) {
      b_mn_major ? f(mn, mn) : f(mn, k);
    } else {
      b_mn_major ? f(k, mn) : f(k, k);
    }
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1) gemm_wgmma_kernel(
    const __grid_constant__ GemmWgmmaWork<typename Config::Element, GemmWgmmaOutput<typename Config::Element>> work,
    const __grid_constant__ Epilogue epilogue) {
  wgmma_pipeline<Config>(work, epilogue);
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    gemm_split_wgmma_kernel(const __grid_constant__ GemmWgmmaWork<typename Config::Element, GemmWgmmaPartials> work) {
  wgmma_pipeline<Config>(work, WgmmaPartialSums());
}

// How TMA and wgmma see an operand of `rows` (M or N) x K elements.
struct WgmmaOperand {
  bool served;  // rows of 16-byte multiples lie in one of the two directions
  bool mn_major;
  int64_t outer_stride;  // of the other direction, in elements
};

constexpr int64_t kTmaBytes = 16;  // strides are multiples of it

// `multiple`: kTmaBytes in elements.
inline WgmmaOperand wgmma_operand(int64_t rows, int64_t K, int64_t stride_row, int64_t stride_k, int64_t multiple) {
  // A single row has no stride to speak of: the first multiple beyond its end.
  const auto outer = [multiple](int64_t extent, int64_t stride, int64_t inner) {
    return extent == 1 ? (inner + multiple - 1) / multiple * multiple : stride;
  };
  const auto good = [multiple](int64_t stride) { return stride > 0 && stride % multiple == 0; };
  const int64_t over_rows = outer(rows, stride_row, K), over_k = outer(K, stride_k, rows);
  if ((stride_k == 1 || K == 1) && good(over_rows)) return {true, false, over_rows};
  if ((stride_row == 1 || rows == 1) && good(over_k)) return {true, true, over_k};
  return {false, false, 0};
}

// How far the rows of D, or of a residual, lie apart where TMA can take them, two columns at a time, else 0.
inline int64_t tma_row_stride(const GemmCall& call, const void* data, int64_t stride_m, int64_t stride_n,
                              int64_t stride_batch) {
  const int64_t multiple = kTmaBytes / static_cast<int64_t>(dtype_size(call.dtype));
  const WgmmaOperand layout = wgmma_operand(call.M, call.N, stride_m, stride_n, multiple);
  const bool rows = layout.served && !layout.mn_major && call.N % 2 == 0;
  const bool batches = call.batch == 1 || (stride_batch > 0 && stride_batch % multiple == 0);
  return rows && batches && reinterpret_cast<uintptr_t>(data) % kTmaBytes == 0 ? layout.outer_stride : 0;
}
inline int64_t tma_row_stride(const GemmCall& call) {
  return tma_row_stride(call, call.d, call.d_stride_m, call.d_stride_n, call.d_stride_batch);
}
// A residual is a view of (batch, column, row).
inline int64_t tma_residual_stride(const GemmCall& call) {
  const TensorView& r = call.epilogue.residual;
  return r.present() ? tma_row_stride(call, r.data, r.stride[2], r.stride[1], r.stride[0]) : 0;
}

// All but the output.
template <class Config, class Output>
GemmWgmmaWork<typename Config::Element, Output> gemm_wgmma_work(const GemmCall& call, int parts) {
  using T = typename Config::Element;
  constexpr uint32_t kBlock = Config::kTileK;
  constexpr int64_t kMultiple = kTmaBytes / sizeof(T);
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  const auto operand_map = [&](const char* name, const void* data, const WgmmaOperand& layout, int64_t rows,
                               int64_t batch_stride, uint32_t tile_rows) {
    TensorMapSpec spec{data, call.dtype, 3, {}, {}, {}, kSwizzleBytes, Config::kTf32};
    const bool shared = call.batch == 1 || batch_stride == 0;
    spec.extent[0] = extent(layout.mn_major ? rows : call.K), spec.extent[1] = extent(layout.mn_major ? call.K : rows);
    spec.extent[2] = shared ? 1 : extent(call.batch);
    spec.stride[1] = extent(layout.outer_stride);
    spec.stride[2] = shared ? spec.extent[1] * spec.stride[1] : extent(batch_stride);
    spec.box[0] = kBlock, spec.box[1] = layout.mn_major ? kBlock : tile_rows, spec.box[2] = 1;
    return make_tensor_map(name, spec);
  };
  const WgmmaOperand a = wgmma_operand(call.M, call.K, call.a_stride_m, call.a_stride_k, kMultiple);
  const WgmmaOperand b = wgmma_operand(call.N, call.K, call.b_stride_n, call.b_stride_k, kMultiple);
  GemmWgmmaWork<T, Output> work = {};
  work.a = operand_map("a", call.a, a, call.M, call.a_stride_batch, Config::kTileM);
  work.b = operand_map("b", call.b, b, call.N, call.b_stride_batch, Config::kTileN / Config::kCluster);
  work.a_mn_major = a.mn_major, work.b_mn_major = b.mn_major;
  work.a_batched = call.batch > 1 && call.a_stride_batch != 0;
  work.b_batched = call.batch > 1 && call.b_stride_batch != 0;
  work.steps = static_cast<int>((call.K + Config::kTileK - 1) / Config::kTileK), work.parts = parts;
  constexpr int kRows = Config::kCluster * Config::kTileM;
  work.tiles_m = static_cast<int>((call.M + kRows - 1) / kRows);
  work.tiles_n = static_cast<int>((call.N + Config::kTileN - 1) / Config::kTileN);
  work.tiles = work.tiles_m * work.tiles_n * static_cast<int>(call.batch) * parts;
  return work;
}

template <class Config, class Epilogue>
void launch_gemm_wgmma(const GemmCall& call, const Epilogue& epilogue, const LaunchConfig& base, int multiprocessors) {
  using T = typename Config::Element;
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  const auto output_map = [&](const char* name, void* data, int64_t row_stride, int64_t batch_stride) {
    TensorMapSpec spec{data, call.dtype, 3, {}, {}, {}, kSwizzleBytes};
    spec.extent[0] = extent(call.N), spec.extent[1] = extent(call.M), spec.extent[2] = extent(call.batch);
    spec.stride[1] = extent(row_stride);
    spec.stride[2] = call.batch == 1 ? spec.extent[1] * spec.stride[1] : extent(batch_stride);
    spec.box[0] = Config::kChunkN, spec.box[1] = Config::kWgmmaM, spec.box[2] = 1;
    return make_tensor_map(name, spec);
  };
  auto work = gemm_wgmma_work<Config, GemmWgmmaOutput<T>>(call, 1);
  GemmWgmmaOutput<T>& out = work.output;
  out.rows = static_cast<int>(call.M), out.columns = static_cast<int>(call.N);
  out.data = static_cast<T*>(call.d);
  out.stride_batch = call.d_stride_batch, out.stride_row = call.d_stride_m, out.stride_column = call.d_stride_n;
  out.by_tma = Epilogue::kUnrolled && tma_row_stride(call) > 0;
  if (out.by_tma) out.map = output_map("d", call.d, tma_row_stride(call), call.d_stride_batch);
  if constexpr (kFetchesResidual<Epilogue>) {
    const TensorView& residual = call.epilogue.residual;
    out.residual = output_map("residual", residual.data, tma_residual_stride(call), residual.stride[0]);
  }
  launch_wgmma<Config, gemm_wgmma_kernel<Config, Epilogue>>(Config::kPingPong ? "gemm_wgmma_ping_pong" : "gemm_wgmma",
                                                            base, work.tiles, multiprocessors, work, epilogue);
}

// Sums of `parts` parts to `partials`, whose rows are `columns` apart.
template <class Config>
void launch_gemm_wgmma_parts(const GemmCall& call, int parts, float* partials, int64_t columns,
                             const LaunchConfig& base, int multiprocessors) {
  auto work = gemm_wgmma_work<Config, GemmWgmmaPartials>(call, parts);
  work.output = {partials, static_cast<int>(call.M), static_cast<int>(columns), static_cast<int>(call.batch)};
  launch_wgmma<Config, gemm_split_wgmma_kernel<Config>>("gemm_wgmma_parts", base, work.tiles, multiprocessors, work);
}

}  // namespace fastconv::cuda
