// Rules of clusters: two blocks of 64 threads that reach into one another's shared memory.
#include "../../../csrc/cuda/primitives/cluster.cuh"
#include "../../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../../csrc/cuda/primitives/tensor_map.h"
#include "rules.h"

using namespace fastconv::cuda;

namespace {

constexpr int kColumns = 16, kRows = 4, kTile = kColumns * kRows;  // of a box of floats: the whole buffer
constexpr uint32_t kTileBytes = kTile * sizeof(float);
constexpr uint16_t kBoth = 3;

struct Tile {
  alignas(128) float value[kTile];
  uint64_t full, empty;
};
__device__ Tile& tile() { return *reinterpret_cast<Tile*>(dynamic_shared_memory()); }
__device__ uint32_t other() { return cluster_rank() ^ 1; }
// Each block has half of `out`.
__device__ void put(float* out, float value) {
  if (threadIdx.x < 32) out[cluster_rank() * 32 + threadIdx.x] = value;
}

__device__ void init_barriers(Tile& s, uint32_t full, uint32_t empty) {
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, full);
    mbarrier_init(&s.empty, empty);
    fence_mbarrier_init();
  }
  cluster_sync();
}

// ---- the barrier ---------------------------------------------------------------------------------------------------
// Arriving is not waiting.
template <bool kBroken>
__global__ void read_between_arrival_and_wait(float* out) {
  Tile& s = tile();
  cluster_sync();
  s.value[threadIdx.x] = 1.0f;
  cluster_arrive();
  if (!kBroken) cluster_wait();
  put(out, *map_shared_rank(&s.value[threadIdx.x], other()));  // breaks: read_between_arrival_and_wait
  if (kBroken) cluster_wait();
  cluster_sync();
}

template <bool kBroken>
__global__ void arrived_twice(float* out) {
  cluster_arrive();
  if (!kBroken) cluster_wait();
  cluster_arrive();  // breaks: arrived_twice
  cluster_wait();
  put(out, 1.0f);
}

template <bool kBroken>
__global__ void waited_without_arriving(float* out) {
  if (!kBroken || threadIdx.x != 7) cluster_arrive();
  cluster_wait();  // breaks: waited_without_arriving
  put(out, 1.0f);
}

// Each block waits for the other in another way.
template <bool kBroken>
__global__ void met_in_the_wrong_order(float* out) {
  Tile& s = tile();
  init_barriers(s, 64, 1);
  if (cluster_rank() == 0 && !kBroken) mbarrier_arrive_remote(&s.full, 1);
  if (cluster_rank() == 1) mbarrier_wait(&s.full, 0);  // breaks: met_in_the_wrong_order
  cluster_sync();
  if (cluster_rank() == 0 && kBroken) mbarrier_arrive_remote(&s.full, 1);
  put(out, 1.0f);
}

template <bool kBroken>
__global__ void global_memory_between_blocks(float* out) {
  if (cluster_rank() == 0) out[threadIdx.x] = 1.0f;
  if (!kBroken) cluster_sync();
  if (cluster_rank() == 1) out[threadIdx.x] += 1.0f;
}

// ---- shared memory of the other block ------------------------------------------------------------------------------
template <bool kBroken>
__global__ void written_before_it_runs(float* out) {
  Tile& s = tile();
  if (!kBroken) cluster_sync();
  *map_shared_rank(&s.value[threadIdx.x], other()) = 1.0f;  // breaks: written_before_it_runs
  cluster_sync();
  put(out, s.value[threadIdx.x]);
}

template <bool kBroken>
__global__ void read_while_it_leaves(float* out) {
  Tile& s = tile();
  s.value[threadIdx.x] = 1.0f;
  cluster_sync();
  put(out, *map_shared_rank(&s.value[threadIdx.x], other()));  // breaks: read_while_it_leaves
  if (!kBroken) cluster_sync();
}

template <bool kBroken>
__global__ void arrival_that_nobody_waits_for(float* out) {
  Tile& s = tile();
  init_barriers(s, 64, 1);
  mbarrier_arrive_remote(&s.full, other());  // breaks: arrival_that_nobody_waits_for
  if (!kBroken) mbarrier_wait(&s.full, 0);
  put(out, 1.0f);
}

// The arrival is seen, the store before it need not be.
template <bool kBroken>
__global__ void remote_store_and_arrival(float* out) {
  Tile& s = tile();
  init_barriers(s, 64, 1);
  *map_shared_rank(&s.value[threadIdx.x], other()) = 1.0f;
  mbarrier_arrive_remote(&s.full, other());
  mbarrier_wait(&s.full, 0);
  if (!kBroken) cluster_sync();
  put(out, s.value[threadIdx.x]);  // breaks: remote_store_and_arrival
  cluster_sync();
}

template <bool kBroken>
__global__ void wait_on_a_remote_barrier(float* out) {
  Tile& s = tile();
  init_barriers(s, 64, 1);
  mbarrier_arrive_remote(&s.full, other());
  uint64_t* full = kBroken ? map_shared_rank(&s.full, other()) : &s.full;
  mbarrier_wait(full, 0);  // breaks: wait_on_a_remote_barrier
  put(out, 1.0f);
}

template <bool kBroken>
__global__ void no_such_rank(float* out) {
  Tile& s = tile();
  init_barriers(s, 64, 1);
  mbarrier_arrive_remote(&s.full, kBroken ? 2 : other());  // breaks: no_such_rank
  mbarrier_wait(&s.full, 0);
  put(out, 1.0f);
}

template <bool kBroken>
__global__ void shared_variable_in_a_cluster(float* out) {
  __shared__ float values[64];
  float* mine = kBroken ? values : tile().value;
  mine[threadIdx.x] = 1.0f;  // breaks: shared_variable_in_a_cluster
  put(out, mine[threadIdx.x]);
}

template <bool kBroken>
__global__ void grid_of_half_a_cluster(float* out) {
  put(out, 1.0f);
}

// ---- multicast -----------------------------------------------------------------------------------------------------
__device__ void expect(Tile& s) {
  if (threadIdx.x == 0) mbarrier_arrive_expect(&s.full, kTileBytes);
}

template <bool kBroken>
__global__ void multicast_to_absent_block(const __grid_constant__ TensorMap map, float* out) {
  Tile& s = tile();
  init_barriers(s, 1, 1);
  expect(s);
  if (cluster_rank() == 0 && threadIdx.x == 0)
    tma_load_multicast_3d(s.value, &map, &s.full, kBroken ? 7 : kBoth, 0, 0, 0);  // breaks: multicast_to_absent_block
  mbarrier_wait(&s.full, 0);
  put(out, s.value[threadIdx.x]);
}

template <bool kBroken>
__global__ void multicast_to_one_block(const __grid_constant__ TensorMap map, float* out) {
  Tile& s = tile();
  init_barriers(s, 1, 1);
  expect(s);
  if (cluster_rank() == 0 && threadIdx.x == 0)
    tma_load_multicast_3d(s.value, &map, &s.full, kBroken ? 1 : kBoth, 0, 0, 0);
  mbarrier_wait(&s.full, 0);  // breaks: multicast_to_one_block
  put(out, s.value[threadIdx.x]);
}

// Only the block that loads has told its mbarrier to the engines.
template <bool kBroken>
__global__ void multicast_to_unfenced_barrier(const __grid_constant__ TensorMap map, float* out) {
  Tile& s = tile();
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, 1);
    if (!kBroken || cluster_rank() == 0) fence_mbarrier_init();
  }
  cluster_sync();
  expect(s);
  if (cluster_rank() == 0 && threadIdx.x == 0)
    tma_load_multicast_3d(s.value, &map, &s.full, kBoth, 0, 0, 0);  // breaks: multicast_to_unfenced_barrier
  mbarrier_wait(&s.full, 0);
  put(out, s.value[threadIdx.x]);
}

// Three rounds through one slot of both blocks, read by stores, and given back to the block that loads. The broken twin
// hears of one block only.
template <bool kBroken>
__global__ void multicast_into_a_slot_in_use(const __grid_constant__ TensorMap map,
                                             const __grid_constant__ TensorMap out_map) {
  Tile& s = tile();
  const int rank = static_cast<int>(cluster_rank());
  init_barriers(s, 1, kBroken ? 1 : 2);
  for (uint32_t round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(&s.full, kTileBytes);
      if (rank == 0) {
        mbarrier_wait(&s.empty, round % 2 ^ 1);
        tma_load_multicast_3d(s.value, &map, &s.full, kBoth, 0, 0, 0);  // breaks: multicast_into_a_slot_in_use
      }
      mbarrier_wait(&s.full, round % 2);
    } else if (threadIdx.x == 32) {
      mbarrier_wait(&s.full, round % 2);
      tma_store_3d(&out_map, s.value, 0, rank * kRows, 0);  // the second block's box lies outside
      tma_commit_stores();
      tma_wait_stores_read<0>();
      if (!kBroken || rank == 0) mbarrier_arrive_remote(&s.empty, 0);
    }
  }
  cluster_sync();
}

TensorMap tensor_map(const float* data) {
  return make_tensor_map(
      "buffer", {data, DType::kFloat32, 3, {kColumns, kRows, 1}, {1, kColumns, kTile}, {kColumns, kRows, 1}, 0});
}

#define CLUSTER_CASE(name, rule, ...)                                           \
  {                                                                             \
    #name, {                                                                    \
      rule, [](bool broken, Buffers& b, LaunchConfig& c) {                      \
        c.grid = c.cluster = dim3(2);                                           \
        c.dynamic_shared_bytes = sizeof(Tile);                                  \
        float* out = b.out.as<float>();                                         \
        const TensorMap map = tensor_map(b.in.as<float>());                     \
        const TensorMap out_map = tensor_map(out);                              \
        (void)out, (void)map, (void)out_map;                                    \
        cuda::launch(#name, c, broken ? name<true> : name<false>, __VA_ARGS__); \
      }                                                                         \
    }                                                                           \
  }

const AddCases kCases({
    CLUSTER_CASE(read_between_arrival_and_wait, "shared-race", out),
    CLUSTER_CASE(arrived_twice, "cluster-barrier", out),
    CLUSTER_CASE(waited_without_arriving, "cluster-barrier", out),
    CLUSTER_CASE(met_in_the_wrong_order, "deadlock", out),
    CLUSTER_CASE(global_memory_between_blocks, "global-race", out),
    CLUSTER_CASE(written_before_it_runs, "remote-before-start", out),
    CLUSTER_CASE(read_while_it_leaves, "remote-after-exit", out),
    CLUSTER_CASE(arrival_that_nobody_waits_for, "remote-after-exit", out),
    CLUSTER_CASE(remote_store_and_arrival, "shared-race", out),
    CLUSTER_CASE(wait_on_a_remote_barrier, "shared-address", out),
    CLUSTER_CASE(no_such_rank, "cluster-rank", out),
    CLUSTER_CASE(shared_variable_in_a_cluster, "static-shared-in-cluster", out),
    CLUSTER_CASE(multicast_to_absent_block, "cluster-rank", map, out),
    CLUSTER_CASE(multicast_to_one_block, "deadlock", map, out),
    CLUSTER_CASE(multicast_to_unfenced_barrier, "missing-mbarrier-fence", map, out),
    CLUSTER_CASE(multicast_into_a_slot_in_use, "shared-race", map, out_map),
    {"grid_of_half_a_cluster",
     {"bad-launch",
      [](bool broken, Buffers& b, LaunchConfig& c) {
        c.grid = dim3(broken ? 3 : 2);
        c.cluster = dim3(2);
        cuda::launch("grid_of_half_a_cluster", c, grid_of_half_a_cluster<false>, b.out.as<float>());
      }}},
});

}  // namespace
