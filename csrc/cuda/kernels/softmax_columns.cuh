// How blocks share the columns of a softmax over the middle axis of (outer, axis, inner): the element at position a of
// column (o, i) lies at (o * axis + a) * inner + i. A warp holds `lanes` columns, or packs of neighbouring columns, by
// 32 / lanes of its threads each, and a column is worked on by the same threads of `column_warps` warps:
//
//   inner == 1   a column is a row in memory: its threads are neighbouring lanes and move packs of the row
//   else         neighbouring lanes hold neighbouring columns, and move packs of columns
//
// Who takes which element depends on axis, inner and how the tensors are aligned, never on the batch or the device:
// sums come out the same everywhere.
#pragma once

#include "../../common/calls.h"
#include "image_index.cuh"

namespace fastconv::cuda {

template <class T, int kPack_, bool kAlongInner_, int kBytes>
struct SoftmaxConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_;
  static constexpr bool kAlongInner = kAlongInner_;         // a pack: one element of each of kPack columns,
  static constexpr int kColumns = kAlongInner ? kPack : 1;  // or kPack elements of one column
  static constexpr int kAxisPack = kAlongInner ? 1 : kPack;
  // Packs of a tensor that a thread loads before it uses the first: kBytes, in single elements kBytes / 4.
  static constexpr int kKept = kBytes / (kPack > 1 || sizeof(T) > 4 ? kPack * static_cast<int>(sizeof(T)) : 4);
  static_assert(kPack * sizeof(T) <= 16);
};

constexpr int kSoftmaxThreads = 1024;  // at most
constexpr int kSoftmaxWarps = kSoftmaxThreads / 32;

struct SoftmaxParams {
  const void* x;  // backward: y of the forward
  const void* dy;
  void* y;                // backward: dx
  int64_t columns, axis;  // columns in packs, where packs lie along inner
  int64_t inner;
  Divider inner_divider;  // of columns
  int lane_bits;          // log2 of the columns that a warp holds
  int warp_bits;          // log2 of the warps of a column
  bool columns_in_lanes;  // neighbouring lanes: neighbouring columns, else one column's
  bool stored;            // long columns: elements wait in shared memory for the second pass, else x is read again
};

// A thread's part of the work.
template <class Config>
struct SoftmaxShare {
  using Acc = typename Config::Acc;
  int column, helper_in_warp;  // of the warp's columns; of the warp's threads for it
  int64_t first;               // element where the column starts
  int start, step;             // positions of the packs that this thread takes,
  int64_t end;                 // below this
  int64_t axis_stride;         // elements from one position to the next

  __device__ __forceinline__ explicit SoftmaxShare(const SoftmaxParams& params) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int helper_bits = 5 - params.lane_bits;
    column = params.columns_in_lanes ? lane & ((1 << params.lane_bits) - 1) : lane >> helper_bits;
    helper_in_warp = params.columns_in_lanes ? lane >> params.lane_bits : lane & ((1 << helper_bits) - 1);
    const int helper = ((warp & ((1 << params.warp_bits) - 1)) << helper_bits) + helper_in_warp;
    const int groups = static_cast<int>(blockDim.x) / 32 >> params.warp_bits;
    const int64_t group = static_cast<int64_t>(blockIdx.x) * groups + (warp >> params.warp_bits);
    const int64_t at = (group << params.lane_bits) + column;
    const bool inside = at < params.columns;
    int64_t rest;
    const int64_t outer = params.inner_divider.divide(inside ? at : 0, rest);
    axis_stride = params.inner;
    first = outer * params.axis * axis_stride + rest * Config::kColumns;
    start = helper * Config::kAxisPack;
    step = Config::kAxisPack << (helper_bits + params.warp_bits);
    end = inside ? params.axis : 0;
  }

  // Combines the values of a column's threads in a fixed order; all of them get the result. All threads call it.
  template <class Op>
  __device__ __forceinline__ void reduce(const SoftmaxParams& params, Acc (&v)[Config::kColumns], Acc (*shared)[32],
                                         Op op) const {
    constexpr int kColumns = Config::kColumns;
    const int lane_step = params.columns_in_lanes ? 1 << params.lane_bits : 1;
    const int lane_end = params.columns_in_lanes ? 32 : 32 >> params.lane_bits;
    for (int apart = lane_step; apart < lane_end; apart *= 2) {
#pragma unroll
      for (int e = 0; e < kColumns; ++e) v[e] = op(v[e], __shfl_xor_sync(0xffffffffu, v[e], apart));
    }
    if (params.warp_bits == 0) return;
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = 1 << params.warp_bits;
    if (helper_in_warp == 0) {
#pragma unroll
      for (int e = 0; e < kColumns; ++e) shared[warp][column * kColumns + e] = v[e];
    }
    __syncthreads();
    Acc(*mine)[32] = shared + (warp & -warps);
#pragma unroll
    for (int e = 0; e < kColumns; ++e) v[e] = mine[0][column * kColumns + e];
#pragma unroll 4
    for (int w = 1; w < warps; ++w) {
#pragma unroll
      for (int e = 0; e < kColumns; ++e) v[e] = op(v[e], mine[w][column * kColumns + e]);
    }
    __syncthreads();  // the next reduction writes there
  }

  // How many positions are left from one on, or as many as a thread's packs may span.
  __device__ __forceinline__ int left(int64_t from) const {
    const int64_t positions = end - from;
    return positions < Config::kKept * step ? static_cast<int>(positions) : Config::kKept * step;
  }
  // This thread's packs from position `from` on, kKept at most; past the end `outside`.
  template <class T>
  __device__ __forceinline__ void load(Pack<T, Config::kPack> (&v)[Config::kKept], const T* x, int64_t from,
                                       T outside) const {
    const T* p = x + first + from * axis_stride;
    const int64_t ahead = step * axis_stride;
    const int left_here = left(from);
#pragma unroll
    for (int k = 0; k < Config::kKept; ++k, p += ahead) {
      if (k * step < left_here) {
        v[k] = load_pack<Config::kPack>(p);
      } else {
#pragma unroll
        for (int e = 0; e < Config::kPack; ++e) v[k].value[e] = outside;
      }
    }
  }
};

inline int log2_at_least(int64_t n) {
  int bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  return bits;
}

// Who works on what. False: the threads of a block cannot keep a column in their registers; then `params` and `config`
// are for the kernels that loop over it.
template <class Config>
bool share_columns(const SoftmaxCall& call, SoftmaxParams& params, LaunchConfig& config) {
  constexpr int kBytes = Config::kPack * static_cast<int>(sizeof(typename Config::Element));
  const auto parts = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  params.x = call.x, params.dy = call.dy, params.y = call.y;
  params.columns = call.outer * call.inner / Config::kColumns, params.axis = call.axis, params.inner = call.inner;
  params.inner_divider = Divider(call.inner / Config::kColumns, params.columns);
  params.columns_in_lanes = call.inner > 1;
  params.stored = false;
  const int64_t positions = parts(call.axis, Config::kAxisPack);
  const int useful = log2_at_least(positions) < 5 ? log2_at_least(positions) : 5;  // threads of a warp, for a column
  int helper_bits = useful;
  if (params.columns_in_lanes) {
    // 64 bytes of neighbouring columns, where there are, and more where fewer threads keep the axis.
    helper_bits = 5 - log2_at_least(64 / kBytes < 32 ? 64 / kBytes : 32);
    const int by_columns = 5 - log2_at_least(call.inner / Config::kColumns);
    const int by_axis = log2_at_least(parts(positions, Config::kKept));
    if (by_axis < helper_bits) helper_bits = by_axis;
    if (by_columns > helper_bits) helper_bits = by_columns;
    if (useful < helper_bits) helper_bits = useful;
  }
  params.lane_bits = 5 - helper_bits;
  params.warp_bits = log2_at_least(parts(positions, int64_t{Config::kKept} << helper_bits));
  const bool kept = 1 << params.warp_bits <= kSoftmaxWarps;
  if (!kept) params.warp_bits = log2_at_least(kSoftmaxWarps);

  const int warps = 1 << params.warp_bits < kFlatThreads / 32 ? kFlatThreads / 32 : 1 << params.warp_bits;
  const int64_t block_columns = static_cast<int64_t>(warps >> params.warp_bits) << params.lane_bits;
  const int64_t blocks = parts(params.columns, block_columns);
  if (blocks > 0x7fffffff) {
    throw NotServed("softmax: no algorithm serves this problem:\n  online: " + std::to_string(params.columns) +
                    " columns are more than one grid holds");
  }
  config.block = dim3(static_cast<unsigned>(warps) * 32);
  config.grid = dim3(static_cast<unsigned>(blocks));
  return kept;
}

}  // namespace fastconv::cuda
