// Bulk copies of a box of a tensor between global and shared memory (TMA), issued by one thread. A tensor map
// (tensor_map.h), a kernel parameter declared `const __grid_constant__ TensorMap`, says where the tensor lies and how
// large the box is; coordinates name the box's first element, the contiguous dimension first. Outside the tensor, loads
// give zeros and stores nothing. Shared addresses are multiples of 128, or of 8 * swizzle bytes. From sm_90 on.
#pragma once

#include "shared_address.cuh"
#include "sm90_asm.cuh"
#if defined(FASTCONV_EMULATED)
#include "../../emulator/device_tma.h"
#else
#include <cuda.h>
#endif

namespace fastconv::cuda {

#if defined(FASTCONV_EMULATED)

using TensorMap = emulator::TensorMap;

__forceinline__ void tma_load_2d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y,
                                 emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {x, y};
  emulator::tma_load(shared, map, barrier, 2, coordinates, caller);
}
__forceinline__ void tma_load_3d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y, int z,
                                 emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {x, y, z};
  emulator::tma_load(shared, map, barrier, 3, coordinates, caller);
}
__forceinline__ void tma_load_multicast_3d(void* shared, const TensorMap* map, uint64_t* barrier, uint16_t ranks, int x,
                                           int y, int z, emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {x, y, z};
  emulator::tma_load_multicast(shared, map, barrier, ranks, 3, coordinates, caller);
}
__forceinline__ void tma_store_2d(const TensorMap* map, const void* shared, int x, int y,
                                  emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {x, y};
  emulator::tma_store(map, shared, 2, coordinates, caller);
}
__forceinline__ void tma_store_3d(const TensorMap* map, const void* shared, int x, int y, int z,
                                  emulator::Caller caller = emulator::Caller::here()) {
  const int coordinates[] = {x, y, z};
  emulator::tma_store(map, shared, 3, coordinates, caller);
}
__forceinline__ void tma_commit_stores() { emulator::bulk_commit_group(); }
template <int kPending>
__forceinline__ void tma_wait_stores_read() {
  emulator::bulk_wait_group(kPending, true);
}
template <int kPending>
__forceinline__ void tma_wait_stores() {
  emulator::bulk_wait_group(kPending, false);
}

#else

using TensorMap = CUtensorMap;

// The box's bytes, those outside the tensor included, are reported to `barrier` as they arrive.
__device__ __forceinline__ void tma_load_2d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void tma_load_3d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y,
                                            int z) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z) : "memory");
}
// To every block of the cluster whose bit is set in `ranks`: the bytes, and the report of their arrival to the
// mbarrier, go to the place that `shared` and `barrier` have in the calling block.
__device__ __forceinline__ void tma_load_multicast_3d(void* shared, const TensorMap* map, uint64_t* barrier,
                                                      uint16_t ranks, int x, int y, int z) {
  FASTCONV_SM90(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%4, %5, %6}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(ranks), "r"(x), "r"(y), "r"(z) : "memory");
}
__device__ __forceinline__ void tma_store_2d(const TensorMap* map, const void* shared, int x, int y) {
  FASTCONV_SM90("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                "r"(shared_address(shared)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void tma_store_3d(const TensorMap* map, const void* shared, int x, int y, int z) {
  FASTCONV_SM90("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                "r"(shared_address(shared)), "r"(x), "r"(y), "r"(z) : "memory");
}

// The thread's stores since the last call form a group.
__device__ __forceinline__ void tma_commit_stores() { FASTCONV_SM90("cp.async.bulk.commit_group;" :: : "memory"); }
// Until all but the thread's kPending latest groups have read shared memory, which may then be written again.
template <int kPending>
__device__ __forceinline__ void tma_wait_stores_read() {
  FASTCONV_SM90("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Until they have written global memory too.
template <int kPending>
__device__ __forceinline__ void tma_wait_stores() {
  FASTCONV_SM90("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

#endif

}  // namespace fastconv::cuda
