// D[b] = epilogue(A[b] * B[b]) on Hopper's warpgroup tensor cores, operands fetched by TMA. A block lives as long as
// the launch and takes every gridDim.x-th tile of D. One warpgroup produces: a single thread fetches 64 elements of K
// of the tile's rows of A and columns of B at a time into a ring of stages. Two warpgroups consume, each half the
// tile's rows:
//
//        kTileN                      full[s]    the stage's bytes have landed        producer's copies -> consumers
//      +--------+ ^                  empty[s]   all consumer warps are through it    consumers -> producer
//      |  wg 1  | 64 rows
//      +--------+                    Fetching runs up to kStages ahead, also into the next tile while the consumers
//      |  wg 2  | 64 rows            are in this one's epilogue.
//      +--------+ v
//
// Transposed operands are not copied: whichever of an operand's directions is contiguous decides its shared-memory
// layout, which wgmma takes as it is. Borders of M, N and K are TMA's: zeros on the way in, nothing on the way out.
#pragma once

#include "../../common/calls.h"
#include "../primitives/elect.cuh"
#include "../primitives/epilogue.cuh"
#include "../primitives/launch.h"
#include "../primitives/mbarrier.cuh"
#include "../primitives/named_barrier.cuh"
#include "../primitives/opaque.cuh"
#include "../primitives/pack.cuh"
#include "../primitives/register_budget.cuh"
#include "../primitives/tensor_map.h"
#include "../primitives/tma.cuh"
#include "../primitives/wgmma.cuh"
#include "tile_raster.cuh"

namespace fastconv::cuda {

template <class T, int kTileN_, int kStages_>
struct GemmWgmmaConfig {
  using Element = T;
  static constexpr int kTileM = 128, kTileN = kTileN_, kTileK = 64;
  static constexpr int kStages = kStages_;
  static constexpr int kConsumers = 2, kWarpgroup = 128;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kConsumerM = kTileM / kConsumers;
  static constexpr int kAccumulators = kTileN / 2;  // of a consumer thread
  // Of 168 each that 384 threads start with: the producer needs hardly any, and both sum to the same.
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  // Columns that leave together: one row of them is one row of the swizzle.
  static constexpr int kChunkN = kSwizzleBytes / sizeof(T);
  static constexpr int kStageBytes = (kTileM + kTileN) * kTileK * static_cast<int>(sizeof(T));

  static_assert(sizeof(T) == 2, "MN-major operands are for 16-bit types only");
  static_assert(kTileK * sizeof(T) == kSwizzleBytes, "a K-major row is one row of the swizzle");
  static_assert(kConsumerM == 64, "wgmma has 64 rows");
  static_assert(kTileN % kChunkN == 0 && kTileN <= 256, "one TMA box, one wgmma");
};

// Lies at the start of dynamic shared memory, on a boundary of the swizzle pattern, as does every tile in it.
template <class Config>
struct alignas(kSwizzlePatternBytes) GemmWgmmaShared {
  static constexpr int kRowBytes = kSwizzleBytes;
  unsigned char a[Config::kStages][Config::kTileM * kRowBytes];
  unsigned char b[Config::kStages][Config::kTileN * kRowBytes];
  // On the way out; two for each consumer, so that one is filled while the other is read.
  unsigned char chunk[Config::kConsumers][2][Config::kConsumerM * kRowBytes];
  uint64_t full[Config::kStages], empty[Config::kStages];
};

template <class T>
struct GemmWgmmaParams {
  TensorMap a, b, d;
  int M, N, K;
  int tiles_m, tiles_n, tiles;  // tiles: of the whole batch
  bool a_mn_major, b_mn_major;
  bool a_batched, b_batched;  // else all products share the operand
  bool store_by_tma;
  T* d_data;
  int64_t d_stride_batch, d_stride_m, d_stride_n;  // in elements
};

namespace wgmma_detail {

// Where in the ring a warpgroup is, and the parity of that round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

struct TileOrigin {
  int batch, m, n;
};

template <class Config, class Params>
__device__ __forceinline__ TileOrigin tile_origin(const Params& params, int tile) {
  const int tiles_of_product = params.tiles_m * params.tiles_n;
  const TilePlace place = raster_tile(tile % tiles_of_product, params.tiles_m, params.tiles_n);
  return {tile / tiles_of_product, place.row * Config::kTileM, place.column * Config::kTileN};
}

// kRows rows of A, or columns of B, from `row` on, and 64 elements of K. A box has at most one swizzled row's elements
// along the contiguous direction.
template <class Config, int kRows>
__device__ __forceinline__ void fetch(unsigned char* tile, const TensorMap* map, uint64_t* full, bool mn_major, int row,
                                      int k, int batch) {
  if (!mn_major) {
    tma_load_3d(tile, map, full, k, row, batch);
    return;
  }
  constexpr int kBlock = Config::kTileK;
#pragma unroll
  for (int r = 0; r < kRows; r += kBlock) {
    tma_load_3d(tile + r * kSwizzleBytes, map, full, row + r, k, batch);
  }
}

template <class Config, class Params>
__device__ __forceinline__ void produce(const Params& params, GemmWgmmaShared<Config>& shared) {
  RingPlace<Config::kStages> place;
  for (int tile = static_cast<int>(blockIdx.x); tile < params.tiles; tile += static_cast<int>(gridDim.x)) {
    const TileOrigin origin = tile_origin<Config>(params, tile);
    const int a_batch = params.a_batched ? origin.batch : 0, b_batch = params.b_batched ? origin.batch : 0;
    for (int k = 0; k < params.K; k += Config::kTileK, place.advance()) {
      uint64_t* full = &shared.full[place.stage];
      mbarrier_wait(&shared.empty[place.stage], place.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kStageBytes);
      fetch<Config, Config::kTileM>(shared.a[place.stage], &params.a, full, params.a_mn_major, origin.m, k, a_batch);
      fetch<Config, Config::kTileN>(shared.b[place.stage], &params.b, full, params.b_mn_major, origin.n, k, b_batch);
    }
  }
}

// acc = the consumer's rows of the tile. One group of products is always in flight: a stage is given back when the next
// one's are under way.
template <class Config, OperandMajor kMajorA, OperandMajor kMajorB>
__device__ __forceinline__ void multiply(float (&acc)[Config::kAccumulators], GemmWgmmaShared<Config>& shared,
                                         RingPlace<Config::kStages>& place, int steps, int consumer) {
  const auto release = [&](int stage) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&shared.empty[stage]);
  };
  int previous = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step, place.advance()) {
    mbarrier_wait(&shared.full[place.stage], place.parity);
    const uint64_t a = matrix_descriptor<kMajorA>(shared.a[place.stage] + consumer * Config::kConsumerM * kSwizzleBytes,
                                                  Config::kTileK);
    const uint64_t b = matrix_descriptor<kMajorB>(shared.b[place.stage], Config::kTileK);
    wgmma_fence(acc);
#pragma unroll
    for (int i = 0; i < Config::kTileK / 16; ++i) {
      wgmma_k16<typename Config::Element, kMajorA, kMajorB>(acc, a + i * kDescriptorStep<kMajorA>,
                                                            b + i * kDescriptorStep<kMajorB>, step > 0 || i > 0);
    }
    wgmma_commit();
    if (step > 0) {
      wgmma_wait<1>();
      release(previous);
    }
    previous = place.stage;
  }
  wgmma_wait<0>(acc);
  release(previous);
}

template <class Config>
__device__ __forceinline__ void multiply(float (&acc)[Config::kAccumulators], GemmWgmmaShared<Config>& shared,
                                         RingPlace<Config::kStages>& place, int steps, int consumer, bool a_mn_major,
                                         bool b_mn_major) {
  constexpr auto kK = OperandMajor::kK, kMn = OperandMajor::kMn;
  if (a_mn_major) {
    b_mn_major ? multiply<Config, kMn, kMn>(acc, shared, place, steps, consumer)
               : multiply<Config, kMn, kK>(acc, shared, place, steps, consumer);
  } else {
    b_mn_major ? multiply<Config, kK, kMn>(acc, shared, place, steps, consumer)
               : multiply<Config, kK, kK>(acc, shared, place, steps, consumer);
  }
}

// All threads of one consumer; barrier numbers are constants.
__device__ __forceinline__ void consumer_barrier(int consumer) {
  consumer == 0 ? named_barrier_sync<1>(128) : named_barrier_sync<2>(128);
}

// Chunk by chunk of columns: registers -> epilogue -> shared memory, in the swizzle that TMA expects -> D. The eight
// rows that a warp writes at once fall into different banks thanks to it. `stored` counts the consumer's chunks, whose
// two buffers take turns from tile to tile, too.
template <class Config, class Params, class Epilogue>
__device__ __forceinline__ void store_by_tma(const float (&acc)[Config::kAccumulators], const Params& params,
                                             GemmWgmmaShared<Config>& shared, const Epilogue& epilogue,
                                             const TileOrigin& origin, int consumer, int& stored) {
  using T = typename Config::Element;
  const int m = origin.m + consumer * Config::kConsumerM;
#pragma unroll
  for (int c = 0; c < Config::kTileN / Config::kChunkN; ++c) {
    const int n0 = origin.n + c * Config::kChunkN;
    if (n0 >= params.N) break;
    // Addresses are computed anew for every chunk: there are no registers to keep them in.
    stored = opaque(stored + 1);
    const int thread = opaque(static_cast<int>(threadIdx.x) % Config::kWarpgroup);
    const int row = thread / 32 * 16 + thread % 32 / 4;
    unsigned char* chunk = shared.chunk[consumer][stored & 1];
    if (thread == 0) tma_wait_stores_read<1>();  // the store before the last was this buffer's
    consumer_barrier(consumer);
#pragma unroll
    for (int j = 0; j < Config::kChunkN / 8; ++j) {
      const int n = min(n0 + j * 8 + thread % 4 * 2, params.N - 2);  // N is even here
      const typename Epilogue::Channel channels[2] = {epilogue.channel(n), epilogue.channel(n + 1)};
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // rows row and row + 8
        const float* sums = &acc[(c * Config::kChunkN / 8 + j) * 4 + half * 2];
        Pack<T, 2> pair;
        for (int e = 0; e < 2; ++e) pair.value[e] = from_accumulate<T>(epilogue.value(channels[e], sums[e]));
        const int line = row + half * 8;
        store_pack<2>(
            reinterpret_cast<T*>(chunk + line * kSwizzleBytes + ((j ^ line % 8) * 16 + thread % 4 * sizeof(pair))),
            pair);
      }
    }
    fence_proxy_async();
    consumer_barrier(consumer);
    if (thread == 0) {
      tma_store_3d(&params.d, chunk, n0, m, origin.batch);
      tma_commit_stores();
    }
  }
}

// Any strides, any epilogue: a warp's 16 rows of a chunk pass through its part of shared memory as floats, after which
// lanes hold neighbouring columns, and the epilogue's code stands in one place.
template <class Config, class Params, class Epilogue>
__device__ __forceinline__ void store_elements(const float (&acc)[Config::kAccumulators], const Params& params,
                                               GemmWgmmaShared<Config>& shared, const Epilogue& epilogue,
                                               const TileOrigin& origin, int consumer) {
  constexpr int kRows = 16, kChunkN = Config::kChunkN;
  static_assert(sizeof(shared.chunk[0]) == 4 * kRows * kChunkN * sizeof(float), "a slice for each of the four warps");
  const int warp = static_cast<int>(threadIdx.x) % Config::kWarpgroup / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float* slice = reinterpret_cast<float*>(shared.chunk[consumer]) + warp * kRows * kChunkN;
  // Groups of 8 columns change places with the row: the 8 rows that a warp writes at once would share their banks.
  const auto at = [slice](int row, int column) { return slice + row * kChunkN + (column ^ row % 8 * 8); };
  const int m0 = origin.m + consumer * Config::kConsumerM + warp * kRows;
#pragma unroll 1
  for (int c = 0; c < Config::kTileN / kChunkN; ++c) {
    const int n0 = origin.n + c * kChunkN;
    if (n0 >= params.N) break;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Config::kAccumulators; i += 2) {
      if (i / (kChunkN / 2) != c) continue;  // registers cannot be indexed by a run-time value
      const int j = i / 4 % (kChunkN / 8), row = lane / 4 + i / 2 % 2 * 8;
      store_pack<2>(at(row, j * 8 + lane % 4 * 2), Pack<float, 2>{{acc[i], acc[i + 1]}});
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < kRows * kChunkN / 32; ++i) {
      const int row = i / (kChunkN / 32), column = i % (kChunkN / 32) * 32 + lane;
      const int m = m0 + row, n = n0 + column;
      if (m >= params.M || n >= params.N) continue;
      params.d_data[origin.batch * params.d_stride_batch + m * params.d_stride_m + n * params.d_stride_n] =
          epilogue.finish(epilogue.channel(n), *at(row, column), origin.batch, n, m, 0);
    }
  }
}

}  // namespace wgmma_detail

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ GemmWgmmaParams<typename Config::Element> params,
                      const __grid_constant__ Epilogue epilogue) {
  using namespace wgmma_detail;
  auto& shared = *reinterpret_cast<GemmWgmmaShared<Config>*>(dynamic_shared_memory());
  const int thread = static_cast<int>(threadIdx.x), warpgroup = thread / Config::kWarpgroup;
  if (thread == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      mbarrier_init(&shared.full[stage], 1);                           // the producer's, and bytes
      mbarrier_init(&shared.empty[stage], Config::kThreads / 32 - 4);  // one for each consumer warp
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (warpgroup == 0) {
    release_registers<Config::kProducerRegisters>();
    if (thread / 32 == 0 && elect_one()) produce(params, shared);
    return;
  }
  claim_registers<Config::kConsumerRegisters>();
  const int consumer = warpgroup - 1;
  const int steps = (params.K + Config::kTileK - 1) / Config::kTileK;
  RingPlace<Config::kStages> place;
  int stored = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < params.tiles; tile += static_cast<int>(gridDim.x)) {
    const TileOrigin origin = tile_origin<Config>(params, tile);
    float acc[Config::kAccumulators];
    multiply<Config>(acc, shared, place, steps, consumer, params.a_mn_major, params.b_mn_major);
    if constexpr (Epilogue::kUnrolled) {
      if (params.store_by_tma) {
        store_by_tma<Config>(acc, params, shared, epilogue, origin, consumer, stored);
        continue;
      }
    }
    store_elements<Config>(acc, params, shared, epilogue, origin, consumer);
  }
  // Shared memory must outlive the copies that read it.
  if (thread % Config::kWarpgroup == 0) tma_wait_stores_read<0>();
}

// How TMA and wgmma see an operand of `rows` (M or N) x K elements.
struct WgmmaOperand {
  bool served;  // rows of 16-byte multiples lie in one of the two directions
  bool mn_major;
  int64_t outer_stride;  // of the other direction, in elements
};

constexpr int64_t kTmaStride = 8;  // strides are multiples of 16 bytes

inline WgmmaOperand wgmma_operand(int64_t rows, int64_t K, int64_t stride_row, int64_t stride_k) {
  // A single row has no stride to speak of: the first multiple beyond its end.
  const auto outer = [](int64_t extent, int64_t stride, int64_t inner) {
    return extent == 1 ? (inner + kTmaStride - 1) / kTmaStride * kTmaStride : stride;
  };
  const auto good = [](int64_t stride) { return stride > 0 && stride % kTmaStride == 0; };
  const int64_t over_rows = outer(rows, stride_row, K), over_k = outer(K, stride_k, rows);
  if ((stride_k == 1 || K == 1) && good(over_rows)) return {true, false, over_rows};
  if ((stride_row == 1 || rows == 1) && good(over_k)) return {true, true, over_k};
  return {false, false, 0};
}

template <class Config, class Epilogue>
void launch_gemm_wgmma(const GemmCall& call, const Epilogue& epilogue, const LaunchConfig& base, int multiprocessors) {
  using T = typename Config::Element;
  constexpr uint32_t kBlock = Config::kTileK;
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  const auto operand_map = [&](const char* name, const void* data, const WgmmaOperand& layout, int64_t rows,
                               int64_t batch_stride, uint32_t tile_rows) {
    TensorMapSpec spec{data, call.dtype, 3, {}, {}, {}, kSwizzleBytes};
    const bool shared = call.batch == 1 || batch_stride == 0;
    spec.extent[0] = extent(layout.mn_major ? rows : call.K), spec.extent[1] = extent(layout.mn_major ? call.K : rows);
    spec.extent[2] = shared ? 1 : extent(call.batch);
    spec.stride[1] = extent(layout.outer_stride);
    spec.stride[2] = shared ? spec.extent[1] * spec.stride[1] : extent(batch_stride);
    spec.box[0] = kBlock, spec.box[1] = layout.mn_major ? kBlock : tile_rows, spec.box[2] = 1;
    return make_tensor_map(name, spec);
  };
  const WgmmaOperand a = wgmma_operand(call.M, call.K, call.a_stride_m, call.a_stride_k);
  const WgmmaOperand b = wgmma_operand(call.N, call.K, call.b_stride_n, call.b_stride_k);
  const WgmmaOperand d = wgmma_operand(call.M, call.N, call.d_stride_m, call.d_stride_n);
  GemmWgmmaParams<T> params = {};
  params.a = operand_map("a", call.a, a, call.M, call.a_stride_batch, Config::kTileM);
  params.b = operand_map("b", call.b, b, call.N, call.b_stride_batch, Config::kTileN);
  params.a_mn_major = a.mn_major, params.b_mn_major = b.mn_major;
  params.a_batched = call.batch > 1 && call.a_stride_batch != 0;
  params.b_batched = call.batch > 1 && call.b_stride_batch != 0;
  params.M = static_cast<int>(call.M), params.N = static_cast<int>(call.N), params.K = static_cast<int>(call.K);
  params.tiles_m = (params.M + Config::kTileM - 1) / Config::kTileM;
  params.tiles_n = (params.N + Config::kTileN - 1) / Config::kTileN;
  params.tiles = params.tiles_m * params.tiles_n * static_cast<int>(call.batch);
  params.d_data = static_cast<T*>(call.d);
  params.d_stride_batch = call.d_stride_batch, params.d_stride_m = call.d_stride_m, params.d_stride_n = call.d_stride_n;
  params.store_by_tma = d.served && !d.mn_major && call.N % 2 == 0 && reinterpret_cast<uintptr_t>(call.d) % 16 == 0 &&
                        (call.batch == 1 || (call.d_stride_batch > 0 && call.d_stride_batch % 8 == 0));
  if (params.store_by_tma) {
    TensorMapSpec spec{call.d, call.dtype, 3, {}, {}, {}, kSwizzleBytes};
    spec.extent[0] = extent(call.N), spec.extent[1] = extent(call.M), spec.extent[2] = extent(call.batch);
    spec.stride[1] = extent(d.outer_stride);
    spec.stride[2] = call.batch == 1 ? spec.extent[1] * spec.stride[1] : extent(call.d_stride_batch);
    spec.box[0] = Config::kChunkN, spec.box[1] = Config::kConsumerM, spec.box[2] = 1;
    params.d = make_tensor_map("d", spec);
  }

  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(params.tiles < multiprocessors ? params.tiles : multiprocessors));
  config.dynamic_shared_bytes = sizeof(GemmWgmmaShared<Config>);
  launch("gemm_wgmma", config, gemm_wgmma_kernel<Config, Epilogue>, params, epilogue);
}

}  // namespace fastconv::cuda
