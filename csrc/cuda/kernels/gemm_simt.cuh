// D[b] = epilogue(A[b] * B[b]) on CUDA cores, for any extents and strides. A block owns a kTileM x kTileN tile of D and
// walks K in steps of kTileK through two shared-memory buffers: while one is multiplied, the next lies in registers on
// its way from global memory. A thread owns kThreadM x kThreadN values as groups of one pack, spread over the tile:
//
//      <------ kTileN ------>          The groups of a thread lie kTileM / groups rows (and kTileN / groups columns)
//    ^ +---+-----+---+-----+          apart, so that a warp's reads of one shared-memory row are consecutive packs:
//    | | t |     | t |     |          no bank conflicts.
//  kTileM--+-----+---+-----+
//    | | t |     | t |     |          Shared memory holds the accumulate type, both tiles with K outermost.
//    v +---+-----+---+-----+
//
// Grid: x the tiles, y the parts of a split K (partial sums then go to the workspace), z the batch.
#pragma once

#include "../../common/calls.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"
#include "tile_raster.cuh"

namespace fastconv::cuda {

template <class T, int kTileM_, int kTileN_, int kTileK_, int kThreadM_, int kThreadN_>
struct GemmSimtConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kTileK = kTileK_;
  static constexpr int kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kThreadsM = kTileM / kThreadM, kThreadsN = kTileN / kThreadN;
  static constexpr int kThreads = kThreadsM * kThreadsN;
  static constexpr int kPack = kPackSize<Acc>;  // elements of a shared-memory access
  static constexpr int kGroupsM = kThreadM / kPack, kGroupsN = kThreadN / kPack;
  // One pack of padding: the transposing stores of a warp (rows in the lanes, kPack apart in K) then fall into
  // different banks, and rows stay aligned to packs.
  static constexpr int kRowA = kTileM + kPack, kRowB = kTileN + kPack;
  // Where in line k of a tile a row lies. With 16 lines, four transposing stores would meet in two places: the upper
  // eight lines are twisted.
  __device__ static constexpr int place(int row, int k) { return row ^ (k & 8); }
  // Blocks on one multiprocessor: leaves 128 registers a thread. Without the bound ptxas aims higher and spills.
  static constexpr int kMinBlocks = 512 / kThreads;

  static_assert(kThreadM % kPack == 0 && kThreadN % kPack == 0, "a thread owns whole packs");
  static_assert(kTileM * kTileK == kThreads * kPack, "a thread loads one pack of A a step");
  static_assert(kTileN * kTileK == kThreads * kPack, "a thread loads one pack of B a step");
  static_assert(kTileM % 16 == 0 && kTileN % 16 == 0, "place() stays inside a line");
  static_assert(kThreads % kTileN == 0, "in the epilogue a thread keeps to one column");
  static_assert(kThreadsM * kTileN <= 2 * kTileK * kRowA, "the epilogue stages one slice in A's buffers");
};

template <class T>
struct GemmSimtParams {
  int64_t first_batch;  // of this launch
  int M, N, K;
  int tiles_m, tiles_n;
  int split_depth;  // K of one part of a split, a multiple of kTileK; without a split K or more
  const T* a;
  const T* b;
  T* d;
  int64_t a_stride_batch, a_stride_m, a_stride_k;  // strides in elements
  int64_t b_stride_batch, b_stride_k, b_stride_n;
  int64_t d_stride_batch, d_stride_m, d_stride_n;
  // Packs run along K (else along M, N); they may be loaded whole.
  bool a_along_k, a_packs, b_along_k, b_packs;
  accumulate_t<T>* partials;  // null: no split. Else (split, batch, M, N)
  int64_t batches;            // of the whole call
};

// Moves a kRows x kTileK tile of one operand: global memory -> registers -> shared memory [K][row]. A thread moves one
// pack, which lies along K or along the rows; packs are dealt out in order, first along the direction they lie in.
template <class Config, int kRows, int kRowStride>
class GemmTileLoader {
  using T = typename Config::Element;
  using Acc = typename Config::Acc;
  static constexpr int kPack = Config::kPack;

 public:
  // The tile starts at row `row0` of `rows`. Strides in elements.
  __device__ GemmTileLoader(const T* operand, int64_t stride_row, int64_t stride_k, int row0, int rows, bool along_k)
      : next_(operand + (row0 + row(along_k)) * stride_row + k(along_k) * stride_k),
        rows_left_(rows - row0 - row(along_k)) {}

  // Loads from the next tile along K, of which `depth_left` elements of the reduction lie in the operand and beyond.
  // What lies outside the operand is zero. `packs`: a pack inside the operand may be loaded whole.
  __device__ __forceinline__ void fetch(int depth_left, int64_t stride_row, int64_t stride_k, bool along_k,
                                        bool packs) {
    const int k_left = depth_left - k(along_k);
    const int left = along_k ? (rows_left_ > 0 ? k_left : 0) : (k_left > 0 ? rows_left_ : 0);
    if (packs && left >= kPack) {
      staged_ = load_pack<kPack>(next_);
    } else {
      const int64_t stride = along_k ? stride_k : stride_row;
#pragma unroll
      for (int e = 0; e < kPack; ++e) staged_.value[e] = e < left ? next_[e * stride] : T{};
    }
    next_ += Config::kTileK * stride_k;
  }

  __device__ __forceinline__ void store(Acc (&tile)[Config::kTileK][kRowStride], bool along_k) const {
    Pack<Acc, kPack> v;
#pragma unroll
    for (int e = 0; e < kPack; ++e) v.value[e] = to_accumulate(staged_.value[e]);
    if (along_k) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) tile[k(along_k) + e][Config::place(row(along_k), k(along_k))] = v.value[e];
    } else {
      store_pack<kPack>(&tile[k(along_k)][Config::place(row(along_k), k(along_k))], v);
    }
  }

 private:
  // Place of the pack in the tile. Recomputed where it is needed, as extents, strides and flags are read again from the
  // parameters: the main loop has no register to spare.
  __device__ static int row(bool along_k) {
    const int thread = static_cast<int>(threadIdx.x);
    return along_k ? thread / (Config::kTileK / kPack) : thread % (kRows / kPack) * kPack;
  }
  __device__ static int k(bool along_k) {
    const int thread = static_cast<int>(threadIdx.x);
    return along_k ? thread % (Config::kTileK / kPack) * kPack : thread / (kRows / kPack);
  }

  const T* next_;
  int rows_left_;  // in the operand, from the pack on
  Pack<T, kPack> staged_;
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    gemm_simt_kernel(const GemmSimtParams<typename Config::Element> params, const Epilogue epilogue) {
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kTileK = Config::kTileK;
  constexpr int kStepM = Config::kTileM / Config::kGroupsM, kStepN = Config::kTileN / Config::kGroupsN;
  __shared__ __align__(16) Acc tile_a[2][kTileK][Config::kRowA];
  __shared__ __align__(16) Acc tile_b[2][kTileK][Config::kRowB];
  // Set aside for the epilogue: the main loop has no register to spare.
  __shared__ int origin_m, origin_n;

  const int thread = static_cast<int>(threadIdx.x);
  const int thread_m = thread / Config::kThreadsN * kPack, thread_n = thread % Config::kThreadsN * kPack;

  const TilePlace tile = raster_tile(static_cast<int>(blockIdx.x), params.tiles_m, params.tiles_n);
  const int m0 = tile.row * Config::kTileM, n0 = tile.column * Config::kTileN;
  if (thread == 0) origin_m = m0, origin_n = n0;

  const int64_t batch = params.first_batch + blockIdx.z;
  const int k0 = static_cast<int>(blockIdx.y) * params.split_depth;
  const int depth = min(params.K - k0, params.split_depth);
  GemmTileLoader<Config, Config::kTileM, Config::kRowA> load_a(
      params.a + batch * params.a_stride_batch + k0 * params.a_stride_k, params.a_stride_m, params.a_stride_k, m0,
      params.M, params.a_along_k);
  GemmTileLoader<Config, Config::kTileN, Config::kRowB> load_b(
      params.b + batch * params.b_stride_batch + k0 * params.b_stride_k, params.b_stride_n, params.b_stride_k, n0,
      params.N, params.b_along_k);
  const auto fetch = [&](int depth_left) {
    load_a.fetch(depth_left, params.a_stride_m, params.a_stride_k, params.a_along_k, params.a_packs);
    load_b.fetch(depth_left, params.b_stride_n, params.b_stride_k, params.b_along_k, params.b_packs);
  };
  const auto store = [&](int stage) {
    load_a.store(tile_a[stage], params.a_along_k);
    load_b.store(tile_b[stage], params.b_along_k);
  };
  Acc acc[Config::kThreadM][Config::kThreadN] = {};
  fetch(depth);
  store(0);
  __syncthreads();
  int stage = 0;
  for (int depth_left = depth; depth_left > 0; depth_left -= kTileK, stage ^= 1) {
    const bool more = depth_left > kTileK;
    if (more) fetch(depth_left - kTileK);
#pragma unroll
    for (int k = 0; k < kTileK; ++k) {
      Pack<Acc, kPack> a[Config::kGroupsM], b[Config::kGroupsN];
#pragma unroll
      for (int g = 0; g < Config::kGroupsM; ++g)
        a[g] = load_pack<kPack>(&tile_a[stage][k][Config::place(thread_m + g * kStepM, k)]);
#pragma unroll
      for (int g = 0; g < Config::kGroupsN; ++g)
        b[g] = load_pack<kPack>(&tile_b[stage][k][Config::place(thread_n + g * kStepN, k)]);
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kThreadN; ++j) {
          acc[i][j] += a[i / kPack].value[i % kPack] * b[j / kPack].value[j % kPack];
        }
      }
    }
    // The other buffer was last read before the previous barrier, so one barrier a step is enough.
    if (more) {
      store(stage ^ 1);
      __syncthreads();
    }
  }

  // Slice i of the tile, one row of every thread, goes through shared memory: consecutive threads then hold consecutive
  // columns, whatever the epilogue reads is read coalesced, and its code appears once, not kThreadM * kThreadN times.
  Acc* slice = &tile_a[0][0][0];
  const int column = thread % Config::kTileN;
  const int n = origin_n + column;
  const auto channel = epilogue.channel(min(n, params.N - 1));
#pragma unroll
  for (int i = 0; i < Config::kThreadM; ++i) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < Config::kThreadN; j += kPack) {
      Pack<Acc, kPack> v;
#pragma unroll
      for (int e = 0; e < kPack; ++e) v.value[e] = acc[i][j + e];
      store_pack<kPack>(&slice[thread / Config::kThreadsN * Config::kTileN + thread_n + j / kPack * kStepN], v);
    }
    __syncthreads();
#pragma unroll 1
    for (int row = thread / Config::kTileN; row < Config::kThreadsM; row += Config::kThreads / Config::kTileN) {
      const int m = origin_m + row * kPack + i / kPack * kStepM + i % kPack;
      if (m >= params.M || n >= params.N) continue;
      if (params.partials) {
        params.partials[((blockIdx.y * params.batches + batch) * params.M + m) * params.N + n] =
            slice[row * Config::kTileN + column];
      } else {
        params.d[batch * params.d_stride_batch + m * params.d_stride_m + n * params.d_stride_n] =
            epilogue.finish(channel, slice[row * Config::kTileN + column], batch, n, m, 0);
      }
    }
  }
}

// `splits` parts of K, more than one if `partials` is given: (splits, batch, M, N).
template <class Config, class Epilogue>
void launch_gemm_simt(const GemmCall& call, const Epilogue& epilogue, int splits, typename Config::Acc* partials,
                      const LaunchConfig& base) {
  using T = typename Config::Element;
  constexpr int kPack = Config::kPack;
  const auto aligned = [&](const void* p, int64_t batch_stride, int64_t outer_stride) {
    return pack_aligned(static_cast<const T*>(p), kPack) && outer_stride % kPack == 0 &&
           (call.batch == 1 || batch_stride % kPack == 0);
  };
  GemmSimtParams<T> params;
  params.M = static_cast<int>(call.M);
  params.N = static_cast<int>(call.N);
  params.K = static_cast<int>(call.K);
  params.tiles_m = (params.M + Config::kTileM - 1) / Config::kTileM;
  params.tiles_n = (params.N + Config::kTileN - 1) / Config::kTileN;
  const int steps = (params.K + Config::kTileK - 1) / Config::kTileK;
  params.split_depth = (steps + splits - 1) / splits * Config::kTileK;
  params.partials = partials;
  params.batches = call.batch;
  params.a = static_cast<const T*>(call.a);
  params.b = static_cast<const T*>(call.b);
  params.d = static_cast<T*>(call.d);
  params.a_stride_batch = call.a_stride_batch;
  params.a_stride_m = call.a_stride_m;
  params.a_stride_k = call.a_stride_k;
  params.b_stride_batch = call.b_stride_batch;
  params.b_stride_k = call.b_stride_k;
  params.b_stride_n = call.b_stride_n;
  params.d_stride_batch = call.d_stride_batch;
  params.d_stride_m = call.d_stride_m;
  params.d_stride_n = call.d_stride_n;
  params.a_along_k = call.a_stride_k == 1 || call.a_stride_m != 1;
  params.a_packs = params.a_along_k ? call.a_stride_k == 1 && aligned(call.a, call.a_stride_batch, call.a_stride_m)
                                    : aligned(call.a, call.a_stride_batch, call.a_stride_k);
  params.b_along_k = call.b_stride_n != 1;
  params.b_packs = params.b_along_k ? call.b_stride_k == 1 && aligned(call.b, call.b_stride_batch, call.b_stride_n)
                                    : aligned(call.b, call.b_stride_batch, call.b_stride_k);

  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  constexpr int64_t kMaxGridZ = 65535;
  for (params.first_batch = 0; params.first_batch < call.batch; params.first_batch += kMaxGridZ) {
    const int64_t batches = call.batch - params.first_batch;
    config.grid = dim3(static_cast<unsigned>(params.tiles_m) * static_cast<unsigned>(params.tiles_n),
                       static_cast<unsigned>(splits), static_cast<unsigned>(batches < kMaxGridZ ? batches : kMaxGridZ));
    launch("gemm_simt", config, gemm_simt_kernel<Config, Epilogue>, params, epilogue);
  }
}

}  // namespace fastconv::cuda
