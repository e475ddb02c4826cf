// Phases of a convolution (phases.h: input gradient, transposed convolution, summed filters after upsampling) as
// implicit matrix products for wgmma_pipeline.cuh, all of them in one launch: a tile belongs to one phase, and a step
// of its reduction is 64 channels of one of the phase's taps.
//
//   A   pixels of a phase: columns of im2col, K-major. The box of base pixels starts where the first phase's lowest tap
//       reads; a phase is an offset from there, and taps that step backwards start at the far end. Phases differ by at
//       most a row and a column, so four boxes serve them all.
//   B   filters with output channels contiguous, MN-major: a box for every 64 of them. KRSC filters of an input
//       gradient are read where they lie.
//   D   every phases-th row and column: by TMA where there is one phase and D is NHWC, in 16-byte vectors where only
//       the latter holds, else by the element
//
// Phases with more taps come first, so that the launch ends on short tiles. A phase without taps takes one step beyond
// the last channel, of zeros: the epilogue of 0.
#pragma once

#include "../conv_mma.h"
#include "../wgmma_support.h"
#include "conv_wgmma.cuh"
#include "gemm_wgmma.cuh"

namespace fastconv::cuda {

constexpr int kMaxWgmmaPhases = 16;

struct WgmmaPhase {
  int first_tile, tiles_m;
  int rows;                // output pixels
  int steps;               // of a tile, at least one
  int box;                 // of base pixels
  int taps_w;              // 0: no taps
  int offset_h, offset_w;  // of tap 0, from the base pixel
  int first_tap, row_tap;  // in the filters: tap 0, and from a row's last tap to the next row's first
  int h, w;                // the first output row and column
  FastDivmod image_pixels, width;
};

template <class T>
struct PhasesWgmmaOutput {
  TensorMap map;
  bool by_tma, vectors;
  int columns;  // output channels of a group
  T* data;
  int64_t stride_image, stride_p, stride_q, stride_column;  // in elements
  int step_h, step_w;                                       // of a phase's rows and columns
  int phase_bits;                                           // a batch is a group << phase_bits | a phase
  int count;
  WgmmaPhase phases[kMaxWgmmaPhases];

  __device__ __forceinline__ int group(int batch) const { return batch >> phase_bits; }
  __device__ __forceinline__ const WgmmaPhase& phase(int batch) const {
    return phases[batch & ((1 << phase_bits) - 1)];
  }
  __device__ __forceinline__ int rows_of(int batch) const { return phase(batch).rows; }
  __device__ __forceinline__ int channel(int batch, int column) const { return group(batch) * columns + column; }
  __device__ __forceinline__ OutputRow<T> row(int batch, int pixel) const {
    const WgmmaPhase& f = phase(batch);
    int of_image, j;
    const int n = f.image_pixels.divmod(pixel, of_image), i = f.width.divmod(of_image, j);
    const int p = f.h + i * step_h, q = f.w + j * step_w;
    return {data + n * stride_image + p * stride_p + q * stride_q + channel(batch, 0) * stride_column, n, p, q};
  }
};

template <class T>
struct PhasesWgmmaWork {
  TensorMap in[4], w;
  PhasesWgmmaOutput<T> output;
  int tiles_n, tiles;    // tiles: of all phases and groups
  int channels, beyond;  // of a group of the input, and the first that it does not have
  int lower_h, lower_w;  // the box's first base pixel, and their distance
  int base_step_h, base_step_w;
  int tap_step_h, tap_step_w;  // through the input; may be negative
  int filter_step;             // from a tap to the next in its row of the filter

  template <class Config>
  __device__ __forceinline__ WgmmaTile tile(int number) const {
    int phase = 0;
    while (phase + 1 < output.count && number >= output.phases[phase + 1].first_tile) ++phase;
    const WgmmaPhase& f = output.phases[phase];
    const int of_phase = number - f.first_tile, tiles_of_group = f.tiles_m * tiles_n;
    const TilePlace place = raster_tile(of_phase % tiles_of_group, f.tiles_m, tiles_n);
    return {of_phase / tiles_of_group << output.phase_bits | phase, place.row * Config::kTileM,
            place.column * Config::kTileN, f.steps};
  }

  template <class Config>
  struct Source {
    const PhasesWgmmaWork& work;
    const WgmmaPhase& phase;
    int first_channel, first_column;
    int image, base_h, base_w;
    int c, tap, s;
    int offset_h, offset_w;

    __device__ __forceinline__ void fetch(unsigned char* a, unsigned char* b, uint64_t* full) {
      tma_load_im2col_4d(a, &work.in[phase.box], full, first_channel + c, base_w, base_h, image,
                         static_cast<uint16_t>(offset_w), static_cast<uint16_t>(offset_h));
      fetch_operand<Config, Config::kTileN, 1>(b, &work.w, full, true, first_column, first_channel + c, tap);
      c += Config::kTileK;
      if (c < work.channels) return;
      c = 0;
      if (++s < phase.taps_w) {
        offset_w += work.tap_step_w, tap += work.filter_step;
      } else {
        s = 0, offset_w = phase.offset_w, offset_h += work.tap_step_h, tap += phase.row_tap;
      }
    }
  };
  template <class Config>
  __device__ __forceinline__ Source<Config> source(const WgmmaTile& tile) const {
    const WgmmaPhase& f = output.phase(tile.batch);
    int of_image, j;
    const int n = f.image_pixels.divmod(tile.m, of_image), i = f.width.divmod(of_image, j);
    return {*this,
            f,
            f.taps_w > 0 ? output.group(tile.batch) * channels : beyond,
            tile.n,
            n,
            lower_h + i * base_step_h,
            lower_w + j * base_step_w,
            0,
            f.first_tap,
            0,
            f.offset_h,
            f.offset_w};
  }

  template <class F>
  __device__ __forceinline__ void visit_majors(F&& f) const {
    f(MajorConstant<OperandMajor::kK>(), MajorConstant<OperandMajor::kMn>());
  }
};

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    phases_wgmma_kernel(const __grid_constant__ PhasesWgmmaWork<typename Config::Element> work,
                        const __grid_constant__ Epilogue epilogue) {
  wgmma_pipeline<Config>(work, epilogue);
}

// The box of base pixels that a phase of `count` rows (or columns) reads from, and how far taps of all phases reach.
inline Im2colAxis phases_im2col_axis(const PhaseAxis& a, int64_t count) {
  bool found = false;
  int64_t lowest = 0, highest = 0;
  for (int f = 0; f < a.phases; ++f) {
    if (a.count[f] == 0 || a.taps[f] == 0) continue;
    const int64_t first = a.input(f, 0, 0), last = a.input(f, 0, a.taps[f] - 1);
    lowest = std::min({first, last, found ? lowest : first});
    highest = std::max({first, last, found ? highest : first});
    found = true;
  }
  return {lowest, lowest + (count - 1) * a.in_step - (a.in_extent - 1), highest - lowest};
}

// Phases that have pixels, those of most steps first. Returns their number.
inline int list_phases(const ConvMmaProblem& problem, int64_t channel_steps, WgmmaPhase (&phases)[kMaxWgmmaPhases]) {
  const PhasedConv& conv = problem.conv;
  const PhaseAxis &h = conv.h, &w = conv.w;
  const int64_t lower_h = phases_im2col_axis(h, 1).lower, lower_w = phases_im2col_axis(w, 1).lower;
  const int most_h = most_of(h.count), most_w = most_of(w.count), most_taps = most_of(h.taps) * most_of(w.taps);
  int count = 0;
  for (int number = 0; number < conv.phases(); ++number) {
    const int fh = number / w.phases, fw = number % w.phases;
    if (h.count[fh] == 0 || w.count[fw] == 0) continue;
    const int taps_h = h.taps[fh], taps_w = w.taps[fw];
    // Summed filters lie in order, those of a phase after those of the last.
    const auto filter_tap = [&](int th, int tw) {
      if (problem.sums()) return number * most_taps + th * taps_w + tw;
      return h.filter(fh, th) * static_cast<int>(problem.weights.size[3]) + w.filter(fw, tw);
    };
    WgmmaPhase f = {};
    f.rows = static_cast<int>(conv.N * h.count[fh] * w.count[fw]);
    f.steps = 1;
    f.box = (h.count[fh] < most_h) * 2 + (w.count[fw] < most_w);
    if (taps_h > 0 && taps_w > 0) {
      f.steps = static_cast<int>(taps_h * taps_w * channel_steps), f.taps_w = taps_w;
      f.offset_h = static_cast<int>(h.in_base[fh] - lower_h), f.offset_w = static_cast<int>(w.in_base[fw] - lower_w);
      f.first_tap = filter_tap(0, 0), f.row_tap = filter_tap(1, 0) - filter_tap(0, taps_w - 1);
    }
    f.h = fh, f.w = fw;
    f.image_pixels = FastDivmod(int64_t{h.count[fh]} * w.count[fw]), f.width = FastDivmod(w.count[fw]);
    int place = count++;
    for (; place > 0 && phases[place - 1].steps < f.steps; --place) phases[place] = phases[place - 1];
    phases[place] = f;
  }
  return count;
}

// The operands in form: the input's channels contiguous, `channels` in a group, in 16-byte multiples.
template <class T>
struct PhasesWgmmaOperands {
  TensorView in;
  int64_t channels;
  ColumnWeights<T> weights;
};

// The work for tiles of `tile_n` columns, all but the map of the output.
template <class T>
PhasesWgmmaWork<T> phases_wgmma_work(const ConvMmaProblem& problem, const PhasesWgmmaOperands<T>& operands,
                                     int tile_n) {
  using Config = WgmmaConfig<T, 64, 8>;  // what all have in common
  const PhasedConv& conv = problem.conv;
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  const auto extent = [](int64_t value) { return static_cast<uint64_t>(value); };
  PhasesWgmmaWork<T> work = {};
  PhasesWgmmaOutput<T>& out = work.output;
  out.count = list_phases(problem, (operands.channels + Config::kTileK - 1) / Config::kTileK, out.phases);
  out.columns = narrow(conv.out_channels);
  work.tiles_n = (out.columns + tile_n - 1) / tile_n;
  const int most_h = most_of(conv.h.count), most_w = most_of(conv.w.count);
  for (int box = 0; box < 4; ++box) {
    const Im2colAxis h = phases_im2col_axis(conv.h, most_h - box / 2), w = phases_im2col_axis(conv.w, most_w - box % 2);
    bool used = false;
    for (int i = 0; i < out.count; ++i) used = used || out.phases[i].box == box;
    if (used)
      work.in[box] = image_map(operands.in, h, w, conv.h.in_step, conv.w.in_step, Config::kTileK, Config::kTileM);
    work.lower_h = narrow(h.lower), work.lower_w = narrow(w.lower);
  }
  for (int i = 0; i < out.count; ++i) {
    WgmmaPhase& f = out.phases[i];
    f.tiles_m = (f.rows + Config::kTileM - 1) / Config::kTileM;
    f.first_tile = work.tiles;
    work.tiles += f.tiles_m * work.tiles_n * narrow(conv.groups);
  }
  while (1 << out.phase_bits < out.count) ++out.phase_bits;
  out.data = conv.out.as<T>();
  out.stride_image = conv.out.stride[0], out.stride_p = conv.out.stride[2], out.stride_q = conv.out.stride[3];
  out.stride_column = conv.out.stride[1];
  out.step_h = conv.h.phases, out.step_w = conv.w.phases;
  out.vectors = in_whole_chunks<T>(conv.out, conv.out_channels);

  const ColumnWeights<T>& weights = operands.weights;
  TensorMapSpec filters{weights.data, conv.dtype, 3, {}, {}, {}, kSwizzleBytes};
  filters.extent[0] = extent(conv.out_channels), filters.extent[1] = extent(conv.groups * conv.in_channels);
  filters.extent[2] = extent(weights.taps);
  filters.stride[1] = extent(weights.stride_in), filters.stride[2] = extent(weights.stride_tap);
  filters.box[0] = Config::kTileK, filters.box[1] = Config::kTileK, filters.box[2] = 1;
  work.w = make_tensor_map("w", filters);
  work.channels = narrow(operands.channels), work.beyond = narrow(operands.in.size[1]);
  work.base_step_h = conv.h.in_step, work.base_step_w = conv.w.in_step;
  work.tap_step_h = conv.h.in_tap_step, work.tap_step_w = conv.w.in_tap_step;
  work.filter_step = problem.sums() ? 1 : conv.w.filter_tap_step;
  return work;
}

template <class Config, class Epilogue>
void launch_phases_wgmma(const ConvMmaProblem& problem, PhasesWgmmaWork<typename Config::Element> work,
                         const Epilogue& epilogue, const LaunchConfig& base, int multiprocessors) {
  const PhasedConv& conv = problem.conv;
  const int64_t pixel_stride = conv.phases() == 1 ? tma_pixel_stride(conv.out, conv.groups) : 0;
  work.output.by_tma = Epilogue::kUnrolled && pixel_stride > 0;
  if (work.output.by_tma) {
    work.output.map =
        output_map<Config>("y", conv.out, work.output.phases[0].rows, conv.out_channels, conv.groups, pixel_stride);
  }
  launch_wgmma<Config, phases_wgmma_kernel<Config, Epilogue>>("phases_wgmma", base, work.tiles, multiprocessors, work,
                                                              epilogue);
}

}  // namespace fastconv::cuda
