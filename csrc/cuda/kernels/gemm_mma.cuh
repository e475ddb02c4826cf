// D[b] = epilogue(A[b] * B[b]) on tensor cores (mma.sync): the main loop of mma_main_loop.cuh over plain matrices.
// Transposed operands are not copied: whichever of their strides is 1 decides the shared-memory layout, and ldmatrix
// transposes on the way to registers. Grid: x the tiles, in groups of rows that share the L2 cache; y the parts of a
// split K; z the batch.
#pragma once

#include "../../common/calls.h"
#include "mma_output.cuh"
#include "tile_raster.cuh"

namespace fastconv::cuda {

// Copies whole 16-byte chunks: rows (or, for Major::kMN, values of k) lie aligned, and chunks lie inside the operand or
// outside, never across its border.
template <class Tile>
class ChunkLoader {
  using T = typename Tile::Element;
  static constexpr bool kAlongK = Tile::kMajor == Major::kK;

 public:
  // From (row0, k0) on, of an operand with `rows` rows whose reduction ends at `k_end`. Strides in elements; the one
  // along the chunk is 1.
  __device__ ChunkLoader(const T* operand, int64_t stride_row, int64_t stride_k, int row0, int rows, int k0, int k_end)
      : next_(operand + (row0 + Tile::row(0)) * stride_row + (k0 + Tile::k(0)) * stride_k),
        stride_slot_(Tile::kLinesApart * (kAlongK ? stride_row : stride_k)),
        rows_left_(rows - row0 - Tile::row(0)),
        k_left_(k_end - k0 - Tile::k(0)) {}

  __device__ __forceinline__ void load(int slot, void* shared) const {
    const int lines = slot * Tile::kLinesApart;
    const bool inside = kAlongK ? rows_left_ > lines && k_left_ > 0 : rows_left_ > 0 && k_left_ > lines;
    cp_async_16(shared, next_ + slot * stride_slot_, inside);
  }

  __device__ __forceinline__ void advance() {
    next_ += kAlongK ? Tile::kDepth : Tile::kDepth / Tile::kLinesApart * stride_slot_;
    k_left_ -= Tile::kDepth;
  }

 private:
  const T* next_;
  int64_t stride_slot_;
  int rows_left_, k_left_;  // in the operand, from the first slot's chunk on
};

// Copies element by element: any strides, any alignment, any border. For Major::kK tiles, whatever the operand's order.
template <class Tile>
class ElementLoader {
  using T = typename Tile::Element;
  static constexpr int kChunk = Tile::kChunk;
  static_assert(Tile::kMajor == Major::kK, "the order in memory does not matter here");

 public:
  __device__ ElementLoader(const T* operand, int64_t stride_row, int64_t stride_k, int row0, int rows, int k0,
                           int k_end)
      : next_(operand + (row0 + Tile::row(0)) * stride_row + (k0 + Tile::k(0)) * stride_k),
        stride_slot_(Tile::kLinesApart * stride_row),
        stride_k_(stride_k),
        rows_left_(rows - row0 - Tile::row(0)),
        k_left_(k_end - k0 - Tile::k(0)) {}

  __device__ __forceinline__ void load(int slot, void* shared) const {
    const T* from = next_ + slot * stride_slot_;
    const int left = rows_left_ > slot * Tile::kLinesApart ? k_left_ : 0;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) cp_async_4(static_cast<T*>(shared) + e, from + e * stride_k_, left > e);
    } else {
      // There is no asynchronous copy of two bytes.
      Pack<T, kChunk> chunk;
#pragma unroll
      for (int e = 0; e < kChunk; ++e) chunk.value[e] = left > e ? from[e * stride_k_] : T{};
      store_pack<kChunk>(static_cast<T*>(shared), chunk);
    }
  }

  __device__ __forceinline__ void advance() {
    next_ += Tile::kDepth * stride_k_;
    k_left_ -= Tile::kDepth;
  }

 private:
  const T* next_;
  int64_t stride_slot_, stride_k_;
  int rows_left_, k_left_;
};

template <class T>
struct GemmMmaParams {
  int64_t first_batch;  // of this launch
  int M, N, K;
  int tiles_m, tiles_n;
  int split_depth;  // K of one part of a split: a multiple of the tile's. Without a split: K or more
  const T* a;
  const T* b;
  int64_t a_stride_batch, a_stride_m, a_stride_k;  // strides in elements
  int64_t b_stride_batch, b_stride_k, b_stride_n;
  int64_t d_stride_batch, d_stride_m;
  int64_t batches;  // of the whole call
  MmaOutput<T> output;
};

template <class Config, template <class> class Loader>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    gemm_mma_kernel(const __grid_constant__ GemmMmaParams<typename Config::Element> params) {
  unsigned char* shared = dynamic_shared_memory();
  const TilePlace tile = raster_tile(static_cast<int>(blockIdx.x), params.tiles_m, params.tiles_n);
  const int m0 = tile.row * Config::kTileM, n0 = tile.column * Config::kTileN;
  const int64_t batch = params.first_batch + blockIdx.z;
  const int k0 = static_cast<int>(blockIdx.y) * params.split_depth;
  const int k_end = min(params.K - k0, params.split_depth) + k0;

  typename Config::Accumulators acc;
  {
    Loader<typename Config::TileA> load_a(params.a + batch * params.a_stride_batch, params.a_stride_m,
                                          params.a_stride_k, m0, params.M, k0, k_end);
    Loader<typename Config::TileB> load_b(params.b + batch * params.b_stride_batch, params.b_stride_n,
                                          params.b_stride_k, n0, params.N, k0, k_end);
    const int steps = (k_end - k0 + Config::kTileK - 1) / Config::kTileK;
    mma_main_loop<Config>(load_a, load_b, steps, shared, acc);
  }
  store_mma_tile<Config>(acc, shared, params.output, n0, [&](int tile_row) {
    const int m = m0 + tile_row;
    MmaRow row;
    row.valid = m < params.M;
    row.offset = batch * params.d_stride_batch + m * params.d_stride_m;
    row.n = batch, row.p = m, row.q = 0;
    row.partial = ((blockIdx.y * params.batches + batch) * params.M + m) * params.N;
    return row;
  });
}

// `splits` parts of K, more than one if `partials` is given: (splits, batch, M, N) sums in float. The footprint is the
// caller's.
template <class Config, template <class> class Loader>
void launch_gemm_mma(const GemmCall& call, int splits, float* partials, const LaunchConfig& base) {
  using T = typename Config::Element;
  constexpr int64_t kVector = 16 / sizeof(T);
  GemmMmaParams<T> params;
  params.M = static_cast<int>(call.M), params.N = static_cast<int>(call.N), params.K = static_cast<int>(call.K);
  params.tiles_m = (params.M + Config::kTileM - 1) / Config::kTileM;
  params.tiles_n = (params.N + Config::kTileN - 1) / Config::kTileN;
  const int steps = (params.K + Config::kTileK - 1) / Config::kTileK;
  params.split_depth = (steps + splits - 1) / splits * Config::kTileK;
  params.a = static_cast<const T*>(call.a), params.b = static_cast<const T*>(call.b);
  params.a_stride_batch = call.a_stride_batch, params.a_stride_m = call.a_stride_m, params.a_stride_k = call.a_stride_k;
  params.b_stride_batch = call.b_stride_batch, params.b_stride_k = call.b_stride_k, params.b_stride_n = call.b_stride_n;
  params.d_stride_batch = call.d_stride_batch, params.d_stride_m = call.d_stride_m;
  params.batches = call.batch;
  params.output = {static_cast<T*>(call.d), call.d_stride_n, call.N,       0, false,
                   call.d_stride_m == 1,    partials,        call.epilogue};
  params.output.vectors = mma_vectors(params.output, (call.M == 1 || call.d_stride_m % kVector == 0) &&
                                                         (call.batch == 1 || call.d_stride_batch % kVector == 0));

  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  config.dynamic_shared_bytes = Config::kSharedBytes;
  constexpr int64_t kMaxGridZ = 65535;
  for (params.first_batch = 0; params.first_batch < call.batch; params.first_batch += kMaxGridZ) {
    const int64_t batches = call.batch - params.first_batch;
    config.grid = dim3(static_cast<unsigned>(params.tiles_m) * static_cast<unsigned>(params.tiles_n),
                       static_cast<unsigned>(splits), static_cast<unsigned>(batches < kMaxGridZ ? batches : kMaxGridZ));
    launch("gemm_mma", config, gemm_mma_kernel<Config, Loader>, params);
  }
}

}  // namespace fastconv::cuda
