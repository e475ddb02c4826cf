// Clusters for test_clusters.py: multicast copies, and sums over the shared memory of all blocks of a cluster.
#include "../../csrc/cuda/primitives/cluster.cuh"
#include "../../csrc/cuda/primitives/launch.h"
#include "../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../csrc/cuda/primitives/tensor_map.h"
#include "guarded.h"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

constexpr int kThreads = 64, kColumns = 32, kRows = 8;  // of a box of floats, in a swizzle of 128 bytes
constexpr int kBoxBytes = kColumns * kRows * static_cast<int>(sizeof(float));

struct Params {
  TensorMap map;
  int columns;  // of the grid, in clusters
  int rounds;
  float* out;  // (blocks, kRows, kColumns) of sums
};

// Each round one box for each block of the cluster, which that block fetches for all of them; every block adds up, byte
// by byte of the swizzled tile, all boxes of all rounds.
__global__ void gather(const __grid_constant__ Params p) {
  const int rank = static_cast<int>(cluster_rank()), blocks = static_cast<int>(cluster_blocks());
  unsigned char* tile = dynamic_shared_memory();
  uint64_t* full = reinterpret_cast<uint64_t*>(tile + blocks * kBoxBytes);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    fence_mbarrier_init();
  }
  cluster_sync();
  const int cluster = static_cast<int>(blockIdx.y / 2) * p.columns + static_cast<int>(blockIdx.x / 2);
  float sum[kColumns * kRows / kThreads] = {};
  for (int round = 0; round < p.rounds; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(full, static_cast<uint32_t>(blocks * kBoxBytes));
      tma_load_multicast_3d(tile + rank * kBoxBytes, &p.map, full, static_cast<uint16_t>((1 << blocks) - 1), 0,
                            (cluster * p.rounds + round) * kRows, rank);
    }
    mbarrier_wait(full, static_cast<uint32_t>(round) % 2);
    for (int box = 0; box < blocks; ++box) {
      const float* values = reinterpret_cast<const float*>(tile + box * kBoxBytes);
      for (int i = 0; i < kColumns * kRows / kThreads; ++i) sum[i] += values[i * kThreads + threadIdx.x];
    }
    cluster_sync();
  }
  const int block = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
  for (int i = 0; i < kColumns * kRows / kThreads; ++i)
    p.out[block * kColumns * kRows + i * kThreads + threadIdx.x] = sum[i];
}

// out[block] = 1000 * rank + the sum of `in` over the cluster, read from the other blocks' shared memory.
__global__ void add_over_cluster(const float* in, float* out) {
  float* mine = reinterpret_cast<float*>(dynamic_shared_memory());
  const int block = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
  if (threadIdx.x == 0) *mine = in[block];
  cluster_sync();
  if (threadIdx.x == 0) {
    float sum = 1000.0f * static_cast<float>(cluster_rank());
    for (uint32_t rank = 0; rank < cluster_blocks(); ++rank) sum += *map_shared_rank(mine, rank);
    out[block] = sum;
  }
  cluster_sync();
}

}  // namespace

// `in` is (4, clusters * rounds * kRows, kColumns): of each cluster's rounds the box of each of its 2 x 2 blocks.
FASTCONV_EXPORT int cluster_gather(int columns, int rows, int rounds, const float* in, float* out, char* error,
                                   size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    const uint64_t height = static_cast<uint64_t>(columns * rows * rounds * kRows);
    const size_t elements = 4 * height * kColumns;
    Params params{make_tensor_map("in", {in,
                                         DType::kFloat32,
                                         3,
                                         {kColumns, height, 4},
                                         {1, kColumns, height * kColumns},
                                         {kColumns, kRows, 1},
                                         128}),
                  columns, rounds, out};
    LaunchConfig config;
    config.grid = dim3(static_cast<unsigned>(2 * columns), static_cast<unsigned>(2 * rows));
    config.cluster = dim3(2, 2);
    config.block = dim3(kThreads);
    config.dynamic_shared_bytes = 4 * kBoxBytes + sizeof(uint64_t);
    config.footprint.reads("in", in, elements * sizeof(float));
    config.footprint.writes("out", out, sizeof(float) * 4 * kColumns * kRows * static_cast<size_t>(columns * rows));
    launch("gather", config, gather, params);
  });
}

FASTCONV_EXPORT int cluster_sum(int columns, int rows, const float* in, float* out, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    LaunchConfig config;
    config.grid = dim3(static_cast<unsigned>(4 * columns), static_cast<unsigned>(2 * rows));
    config.cluster = dim3(4, 2);
    config.block = dim3(kThreads);
    config.dynamic_shared_bytes = sizeof(float);
    const size_t bytes = sizeof(float) * 8 * static_cast<size_t>(columns * rows);
    config.footprint.reads("in", in, bytes).writes("out", out, bytes);
    launch("add_over_cluster", config, add_over_cluster, in, out);
  });
}
