// TMA and wgmma for test_hopper_products.py: boxes of tensors through shared memory, and one warpgroup's product of
// operands that the caller has laid out in shared memory byte by byte.
#include <cstring>

#include "../../csrc/cuda/primitives/launch.h"
#include "../../csrc/cuda/primitives/mbarrier.cuh"
#include "../../csrc/cuda/primitives/tensor_map.h"
#include "../../csrc/cuda/primitives/wgmma.cuh"
#include "guarded.h"

using namespace fastconv;
using namespace fastconv::cuda;

namespace {

constexpr int kThreads = 128, kDepth = 64;

// ---- boxes ---------------------------------------------------------------------------------------------------------
struct BoxParams {
  TensorMap map;
  int rank, x, y, z;
  int bytes;  // of the box
  unsigned char* image;
};

// A box to shared memory, and what lies there to `image`.
__global__ void load_box(const __grid_constant__ BoxParams p) {
  unsigned char* tile = dynamic_shared_memory();
  uint64_t* full = reinterpret_cast<uint64_t*>(tile + p.bytes);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(full, static_cast<uint32_t>(p.bytes));
    p.rank == 2 ? tma_load_2d(tile, &p.map, full, p.x, p.y) : tma_load_3d(tile, &p.map, full, p.x, p.y, p.z);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
  for (int i = static_cast<int>(threadIdx.x); i < p.bytes; i += kThreads) p.image[i] = tile[i];
}

// The way back.
__global__ void store_box(const __grid_constant__ BoxParams p) {
  unsigned char* tile = dynamic_shared_memory();
  for (int i = static_cast<int>(threadIdx.x); i < p.bytes; i += kThreads) tile[i] = p.image[i];
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    p.rank == 2 ? tma_store_2d(&p.map, tile, p.x, p.y) : tma_store_3d(&p.map, tile, p.x, p.y, p.z);
    tma_commit_stores();
    tma_wait_stores_read<0>();
    tma_wait_stores<0>();
  }
}

// ---- products ------------------------------------------------------------------------------------------------------
// d = A * B over 64 elements of K, or 32 floats (tf32). The images are copied to shared memory as they are;
// accumulators leave as thread by thread, register by register.
template <class T, OperandMajor kMajorA, OperandMajor kMajorB, int kColumns>
__global__ void product(const uint4* a_image, const uint4* b_image, float* d) {
  constexpr int kBytesA = 64 * kSwizzleBytes, kBytesB = kColumns * kSwizzleBytes;
  unsigned char* a = dynamic_shared_memory();
  unsigned char* b = a + kBytesA;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kBytesA / 16; i += kThreads) reinterpret_cast<uint4*>(a)[i] = a_image[i];
  for (int i = thread; i < kBytesB / 16; i += kThreads) reinterpret_cast<uint4*>(b)[i] = b_image[i];
  fence_proxy_async();
  __syncthreads();
  float acc[kColumns / 2];
  const uint64_t descriptor_a = matrix_descriptor<kMajorA>(a, kDepth);
  const uint64_t descriptor_b = matrix_descriptor<kMajorB>(b, kDepth);
  wgmma_fence(acc);
  for (int k = 0; k < kDepth / 16; ++k) {
    const uint64_t a_k = descriptor_a + k * kDescriptorStep<kMajorA>, b_k = descriptor_b + k * kDescriptorStep<kMajorB>;
    if constexpr (sizeof(T) == 4) {
      wgmma_k8_tf32(acc, a_k, b_k, k > 0);
    } else {
      wgmma_k16<T, kMajorA, kMajorB>(acc, a_k, b_k, k > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>(acc);
  for (int i = 0; i < kColumns / 2; ++i) d[thread * (kColumns / 2) + i] = acc[i];
}

template <class T, OperandMajor kMajorA, OperandMajor kMajorB, int kColumns>
void launch_product(const void* a, const void* b, float* d) {
  LaunchConfig config;
  config.grid = dim3(1);
  config.block = dim3(kThreads);
  config.dynamic_shared_bytes = (64 + kColumns) * kSwizzleBytes;
  config.footprint.reads("a", a, 64 * kSwizzleBytes).reads("b", b, kColumns * kSwizzleBytes);
  config.footprint.writes("d", d, sizeof(float) * 64 * kColumns);
  launch("product", config, product<T, kMajorA, kMajorB, kColumns>, static_cast<const uint4*>(a),
         static_cast<const uint4*>(b), d);
}

template <class T, int kColumns>
void launch_product(bool a_mn, bool b_mn, const void* a, const void* b, float* d) {
  constexpr auto kK = OperandMajor::kK, kMn = OperandMajor::kMn;
  if constexpr (sizeof(T) == 4) {
    if (a_mn || b_mn) throw std::invalid_argument("tf32 operands are K-major");
    launch_product<T, kK, kK, kColumns>(a, b, d);
  } else if (a_mn) {
    b_mn ? launch_product<T, kMn, kMn, kColumns>(a, b, d) : launch_product<T, kMn, kK, kColumns>(a, b, d);
  } else {
    b_mn ? launch_product<T, kK, kMn, kColumns>(a, b, d) : launch_product<T, kK, kK, kColumns>(a, b, d);
  }
}

template <class T>
void launch_product(int columns, bool a_mn, bool b_mn, const void* a, const void* b, float* d) {
  if (columns == 64) return launch_product<T, 64>(a_mn, b_mn, a, b, d);
  if (columns == 128) return launch_product<T, 128>(a_mn, b_mn, a, b, d);
  launch_product<T, 256>(a_mn, b_mn, a, b, d);
}

}  // namespace

// A float32 tensor of `extent`, contiguous dimension first and dense but for `stride`, in elements; the box lies at
// `coordinates`. Loads fill `image`, stores read it.
FASTCONV_EXPORT int move_box(int store, int as_tf32, int rank, float* data, const int64_t* extent,
                             const int64_t* stride, const int64_t* box, const int64_t* coordinates, int swizzle_bytes,
                             unsigned char* image, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    TensorMapSpec spec{data, DType::kFloat32, rank, {}, {}, {}, swizzle_bytes, as_tf32 != 0};
    size_t bytes = sizeof(float), elements = 1;
    for (int d = 0; d < rank; ++d) {
      spec.extent[d] = static_cast<uint64_t>(extent[d]);
      spec.stride[d] = static_cast<uint64_t>(stride[d]);
      spec.box[d] = static_cast<uint32_t>(box[d]);
      bytes *= spec.box[d];
      elements += (spec.extent[d] - 1) * spec.stride[d];
    }
    BoxParams params{make_tensor_map("tensor", spec),
                     rank,
                     static_cast<int>(coordinates[0]),
                     static_cast<int>(coordinates[1]),
                     rank > 2 ? static_cast<int>(coordinates[2]) : 0,
                     static_cast<int>(bytes),
                     image};
    LaunchConfig config;
    config.grid = dim3(1);
    config.block = dim3(kThreads);
    config.dynamic_shared_bytes = bytes + sizeof(uint64_t);
    if (store) {
      config.footprint.writes("tensor", data, elements * sizeof(float)).reads("image", image, bytes);
      launch("store_box", config, store_box, params);
    } else {
      config.footprint.reads("tensor", data, elements * sizeof(float)).writes("image", image, bytes);
      launch("load_box", config, load_box, params);
    }
  });
}

// `type` 0: float16, 1: bfloat16, 2: floats as tf32.
FASTCONV_EXPORT int warpgroup_product(int type, int columns, int a_mn_major, int b_mn_major, const void* a,
                                      const void* b, float* d, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    if (type == 0) launch_product<half_t>(columns, a_mn_major, b_mn_major, a, b, d);
    if (type == 1) launch_product<bfloat16_t>(columns, a_mn_major, b_mn_major, a, b, d);
    if (type == 2) launch_product<float>(columns, a_mn_major, b_mn_major, a, b, d);
  });
}

// The descriptor of a tile 1024 * `tile` bytes into dynamic shared memory, less that of the first one.
namespace {
template <OperandMajor kMajor>
__global__ void describe(uint64_t* out) {
  if (threadIdx.x == 0) *out = matrix_descriptor<kMajor>(dynamic_shared_memory(), kDepth);
}
}  // namespace

FASTCONV_EXPORT int tile_descriptor(int mn_major, uint64_t* descriptor, char* error, size_t error_bytes) {
  return guarded(error, error_bytes, [&] {
    LaunchConfig config;
    config.grid = dim3(1);
    config.block = dim3(32);
    config.dynamic_shared_bytes = kSwizzlePatternBytes;
    config.footprint.writes("descriptor", descriptor, sizeof *descriptor);
    launch("describe", config, mn_major ? describe<OperandMajor::kMn> : describe<OperandMajor::kK>, descriptor);
  });
}
