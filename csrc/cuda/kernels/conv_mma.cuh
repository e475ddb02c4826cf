// Convolution on tensor cores as an implicit GEMM: fprop, dgrad, transposed convolution and nearest upsampling with
// convolution, all as phases (phases.h). For one phase and group, with the window's taps numbered row by row,
//
//   gemm_m  output pixels (n, i, j)          A  the input, gathered: a chunk of 16 bytes of channels lies in one tap
//   gemm_n  output channels oc               B  weights [oc][tap][ic], dense: what pack_conv_weights makes, or KRSC
//   gemm_k  (tap, ic), ic innermost          D  epilogue(A * B), to any strides
//
//   blocks: neighbours differ in the tile of oc, then in the group, the phase, the pixels: they share the input's lines
//
// The input is never expanded. Once, a thread works out for each of its rows of A where the window starts in memory and
// which rows and columns of the window lie inside the image, as two bit masks; once, a block tabulates where the taps
// lie relative to that. A k-step is then a table entry, an addition and two bit tests a chunk, without a branch;
// padding and tails are zero-filled by cp.async.
#pragma once

#include "../conv_mma.h"
#include "../primitives/fast_divmod.cuh"
#include "gather_mma.cuh"

namespace fastconv::cuda {

// One axis of a PhasedConv as the kernel needs it. Output row i of phase f takes tap t from stored row i * in_step +
// floor((base[f] + t * tap_step) / scale).
struct ConvMmaAxis {
  int phases = 1, in_extent = 0, in_step = 1, tap_step = 1, scale = 1;
  int taps[kMaxPhases] = {}, base[kMaxPhases] = {}, count[kMaxPhases] = {};
  FastDivmod count_divmod[kMaxPhases];

  __device__ int tap_position(int phase, int tap) const {
    const int position = base[phase] + tap * tap_step;
    if (scale == 1) return position;
    return position >= 0 ? position / scale : -((-position + scale - 1) / scale);
  }
};

template <class T>
struct ConvMmaParams {
  const T* in;  // channels contiguous; strides in elements
  int64_t in_stride_n, in_stride_h, in_stride_w;
  const T* weights;
  int64_t w_stride_phase, w_stride_group, w_stride_out;
  int batch, in_channels, out_channels;  // channels of one group
  ConvMmaAxis h, w;
  FastDivmod tiles_n, groups, phases;  // of a block's number
  int64_t out_stride_n, out_stride_channel, out_stride_h, out_stride_w;
  int64_t partial_stride_split;  // of the partial sums [split][phase][pixel of the phase][channel of all groups]
  int64_t partial_stride_phase;
  MmaOutput<T> output;
};

struct alignas(16) TapPlace {
  int64_t offset;  // elements, relative to the window's origin
  int row, column;
};

// Fills the table of taps, which ends with one that is outside every window. `positions` holds the stored rows, then
// the stored columns of the taps, relative to the window's origin.
template <class T>
__device__ __forceinline__ void make_tap_table(const ConvMmaParams<T>& params, int phase_h, int phase_w, int threads,
                                               TapPlace* taps, int (&positions)[2][kConvMmaMaxTaps + 1]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int rows = params.h.taps[phase_h], columns = params.w.taps[phase_w];
  if (thread < rows) positions[0][thread] = params.h.tap_position(phase_h, thread);
  if (thread < columns) positions[1][thread] = params.w.tap_position(phase_w, thread);
  __syncthreads();
  for (int tap = thread; tap <= rows * columns; tap += threads) {
    if (tap == rows * columns) {
      taps[tap] = {0, kConvMmaMaxTaps, kConvMmaMaxTaps};
    } else {
      const int row = tap / columns, column = tap % columns;
      taps[tap] = {positions[0][row] * params.in_stride_h + positions[1][column] * params.in_stride_w, row, column};
    }
  }
  __syncthreads();
}

// Operand A: gathered pixels, chunks along the channels.
template <class Tile>
class ConvPixelLoader {
  using T = typename Tile::Element;

 public:
  __device__ __forceinline__ ConvPixelLoader(const ConvMmaParams<T>& params, int phase_h, int phase_w, int group,
                                             int64_t pixel0, int first_step, const TapPlace* taps,
                                             const int (&positions)[2][kConvMmaMaxTaps + 1])
      : taps_(taps),
        last_(params.h.taps[phase_h] * params.w.taps[phase_w]),
        channels_(params.in_channels),
        step_taps_(Tile::kDepth / params.in_channels),
        step_channels_(Tile::kDepth % params.in_channels) {
    const int64_t pixels = static_cast<int64_t>(params.batch) * params.h.count[phase_h] * params.w.count[phase_w];
#pragma unroll
    for (int slot = 0; slot < Tile::kSlots; ++slot) {
      rows_[slot] = columns_[slot] = 0;
      pixel_[slot] = params.in;
      if (pixel0 + Tile::row(slot) >= pixels) continue;
      int i, j;
      const int rest = params.w.count_divmod[phase_w].divmod(static_cast<int>(pixel0) + Tile::row(slot), j);
      const int n = params.h.count_divmod[phase_h].divmod(rest, i);
      i *= params.h.in_step, j *= params.w.in_step;
      pixel_[slot] += n * params.in_stride_n + i * params.in_stride_h + j * params.in_stride_w +
                      static_cast<int64_t>(group) * params.in_channels;
      for (int t = 0; t < params.h.taps[phase_h]; ++t) {
        rows_[slot] |= static_cast<unsigned>(is_inside(i + positions[0][t], params.h.in_extent)) << t;
      }
      for (int t = 0; t < params.w.taps[phase_w]; ++t) {
        columns_[slot] |= static_cast<unsigned>(is_inside(j + positions[1][t], params.w.in_extent)) << t;
      }
    }
    const int64_t k = static_cast<int64_t>(first_step) * Tile::kDepth + Tile::k(0);
    tap_ = static_cast<int>(k / channels_);
    channel_ = static_cast<int>(k % channels_);
    look_up();
  }

  __device__ __forceinline__ void load(int slot, void* shared) const {
    const bool valid = rows_[slot] >> row_ & columns_[slot] >> column_ & 1;
    cp_async_16(shared, pixel_[slot] + offset_, valid);
  }

  __device__ __forceinline__ void advance() {
    channel_ += step_channels_;
    const bool wraps = channel_ >= channels_;
    tap_ += step_taps_ + wraps;
    channel_ -= wraps ? channels_ : 0;
    look_up();
  }

 private:
  __device__ __forceinline__ void look_up() {
    const TapPlace tap = taps_[min(tap_, last_)];
    offset_ = tap.offset + channel_;
    row_ = tap.row, column_ = tap.column;
  }

  const T* pixel_[Tile::kSlots];
  unsigned rows_[Tile::kSlots], columns_[Tile::kSlots];  // bit t: tap t of the axis lies in the image
  const TapPlace* taps_;
  int last_, channels_, step_taps_, step_channels_;
  int tap_, channel_;
  int64_t offset_;  // of the current chunk, relative to pixel_
  int row_, column_;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, kGatherMinBlocks<Config>)
    conv_mma_kernel(const __grid_constant__ ConvMmaParams<typename Config::Element> params) {
  using T = typename Config::Element;
  __shared__ int positions[2][kConvMmaMaxTaps + 1];
  unsigned char* shared = dynamic_shared_memory();
  TapPlace* taps = reinterpret_cast<TapPlace*>(shared + Config::kSharedBytes);

  int tile_n, group, phase;
  int number = params.tiles_n.divmod(static_cast<int>(blockIdx.x), tile_n);
  number = params.groups.divmod(number, group);
  const int tile_m = params.phases.divmod(number, phase);
  const int phase_h = phase / params.w.phases, phase_w = phase % params.w.phases;
  const int count_h = params.h.count[phase_h], count_w = params.w.count[phase_w];
  const int64_t pixels = static_cast<int64_t>(params.batch) * count_h * count_w;
  const int64_t pixel0 = static_cast<int64_t>(tile_m) * Config::kTileM;
  if (pixel0 >= pixels) return;  // phases have up to one row and one column less than the first
  const int column0 = tile_n * Config::kTileN;

  // This block's share of the reduction.
  const int depth = params.h.taps[phase_h] * params.w.taps[phase_w] * params.in_channels;
  const int steps = (depth + Config::kTileK - 1) / Config::kTileK;
  const int splits = static_cast<int>(gridDim.y), split = static_cast<int>(blockIdx.y);
  const int first_step = static_cast<int>(static_cast<int64_t>(steps) * split / splits);
  const int last_step = static_cast<int>(static_cast<int64_t>(steps) * (split + 1) / splits);

  make_tap_table(params, phase_h, phase_w, Config::kThreads, taps, positions);
  ConvPixelLoader<typename Config::TileA> load_a(params, phase_h, phase_w, group, pixel0, first_step, taps, positions);
  ChunkLoader<typename Config::TileB> load_b(
      params.weights + phase * params.w_stride_phase + group * params.w_stride_group, params.w_stride_out, 1, column0,
      params.out_channels, first_step * Config::kTileK, depth);
  typename Config::Accumulators acc;
  mma_main_loop<Config>(load_a, load_b, last_step - first_step, shared, acc);

  MmaOutput<T> output = params.output;
  output.first_channel = static_cast<int64_t>(group) * params.out_channels;
  store_mma_tile<Config>(acc, shared, output, column0, [&](int row) {
    MmaRow at;
    const int64_t pixel = pixel0 + row;
    at.valid = pixel < pixels;
    int i, j;
    const int rest = params.w.count_divmod[phase_w].divmod(at.valid ? static_cast<int>(pixel) : 0, j);
    at.n = params.h.count_divmod[phase_h].divmod(rest, i);
    at.p = i * params.h.phases + phase_h, at.q = j * params.w.phases + phase_w;
    at.offset = at.n * params.out_stride_n + at.p * params.out_stride_h + at.q * params.out_stride_w +
                output.first_channel * params.out_stride_channel;
    at.partial = split * params.partial_stride_split + phase * params.partial_stride_phase +
                 pixel * params.groups.divisor * params.out_channels + output.first_channel;
    return at;
  });
}

}  // namespace fastconv::cuda
