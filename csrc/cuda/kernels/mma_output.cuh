// From a tensor-core tile's accumulators to memory, the epilogue on the way. Accumulators lie scattered over a warp, so
// that 16 rows of every warp at a time go through shared memory; then a thread holds 16 bytes of neighbouring columns
// of a row and stores them at once. Three ways, chosen by the host for the whole launch:
//
//   vectors    rows of d (and of the residual) contiguous and aligned: channel vectors in registers, 16-byte accesses
//
//   elements   anything else: any strides, ragged N, a parameter for every element
//
//   partials   split K: sums in float to the workspace; split_k_reduce.cuh adds them up and applies the epilogue
//
// A kernel says where rows of its tile lie through a function object `place(tile row) -> MmaRow`.
#pragma once

#include <limits>

#include "../primitives/pack.cuh"
#include "mma_main_loop.cuh"

namespace fastconv::cuda {

// A kernel parameter.
template <class T>
struct MmaOutput {
  T* d;
  int64_t stride_column;  // of d, in elements
  int64_t columns;        // the problem's N, also the epilogue's channels (from `first_channel` on)
  int64_t first_channel;
  bool vectors;
  bool rows_adjacent;  // stride along rows is 1 (NCHW): elements are dealt out down the rows
  float* partials;     // null: no split. Else (split, row, column), dense
  EpilogueArgs epilogue;
};

struct MmaRow {
  bool valid;
  int64_t offset;   // of the row's column 0 in d, in elements
  int64_t n, p, q;  // for the epilogue's views
  int64_t partial;  // of the row's column 0 in the partial sums
};

// Whether the `vectors` way is open: all of d's row strides must be multiples of a 16-byte vector, which the caller
// checks (`aligned_rows`), as the residual's are here. Channels of the epilogue's vectors need no alignment.
template <class T>
bool mma_vectors(const MmaOutput<T>& output, bool aligned_rows) {
  constexpr int kVector = 16 / sizeof(T);
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const EpilogueArgs& e = output.epilogue;
  bool residual = true;
  if (e.residual.present()) {
    residual = aligned(e.residual.data) && e.residual.stride[1] == 1 && output.first_channel % kVector == 0;
    for (const int axis : {0, 2, 3}) {
      residual = residual && (e.residual.size[axis] == 1 || e.residual.stride[axis] % kVector == 0);
    }
  }
  return aligned_rows && aligned(output.d) && output.stride_column == 1 && output.columns % kVector == 0 && residual &&
         e.param_kind != ParamKind::kFull;
}

namespace mma_detail {

// One row's vector of accumulators through the epilogue.
template <class T>
struct VectorEpilogue {
  static constexpr int kVector = 16 / sizeof(T);
  float bias[kVector], scale[kVector], shift[kVector];

  __device__ __forceinline__ VectorEpilogue(const EpilogueArgs& e, int64_t channel) {
    const auto* biases = static_cast<const float*>(e.bias);
    const auto* scales = static_cast<const float*>(e.scale);
    const auto* shifts = static_cast<const float*>(e.shift);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      bias[i] = biases ? biases[channel + i] : 0.0f;
      scale[i] = scales ? scales[channel + i] : 1.0f;
      shift[i] = shifts ? shifts[channel + i] : 0.0f;
    }
  }

  __device__ __forceinline__ Pack<T, kVector> finish(const EpilogueArgs& e, float (&v)[kVector], int64_t channel,
                                                     const MmaRow& row) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = scale[i] * (v[i] + bias[i]) + shift[i];
    if (e.residual.present()) {
      const Pack<T, kVector> r =
          load_pack<kVector>(e.residual.as<const T>() + e.residual.offset(row.n, channel, row.p, row.q));
#pragma unroll
      for (int i = 0; i < kVector; ++i) v[i] += to_accumulate(r.value[i]);
    }
    if (e.act == Activation::kIdentity || e.act == Activation::kRelu || e.act == Activation::kRelu6) {
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      const float low = e.act == Activation::kIdentity ? -kInfinity : 0.0f;
      const float high = e.act == Activation::kRelu6 ? 6.0f : kInfinity;
#pragma unroll
      for (int i = 0; i < kVector; ++i) v[i] = min_nan(max_nan(v[i], low), high);
    } else {
      // The code of all activations is long: it stands here once, and the vector is rotated past it.
#pragma unroll 1
      for (int i = 0; i < kVector; ++i) {
        const float param = e.param_kind == ParamKind::kPerChannel
                                ? static_cast<const float*>(e.channel_param)[channel + i]
                                : static_cast<float>(e.param);
        const float first =
            visit_activation(e.act, [&](auto f) { return decltype(f)::template apply<float>(v[0], param); });
#pragma unroll
        for (int j = 0; j + 1 < kVector; ++j) v[j] = v[j + 1];
        v[kVector - 1] = first;
      }
    }
    Pack<T, kVector> stored;
#pragma unroll
    for (int i = 0; i < kVector; ++i) stored.value[i] = from_accumulate<T>(v[i]);
    return stored;
  }
};

// Eight floats are two 16-byte reads: every other four lanes take the second half first, so that eight lanes of one
// phase, 32 bytes apart, read from all banks.
__device__ __forceinline__ void read_vector(const float* slice, float (&v)[8]) {
  const bool swapped = threadIdx.x / 4 % 2 == 1;
  const Pack<float, 4> first = load_pack<4>(slice + (swapped ? 4 : 0)),
                       second = load_pack<4>(slice + (swapped ? 0 : 4));
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // selects: an array indexed at run time would live in memory
    v[i] = swapped ? second.value[i] : first.value[i];
    v[4 + i] = swapped ? first.value[i] : second.value[i];
  }
}
__device__ __forceinline__ void read_vector(const float* slice, float (&v)[4]) {
  const Pack<float, 4> quad = load_pack<4>(slice);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = quad.value[i];
}

// This thread's accumulators of the warp's rows slab * 16 .. + 15 into the slice.
template <class Config>
__device__ __forceinline__ void stage_slab(const typename Config::Accumulators& acc, int slab, float* slice) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* corner = slice + (warp_row<Config>() / Config::kWarpM * 16 + lane / 4) * Config::kSliceStride +
                  warp_column<Config>() + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Config::kMmaM; ++i) {
    if (i != slab) continue;  // registers cannot be indexed by a run-time value
#pragma unroll
    for (int j = 0; j < Config::kMmaN; ++j) {
      store_pack<2>(corner + j * 8, Pack<float, 2>{{acc[i][j][0], acc[i][j][1]}});
      store_pack<2>(corner + 8 * Config::kSliceStride + j * 8, Pack<float, 2>{{acc[i][j][2], acc[i][j][3]}});
    }
  }
}

// Row of the tile that row `row` of the slice is, in slab `slab`.
template <class Config>
__device__ __forceinline__ int tile_row(int row, int slab) {
  return row / 16 * Config::kWarpM + slab * 16 + row % 16;
}

}  // namespace mma_detail

// Stores the block's tile, whose first column is `n0`. Starts with a barrier; `shared` is Config::kSharedBytes.
template <class Config, class Place>
__device__ __forceinline__ void store_mma_tile(const typename Config::Accumulators& acc, unsigned char* shared,
                                               const MmaOutput<typename Config::Element>& output, int64_t n0,
                                               const Place& place) {
  using namespace mma_detail;
  using T = typename Config::Element;
  constexpr int kTileN = Config::kTileN, kThreads = Config::kThreads, kStride = Config::kSliceStride;
  constexpr int kVector = 16 / sizeof(T), kGroups = kTileN / kVector, kQuads = kTileN / 4;
  static_assert(kThreads % kGroups == 0 && kThreads % kQuads == 0, "a thread keeps to its columns");
  float* slice = reinterpret_cast<float*>(shared);
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int slab = 0; slab < Config::kMmaM; ++slab) {
    __syncthreads();
    stage_slab<Config>(acc, slab, slice);
    __syncthreads();
    if (output.partials && output.columns % 4 == 0) {
      const int column = thread % kQuads * 4;
      for (int row = thread / kQuads; row < Config::kSliceRows; row += kThreads / kQuads) {
        const MmaRow at = place(tile_row<Config>(row, slab));
        if (!at.valid || n0 + column >= output.columns) continue;
        store_pack<4>(output.partials + at.partial + n0 + column, load_pack<4>(slice + row * kStride + column));
      }
    } else if (output.vectors && !output.partials) {
      const int column = thread % kGroups * kVector;
      const int64_t n = n0 + column;
      if (n >= output.columns) continue;
      const VectorEpilogue<T> epilogue(output.epilogue, output.first_channel + n);
#pragma unroll 1
      for (int row = thread / kGroups; row < Config::kSliceRows; row += kThreads / kGroups) {
        const MmaRow at = place(tile_row<Config>(row, slab));
        if (!at.valid) continue;
        float v[kVector];
        read_vector(slice + row * kStride + column, v);
        store_pack<kVector>(output.d + at.offset + n,
                            epilogue.finish(output.epilogue, v, output.first_channel + n, at));
      }
    } else {
#pragma unroll 1
      for (int i = thread; i < Config::kSliceRows * kTileN; i += kThreads) {
        const int row = output.rows_adjacent ? i % Config::kSliceRows : i / kTileN;
        const int column = output.rows_adjacent ? i / Config::kSliceRows : i % kTileN;
        const MmaRow at = place(tile_row<Config>(row, slab));
        const int64_t n = n0 + column;
        if (!at.valid || n >= output.columns) continue;
        const float sum = slice[row * kStride + column];
        if (output.partials) {
          output.partials[at.partial + n] = sum;
        } else {
          output.d[at.offset + n * output.stride_column] =
              apply_epilogue<T>(output.epilogue, sum, at.n, output.first_channel + n, at.p, at.q);
        }
      }
    }
  }
}

}  // namespace fastconv::cuda
