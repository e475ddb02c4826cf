// Rules of named barriers, mbarriers, bulk tensor copies and register budgets.
#include "../../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../../csrc/cuda/primitives/named_barrier.cuh"
#include "../../../csrc/cuda/primitives/register_budget.cuh"
#include "../../../csrc/cuda/primitives/tensor_map.h"
#include "rules.h"

using namespace fastconv::cuda;

namespace {

constexpr int kColumns = 16, kRows = 4, kTile = kColumns * kRows;  // of a box of floats: the whole buffer
constexpr uint32_t kTileBytes = kTile * sizeof(float);

// Two tiles and their barriers in dynamic shared memory.
struct Tiles {
  float value[2][kTile];
  uint64_t full, empty;
};
__device__ Tiles& tiles() { return *reinterpret_cast<Tiles*>(dynamic_shared_memory()); }

__device__ void init_barriers(Tiles& s, uint32_t full, uint32_t empty) {
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, full);
    mbarrier_init(&s.empty, empty);
    fence_mbarrier_init();
  }
  __syncthreads();
}

// ---- named barriers ------------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void barrier_counts_differ(float* out) {
  if (threadIdx.x < 32) {
    named_barrier_sync<1>(64);
  } else if (threadIdx.x < 64) {
    named_barrier_sync<1>(kBroken ? 96 : 64);  // breaks: barrier_counts_differ
  }
  if (threadIdx.x < 64) out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void barrier_for_absent_threads(float* out) {
  if (threadIdx.x < 32) named_barrier_sync<1>(kBroken ? 64 : 32);  // breaks: barrier_for_absent_threads
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void barrier_of_half_a_warp(float* out) {
  named_barrier_sync<1>(kBroken ? 48 : 64);  // breaks: barrier_of_half_a_warp
  out[threadIdx.x] = 1.0f;
}

// One warp hands values to the other: it need not wait, but must arrive.
template <bool kBroken>
__global__ void other_barrier(float* out) {
  __shared__ float values[32];
  if (threadIdx.x >= 32) values[threadIdx.x - 32] = 0.0f;
  __syncthreads();
  if (threadIdx.x < 32) {
    values[threadIdx.x] = 1.0f;
    kBroken ? named_barrier_arrive<2>(64) : named_barrier_arrive<1>(64);
  } else {
    kBroken ? named_barrier_sync<1>(32) : named_barrier_sync<1>(64);
    out[threadIdx.x] = values[threadIdx.x - 32];  // breaks: other_barrier
  }
}

// ---- mbarriers -----------------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void wrong_phase(float* out) {
  Tiles& s = tiles();
  init_barriers(s, 64, 1);
  mbarrier_arrive(&s.full);
  mbarrier_wait(&s.full, 0);
  // Nobody has arrived for the second phase.
  mbarrier_wait(&s.full, kBroken ? 1 : 0);  // breaks: wrong_phase
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void too_many_arrivals(float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) mbarrier_arrive_expect(&s.full, kTileBytes);
  __syncthreads();
  if (kBroken && threadIdx.x == 1) mbarrier_arrive(&s.full);  // breaks: too_many_arrivals
  out[threadIdx.x] = 1.0f;
}

// A shuffle makes lanes wait for one another, but is no fence.
template <bool kBroken>
__global__ void barrier_used_too_early(float* out) {
  Tiles& s = tiles();
  if (threadIdx.x == 0) mbarrier_init(&s.full, 32);
  __shfl_sync(0xffffffffu, 0, 0);
  if (!kBroken) __syncwarp();
  if (threadIdx.x < 32) mbarrier_arrive(&s.full);  // breaks: barrier_used_too_early
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void ordinary_access_to_mbarrier(float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) {
    if (!kBroken) mbarrier_invalidate(&s.full);
    s.full = 0;  // breaks: ordinary_access_to_mbarrier
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void no_such_mbarrier(float* out) {
  Tiles& s = tiles();
  init_barriers(s, 64, 1);
  mbarrier_arrive(kBroken ? &s.empty + 1 : &s.full);  // breaks: no_such_mbarrier
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void initialised_twice(float* out) {
  Tiles& s = tiles();
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, 1);
    if (!kBroken) mbarrier_invalidate(&s.full);
    mbarrier_init(&s.full, 2);  // breaks: initialised_twice
  }
  out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void more_bytes_than_are_counted(float* out) {
  Tiles& s = tiles();
  init_barriers(s, 2, 1);
  if (threadIdx.x == 0)
    mbarrier_arrive_expect(&s.full, kBroken ? 1 << 20 : 1 << 19);  // breaks: more_bytes_than_are_counted
  out[threadIdx.x] = 1.0f;
}

// ---- loads ---------------------------------------------------------------------------------------------------------
// Two loads to one barrier.
template <bool kBroken>
__global__ void too_many_bytes_expected(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&s.full, (kBroken ? 3 : 2) * kTileBytes);
    tma_load_2d(s.value[0], &map, &s.full, 0, 0);
    tma_load_2d(s.value[1], &map, &s.full, 0, 0);
  }
  mbarrier_wait(&s.full, 0);  // breaks: too_many_bytes_expected
  out[threadIdx.x] = s.value[0][threadIdx.x] + s.value[1][threadIdx.x];
}

template <bool kBroken>
__global__ void too_few_bytes_expected(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&s.full, (kBroken ? 1 : 2) * kTileBytes);
    tma_load_2d(s.value[0], &map, &s.full, 0, 0);
    tma_load_2d(s.value[1], &map, &s.full, 0, 0);
  }
  mbarrier_wait(&s.full, 0);
  out[threadIdx.x] = s.value[0][threadIdx.x] + s.value[1][threadIdx.x];  // breaks: too_few_bytes_expected
}

template <bool kBroken>
__global__ void read_before_the_wait(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&s.full, kTileBytes);
    tma_load_2d(s.value[0], &map, &s.full, 0, 0);
  }
  if (!kBroken || threadIdx.x % 32 != 5) mbarrier_wait(&s.full, 0);
  out[threadIdx.x] = s.value[0][threadIdx.x];  // breaks: read_before_the_wait
  mbarrier_wait(&s.full, 0);
}

// Three rounds through one slot, which the consumers give back.
template <bool kBroken>
__global__ void slot_released_early(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 32);
  float sum = 0.0f;
  for (uint32_t round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_wait(&s.empty, round % 2 ^ 1);
      mbarrier_arrive_expect(&s.full, kTileBytes);
      tma_load_2d(s.value[0], &map, &s.full, 0, 0);  // breaks: slot_released_early
    }
    if (threadIdx.x < 32) continue;
    mbarrier_wait(&s.full, round % 2);
    if (kBroken) mbarrier_arrive(&s.empty);
    sum += s.value[0][threadIdx.x];
    if (!kBroken) mbarrier_arrive(&s.empty);
  }
  out[threadIdx.x] = sum;
}

template <bool kBroken>
__global__ void barrier_not_fenced(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  if (threadIdx.x == 0) {
    mbarrier_init(&s.full, 1);
    if (!kBroken) fence_mbarrier_init();
    mbarrier_arrive_expect(&s.full, kTileBytes);
    tma_load_2d(s.value[0], &map, &s.full, 0, 0);  // breaks: barrier_not_fenced
  }
  __syncthreads();
  mbarrier_wait(&s.full, 0);
  out[threadIdx.x] = s.value[0][threadIdx.x];
}

// What the body of a load's case has in common: one load, all wait.
#define LOAD_AND_WAIT(s, load)                   \
  init_barriers(s, 1, 1);                        \
  if (threadIdx.x == 0) {                        \
    mbarrier_arrive_expect(&s.full, kTileBytes); \
    load;                                        \
  }                                              \
  mbarrier_wait(&s.full, 0);                     \
  out[threadIdx.x] = 1.0f

template <bool kBroken>
__global__ void load_to_misaligned_tile(const __grid_constant__ TensorMap map, float* out, int shift) {
  Tiles& s = tiles();
  float* target = &s.value[0][kBroken ? shift : 0];
  LOAD_AND_WAIT(s, tma_load_2d(target, &map, &s.full, 0, 0));  // breaks: load_to_misaligned_tile
}

// Two coordinates for a tensor of three dimensions.
template <bool kBroken>
__global__ void load_of_another_rank(const __grid_constant__ TensorMap volume, const __grid_constant__ TensorMap map,
                                     float* out) {
  Tiles& s = tiles();
  LOAD_AND_WAIT(s, tma_load_2d(s.value[0], kBroken ? &volume : &map, &s.full, 0, 0));  // breaks: load_of_another_rank
}

template <bool kBroken>
__global__ void load_past_the_shared_end(const __grid_constant__ TensorMap map, float* out, int shift) {
  Tiles& s = tiles();
  float* target = s.value[0];
  if (kBroken) target += shift;
  LOAD_AND_WAIT(s, tma_load_2d(target, &map, &s.full, 0, 0));  // breaks: load_past_the_shared_end
}

// The map says the tensor has more rows than the buffer.
template <bool kBroken>
__global__ void load_past_the_global_end(const __grid_constant__ TensorMap longer,
                                         const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  const TensorMap* used = kBroken ? &longer : &map;
  LOAD_AND_WAIT(s, tma_load_2d(s.value[0], used, &s.full, 0, 1));  // breaks: load_past_the_global_end
}

template <bool kBroken>
__global__ void load_never_waited_for(const __grid_constant__ TensorMap map, float* out) {
  Tiles& s = tiles();
  init_barriers(s, 1, 1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(&s.full, kTileBytes);
    tma_load_2d(s.value[0], &map, &s.full, 0, 0);  // breaks: load_never_waited_for
  }
  if (!kBroken) mbarrier_wait(&s.full, 0);
  out[threadIdx.x] = 1.0f;
}

// ---- stores --------------------------------------------------------------------------------------------------------
template <bool kBroken>
__global__ void store_without_proxy_fence(const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  s.value[0][threadIdx.x] = 1.0f;
  if (!kBroken || threadIdx.x != 40) fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_2d(&map, s.value[0], 0, 0);  // breaks: store_without_proxy_fence
    tma_commit_stores();
    tma_wait_stores<0>();
  }
}

// The fence covers what came before it.
template <bool kBroken>
__global__ void proxy_fence_too_early(const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  if (kBroken) fence_proxy_async();
  s.value[0][threadIdx.x] = 1.0f;
  if (!kBroken) fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_2d(&map, s.value[0], 0, 0);  // breaks: proxy_fence_too_early
    tma_commit_stores();
    tma_wait_stores<0>();
  }
}

template <bool kBroken>
__global__ void store_without_barrier(const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  s.value[0][threadIdx.x] = 0.0f;
  fence_proxy_async();
  __syncthreads();
  s.value[0][threadIdx.x] = 1.0f;
  fence_proxy_async();
  if (!kBroken) __syncthreads();
  if (threadIdx.x == 63) {
    tma_store_2d(&map, s.value[0], 0, 0);  // breaks: store_without_barrier
    tma_commit_stores();
    tma_wait_stores<0>();
  }
}

template <bool kBroken>
__global__ void stored_tile_overwritten(const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) kBroken ? tma_wait_stores_read<1>() : tma_wait_stores_read<0>();
    __syncthreads();
    s.value[0][threadIdx.x] = static_cast<float>(round);  // breaks: stored_tile_overwritten
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
      tma_store_2d(&map, s.value[0], 0, 0);
      tma_commit_stores();
    }
  }
  if (threadIdx.x == 0) tma_wait_stores_read<0>();
}

template <bool kBroken>
__global__ void store_outlives_its_memory(const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  s.value[0][threadIdx.x] = 1.0f;
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_2d(&map, s.value[0], 0, 0);  // breaks: store_outlives_its_memory
    tma_commit_stores();
    if (!kBroken) tma_wait_stores_read<0>();
  }
}

template <bool kBroken>
__global__ void store_to_input(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap map) {
  Tiles& s = tiles();
  s.value[0][threadIdx.x] = 1.0f;
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_2d(kBroken ? &in : &map, s.value[0], 0, 0);  // breaks: store_to_input
    tma_commit_stores();
    tma_wait_stores<0>();
  }
}

// ---- registers: 256 threads, one warpgroup gives and the other takes
// --------------------------------------------------
template <bool kBroken>
__global__ void registers_over_budget(float* out) {
  if (threadIdx.x < 128) {
    kBroken ? release_registers<248>() : release_registers<240>();
  } else {
    claim_registers<256>();  // breaks: registers_over_budget
  }
  if (threadIdx.x < 64) out[threadIdx.x] = 1.0f;
}

template <bool kBroken>
__global__ void released_more_than_held(float* out) {
  release_registers<40>();
  kBroken ? release_registers<64>() : release_registers<24>();  // breaks: released_more_than_held
  if (threadIdx.x < 64) out[threadIdx.x] = 1.0f;
}

TensorMap tensor_map(const float* data, uint64_t rows, int rank = 2) {
  return make_tensor_map(
      "buffer", {data, DType::kFloat32, rank, {kColumns, rows, 1}, {1, kColumns, kTile}, {kColumns, kRows, 1}, 0});
}

LaunchConfig with_tiles(LaunchConfig config) {
  config.dynamic_shared_bytes = sizeof(Tiles) + sizeof(uint64_t);
  return config;
}

// Kernels of (arguments...), with the tiles in shared memory; `in`, `out` and their maps are at hand.
#define ASYNCHRONOUS_CASE(name, rule, ...)                                                  \
  {                                                                                         \
    #name, {                                                                                \
      rule, [](bool broken, Buffers& b, LaunchConfig& c) {                                  \
        float* out = b.out.as<float>();                                                     \
        const TensorMap in_map = tensor_map(b.in.as<float>(), kRows);                       \
        const TensorMap longer_map = tensor_map(b.in.as<float>(), kRows + 1);               \
        const TensorMap volume_map = tensor_map(b.in.as<float>(), kRows, 3);                \
        const TensorMap out_map = tensor_map(out, kRows);                                   \
        (void)out, (void)in_map, (void)longer_map, (void)volume_map, (void)out_map;         \
        cuda::launch(#name, with_tiles(c), broken ? name<true> : name<false>, __VA_ARGS__); \
      }                                                                                     \
    }                                                                                       \
  }

#define WARPGROUPS_CASE(name, rule)                                     \
  {                                                                     \
    #name, {                                                            \
      rule, [](bool broken, Buffers& b, LaunchConfig& c) {              \
        c.block = dim3(256);                                            \
        float* out = b.out.as<float>();                                 \
        cuda::launch(#name, c, broken ? name<true> : name<false>, out); \
      }                                                                 \
    }                                                                   \
  }

const AddCases kCases({
    RULE_CASE(barrier_for_absent_threads, "deadlock", out),
    RULE_CASE(barrier_of_half_a_warp, "named-barrier", out),
    RULE_CASE(other_barrier, "shared-race", out),
    ASYNCHRONOUS_CASE(wrong_phase, "deadlock", out),
    ASYNCHRONOUS_CASE(too_many_arrivals, "mbarrier-arrivals", out),
    ASYNCHRONOUS_CASE(barrier_used_too_early, "shared-race", out),
    ASYNCHRONOUS_CASE(ordinary_access_to_mbarrier, "mbarrier-access", out),
    ASYNCHRONOUS_CASE(no_such_mbarrier, "mbarrier-uninitialised", out),
    ASYNCHRONOUS_CASE(initialised_twice, "mbarrier-init", out),
    ASYNCHRONOUS_CASE(more_bytes_than_are_counted, "mbarrier-bytes", out),
    ASYNCHRONOUS_CASE(too_many_bytes_expected, "deadlock", in_map, out),
    ASYNCHRONOUS_CASE(too_few_bytes_expected, "shared-race", in_map, out),
    ASYNCHRONOUS_CASE(read_before_the_wait, "shared-race", in_map, out),
    ASYNCHRONOUS_CASE(slot_released_early, "shared-race", in_map, out),
    ASYNCHRONOUS_CASE(barrier_not_fenced, "missing-mbarrier-fence", in_map, out),
    ASYNCHRONOUS_CASE(load_to_misaligned_tile, "misaligned-access", in_map, out, 4),
    ASYNCHRONOUS_CASE(load_of_another_rank, "tensor-map", volume_map, in_map, out),
    ASYNCHRONOUS_CASE(load_past_the_shared_end, "shared-out-of-bounds", in_map, out, 3 * kTile),
    ASYNCHRONOUS_CASE(load_past_the_global_end, "global-out-of-bounds", longer_map, in_map, out),
    ASYNCHRONOUS_CASE(load_never_waited_for, "unfinished-copy", in_map, out),
    ASYNCHRONOUS_CASE(store_without_proxy_fence, "missing-proxy-fence", out_map),
    ASYNCHRONOUS_CASE(proxy_fence_too_early, "missing-proxy-fence", out_map),
    ASYNCHRONOUS_CASE(store_without_barrier, "shared-race", out_map),
    ASYNCHRONOUS_CASE(stored_tile_overwritten, "shared-race", out_map),
    ASYNCHRONOUS_CASE(store_outlives_its_memory, "unfinished-copy", out_map),
    ASYNCHRONOUS_CASE(store_to_input, "read-only-write", in_map, out_map),
    WARPGROUPS_CASE(barrier_counts_differ, "named-barrier"),
    WARPGROUPS_CASE(registers_over_budget, "deadlock"),
    WARPGROUPS_CASE(released_more_than_held, "register-budget"),
});

}  // namespace
