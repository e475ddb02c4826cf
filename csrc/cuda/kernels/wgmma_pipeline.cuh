// Tiles of D = epilogue(A * B) on Hopper's warpgroup tensor cores, for whatever can be fetched by TMA as a matrix
// product: what GEMM and convolution have in common. A block lives as long as the launch and takes every
// gridDim.x-th tile of D. One warpgroup produces: a single thread fetches 128 bytes of K (64 elements, 32 floats) of
// the tile's rows of A and columns of B at a time into a ring of stages. Two warpgroups consume, each half the tile's
// rows:
//
//        kTileN                      full[s]    the stage's bytes have landed        producer's copies -> consumers
//      +--------+ ^                  empty[s]   all consumer warps are through it    consumers -> producer
//      |  wg 1  | 64 rows
//      +--------+                    Fetching runs up to kStages ahead, also into the next tile while the consumers
//      |  wg 2  | 64 rows            are in this one's epilogue.
//      +--------+ v
//
// With Config::kPingPong a tile is one consumer's, 128 rows of it, and the consumers take turns: while one's products
// run, the other is in its epilogue. A tile's steps lie in the ring one after the other, so the turn is passed on when
// the last of them has been issued:
//
//      wg 1   products of tile 0 | epilogue            | products of tile 2 | epilogue
//      wg 2                      | products of tile 1  | epilogue           | products of tile 3
//
// With Config::kCluster = 2 the two blocks of a cluster take tiles of the same columns, one below the other: each
// fetches its own rows of A, and half of the columns of B for both (multicast). A stage is then free when the consumers
// of both blocks are through it.
//
// The `Work`, a kernel parameter, says what the tiles are:
//   int tiles;
//   output                         wgmma_output.cuh; with WgmmaPartialSums for an epilogue, wgmma_partials.cuh
//   tile<Config>(number)           -> WgmmaTile, with its steps of Config::kTileK elements of K, at least one; with
//                                  clusters `number` counts pairs, and the rank says which of them
//   source<Config>(tile)           -> an object whose fetch(a, b, full) issues the copies of the next step
//   visit_majors(f)                f(A's, B's direction that is contiguous in shared memory), as integral constants
#pragma once

#include <type_traits>

#include "../primitives/cluster.cuh"
#include "../primitives/elect.cuh"
#include "../primitives/launch.h"
#include "../primitives/mbarrier.cuh"
#include "../primitives/register_budget.cuh"
#include "../primitives/tma.cuh"
#include "../primitives/wgmma.cuh"
#include "wgmma_output.cuh"
#include "wgmma_partials.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/kernel_list.h"
#endif

namespace fastconv::cuda {

template <class T, int kTileN_, int kStages_, int kCluster_ = 1, bool kPingPong_ = false>
struct WgmmaConfig {
  using Element = T;
  static constexpr int kCluster = kCluster_;  // blocks that share B
  static constexpr bool kPingPong = kPingPong_;
  static constexpr bool kTf32 = std::is_same_v<T, float>;
  static constexpr int kTileM = 128, kTileN = kTileN_;
  static constexpr int kTileK = kSwizzleBytes / sizeof(T);  // a K-major row is one row of the swizzle
  static constexpr int kStages = kStages_;
  static constexpr int kConsumers = 2, kWarpgroup = 128;
  static constexpr int kConsumerWarps = kConsumers * kWarpgroup / 32;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kConsumerM = kPingPong ? kTileM : kTileM / kConsumers;
  static constexpr int kWgmmaM = 64, kRowBlocks = kConsumerM / kWgmmaM;
  static constexpr int kAccumulators = kRowBlocks * kTileN / 2;  // of a consumer thread, one row block after the other
  static constexpr int kReleasingWarps = kPingPong ? kConsumerWarps / kConsumers : kConsumerWarps;  // a tile's
  // Of 168 each that 384 threads start with: the producer needs hardly any, and both sum to the same.
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  // Columns that leave together: one row of them is one row of the swizzle.
  static constexpr int kChunkN = kSwizzleBytes / sizeof(T);
  static constexpr int kStageBytes = (kTileM + kTileN) * kTileK * static_cast<int>(sizeof(T));
  // On the way out; two for each consumer, so that one is filled while the other is read.
  using Chunks = unsigned char[kConsumers][2][kWgmmaM * kSwizzleBytes];

  static_assert(sizeof(T) == 2 || kTf32);
  static_assert(kConsumerM % kWgmmaM == 0);
  static_assert(kTileN % kChunkN == 0 && kTileN <= 256, "one TMA box, one wgmma");
  static_assert(kAccumulators <= 128, "of 240 registers");
  // The first of a consumer's rows in its tile.
  __device__ static constexpr int consumer_row(int consumer) { return kPingPong ? 0 : consumer * kConsumerM; }

  static_assert(kCluster == 1 || (kCluster == 2 && kTileN / kCluster * kSwizzleBytes % kSwizzlePatternBytes == 0),
                "halves of B are whole boxes");
};

// Lies at the start of dynamic shared memory, on a boundary of the swizzle pattern, as does every tile in it.
template <class Config>
struct alignas(kSwizzlePatternBytes) WgmmaShared {
  unsigned char a[Config::kStages][Config::kTileM * kSwizzleBytes];
  unsigned char b[Config::kStages][Config::kTileN * kSwizzleBytes];
  typename Config::Chunks chunks;
  uint64_t full[Config::kStages], empty[Config::kStages];
  uint64_t fetched[Config::kConsumers][2];  // a residual has landed in the chunk
};

// OperandMajor as a type, for visit_majors().
template <OperandMajor kMajor>
using MajorConstant = std::integral_constant<OperandMajor, kMajor>;

namespace wgmma_detail {

// Where in the ring a warpgroup is, and the parity of that round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ void skip(int steps) {
    stage += steps;
    parity ^= static_cast<uint32_t>(stage / kStages & 1);
    stage %= kStages;
  }
};

// This block's cluster, and how many there are: without clusters, the block itself.
template <class Config>
__device__ __forceinline__ int first_tile() {
  return static_cast<int>(blockIdx.x) / Config::kCluster;
}
template <class Config>
__device__ __forceinline__ int tile_stride() {
  return static_cast<int>(gridDim.x) / Config::kCluster;
}

template <class Config, class Work>
__device__ __forceinline__ void produce(const Work& work, WgmmaShared<Config>& shared) {
  RingPlace<Config::kStages> place;
  for (int number = first_tile<Config>(); number < work.tiles; number += tile_stride<Config>()) {
    const WgmmaTile tile = work.template tile<Config>(number);
    auto source = work.template source<Config>(tile);
#pragma unroll 1  // there are 24 registers
    for (int step = 0; step < tile.steps; ++step, place.advance()) {
      uint64_t* full = &shared.full[place.stage];
      mbarrier_wait(&shared.empty[place.stage], place.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kStageBytes);
      source.fetch(shared.a[place.stage], shared.b[place.stage], full);
    }
  }
}

// Ping-pong: until the other consumer has issued all products of the tile before; and its counterpart.
__device__ __forceinline__ void wait_for_turn(int consumer) {
  consumer == 0 ? named_barrier_sync<3>(256) : named_barrier_sync<4>(256);
}
__device__ __forceinline__ void give_turn_to(int consumer) {
  consumer == 0 ? named_barrier_arrive<3>(256) : named_barrier_arrive<4>(256);
}

// acc = the consumer's rows of the tile. One group of products is always in flight: a stage is given back when the next
// one's are under way. issued() is called when all of them are.
template <class Config, OperandMajor kMajorA, OperandMajor kMajorB, class Issued>
__device__ __forceinline__ void multiply(float (&acc)[Config::kAccumulators], WgmmaShared<Config>& shared,
                                         RingPlace<Config::kStages>& place, int steps, int consumer,
                                         const Issued& issued) {
  const auto release = [&](int stage) {
    const uint32_t lane = threadIdx.x % 32;
    if constexpr (Config::kCluster > 1) {
      if (lane < Config::kCluster) mbarrier_arrive_remote(&shared.empty[stage], lane);
    } else {
      if (lane == 0) mbarrier_arrive(&shared.empty[stage]);
    }
  };
  int previous = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step, place.advance()) {
    mbarrier_wait(&shared.full[place.stage], place.parity);
    const uint64_t a = matrix_descriptor<kMajorA>(
        shared.a[place.stage] + Config::consumer_row(consumer) * kSwizzleBytes, Config::kTileK);
    const uint64_t b = matrix_descriptor<kMajorB>(shared.b[place.stage], Config::kTileK);
    wgmma_fence(acc);
#pragma unroll
    for (int i = 0; i < kSwizzleBytes / 32; ++i) {
      const uint64_t b_i = b + i * kDescriptorStep<kMajorB>;
#pragma unroll
      for (int block = 0; block < Config::kRowBlocks; ++block) {
        constexpr uint64_t kBlock = Config::kWgmmaM * kSwizzleBytes >> 4;  // in either direction
        constexpr int kSums = Config::kTileN / 2;
        const uint64_t a_i = a + i * kDescriptorStep<kMajorA> + block * kBlock;
        auto& d = reinterpret_cast<float (&)[kSums]>(acc[block * kSums]);
        if constexpr (Config::kTf32) {
          static_assert(kMajorA == OperandMajor::kK && kMajorB == OperandMajor::kK,
                        "MN-major is for 16-bit types only");
          wgmma_k8_tf32(d, a_i, b_i, step > 0 || i > 0);
        } else {
          wgmma_k16<typename Config::Element, kMajorA, kMajorB>(d, a_i, b_i, step > 0 || i > 0);
        }
      }
    }
    wgmma_commit();
    if (step > 0) {
      wgmma_wait<1>();
      release(previous);
    }
    previous = place.stage;
  }
  issued();
  wgmma_wait<0>(acc);
  release(previous);
}

}  // namespace wgmma_detail

// The whole kernel: all threads of a block of Config::kThreads, with sizeof(WgmmaShared<Config>) of dynamic shared
// memory.
template <class Config, class Work, class Epilogue>
__device__ __forceinline__ void wgmma_pipeline(const Work& work, const Epilogue& epilogue) {
  using namespace wgmma_detail;
  auto& shared = *reinterpret_cast<WgmmaShared<Config>*>(dynamic_shared_memory());
  const int thread = static_cast<int>(threadIdx.x), warpgroup = thread / Config::kWarpgroup;
  if (thread == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      mbarrier_init(&shared.full[stage], 1);  // the producer's, and bytes
      mbarrier_init(&shared.empty[stage], Config::kCluster * Config::kReleasingWarps);
    }
    for (auto& of_consumer : shared.fetched) {
      for (uint64_t& barrier : of_consumer) mbarrier_init(&barrier, 1);  // the fetching thread's, and bytes
    }
    fence_mbarrier_init();
  }
  if constexpr (Config::kCluster > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  if (warpgroup == 0) {
    release_registers<Config::kProducerRegisters>();
    if (thread / 32 == 0 && elect_one()) produce(work, shared);
    // The other block's consumers still arrive here, and its copies land here.
    if constexpr (Config::kCluster > 1) cluster_sync();
    return;
  }
  claim_registers<Config::kConsumerRegisters>();
  const int consumer = warpgroup - 1;
  RingPlace<Config::kStages> place;
  int stored = 0;
  bool mine = consumer != 0;  // ping-pong: the last tile; the first one is consumer 0's
  for (int number = first_tile<Config>(); number < work.tiles; number += tile_stride<Config>()) {
    const WgmmaTile tile = work.template tile<Config>(number);
    if constexpr (Config::kPingPong) {
      mine = !mine;
      if (!mine) {
        place.skip(tile.steps);
        continue;
      }
    }
    if constexpr (kFetchesResidual<Epilogue>) fetch_first_residuals(work.output, shared, tile, consumer, stored);
    if constexpr (Config::kPingPong) {
      if (number != first_tile<Config>()) wait_for_turn(consumer);
    }
    const auto issued = [&] {
      if constexpr (Config::kPingPong) {
        if (number + tile_stride<Config>() < work.tiles) give_turn_to(1 - consumer);
      }
    };
    float acc[Config::kAccumulators];
    work.visit_majors([&](auto a, auto b) {
      multiply<Config, decltype(a)::value, decltype(b)::value>(acc, shared, place, tile.steps, consumer, issued);
    });
    if constexpr (std::is_same_v<Epilogue, WgmmaPartialSums>) {
      store_partials<Config>(acc, work.output, tile, consumer);
    } else if constexpr (kFetchesResidual<Epilogue> || kTakesMoments<Epilogue>) {
      store_by_tma(acc, work.output, shared, epilogue, tile, consumer, stored);
    } else {
      if constexpr (Epilogue::kUnrolled) {
        if (work.output.by_tma) {
          store_by_tma(acc, work.output, shared, epilogue, tile, consumer, stored);
          continue;
        }
        // Ping-pong has no registers left for these.
        if constexpr (!Config::kPingPong) {
          if (work.output.vectors) {
            store_vectors<Config>(acc, work.output, shared.chunks, epilogue, tile, consumer);
            continue;
          }
        }
      }
      store_elements<Config>(acc, work.output, shared.chunks, epilogue, tile, consumer);
    }
  }
  // Shared memory must outlive the copies that read it.
  if (thread % Config::kWarpgroup == 0) tma_wait_stores_read<0>();
  if constexpr (Config::kCluster > 1) cluster_sync();
}

// One block for each multiprocessor that has a tile; `tiles` as in the work, of which a cluster takes one.
template <class Config>
LaunchConfig wgmma_launch(const LaunchConfig& base, int tiles, int multiprocessors) {
  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  const int clusters = multiprocessors / Config::kCluster;
  config.grid = dim3(static_cast<unsigned>((tiles < clusters ? tiles : clusters) * Config::kCluster));
  config.cluster = dim3(Config::kCluster);
  config.dynamic_shared_bytes = sizeof(WgmmaShared<Config>);
  return config;
}

#if defined(FASTCONV_EMULATED)
// A kernel is one of a verification's list because its launch was compiled: none can be forgotten.
template <auto kKernel>
struct ListedKernel {
  static bool enter() { return emulator::list_kernel(reinterpret_cast<const void*>(kKernel), __PRETTY_FUNCTION__); }
  static inline const bool entered = enter();
};
#endif

// Launches an instance of a kernel of this pipeline.
template <class Config, auto kKernel, class... Args>
void launch_wgmma(const char* name, const LaunchConfig& base, int tiles, int multiprocessors, const Args&... args) {
#if defined(FASTCONV_EMULATED)
  static_cast<void>(ListedKernel<kKernel>::entered);
#endif
  launch(name, wgmma_launch<Config>(base, tiles, multiprocessors), kKernel, args...);
}

}  // namespace fastconv::cuda
