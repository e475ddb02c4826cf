// A convolution in phases (phases.h) as a matrix product whose left side is never stored, on CUDA cores: any stride,
// padding, dilation, groups and memory format, forward, transposed and upsampled alike.
//
//                      taps x input channels                 A block owns kTileM output pixels of one phase x kTileN
//    pixels of   +---------------------------+               output channels of one group. It walks the reduction in
//    one phase   |  input, gathered through  |  x  weights   steps of kTileK through two shared-memory buffers: while
//                |  a table of taps          |               one is multiplied, the next lies in registers on its way
//                +---------------------------+               from global memory. All phases share one grid.
//
// The table of a step (where each row of the reduction lies in the input and in the weights) is made two steps ahead by
// kTileK threads, so that nobody else divides. A thread always fetches for one and the same pixel.
#pragma once

#include "../phases.h"
#include "../primitives/epilogue.cuh"
#include "../primitives/fast_divmod.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

// W: the type of the weights, T or its accumulate type.
template <class T, class W, int kTileM_, int kTileN_, int kThreadM_, int kThreadN_>
struct ImplicitGemmSimtConfig {
  using Element = T;
  using Weight = W;
  using Acc = accumulate_t<T>;
  static constexpr int kTileM = kTileM_, kTileN = kTileN_, kTileK = 8;
  static constexpr int kThreadM = kThreadM_, kThreadN = kThreadN_;
  static constexpr int kThreadsM = kTileM / kThreadM, kThreadsN = kTileN / kThreadN;
  static constexpr int kThreads = kThreadsM * kThreadsN;
  static constexpr int kPack = kPackSize<Acc>;  // elements of a shared-memory access
  static constexpr int kGroupsM = kThreadM / kPack, kGroupsN = kThreadN / kPack;
  static constexpr int kStepM = kTileM / kGroupsM, kStepN = kTileN / kGroupsN;  // between a thread's groups
  // One pack of padding: stores that turn channels into rows then fall into different banks.
  static constexpr int kRowA = kTileM + kPack, kRowB = kTileN + kPack;
  static constexpr int kFetchA = kTileM * kTileK / kThreads, kFetchB = kTileN * kTileK / kThreads;
  // Blocks on one multiprocessor: leaves 128 registers a thread. Without the bound ptxas aims higher and spills.
  static constexpr int kMinBlocks = 512 / kThreads;

  static_assert(kThreadM % kPack == 0 && kThreadN % kPack == 0, "a thread owns whole packs");
  static_assert(kTileK % kFetchA == 0 && kTileK % kFetchB == 0, "a fetch stays with one pixel, or one channel");
  static_assert(kFetchA * sizeof(T) <= 16 && kFetchB * sizeof(W) <= 16, "a fetch is at most one pack");
  static_assert(kThreads / kTileK * kFetchB == kTileN, "fetching by the element, lanes cover a row's channels");
  static_assert(kThreads % kTileM == 0, "fetching along pixels, a thread stays with one pixel");
  static_assert(kTileK <= 32 && kTileM <= kThreads, "the tables are filled in one pass");
  static_assert(kThreadsM * kTileN <= 2 * kTileK * kRowA && kThreadsN * kRowA <= 2 * kTileK * kRowA,
                "the epilogue stages a slice of the tile in A's buffers");
};

template <class T, class W>
struct ImplicitGemmSimtParams {
  PhaseAxis h, w;
  int64_t N;
  int in_channels, out_channels;  // of one group
  int tiles_n_of_group, tiles_n;  // along the output channels: of one group, of all
  const T* in;                    // strides in elements, N, C, H, W
  int64_t in_stride[4];
  const W* weights;
  int64_t w_stride_group, w_stride_phase, w_stride_out, w_stride_in, w_stride_h, w_stride_w;
  T* out;
  int64_t out_stride[4];
  bool upsampled;  // the input is read at coordinate / scale
  FastDivmod scale_h, scale_w;
  // How lanes are laid over memory: the input along channels (else along pixels), the weights along the reduction
  // (else along output channels), the output along channels (else along pixels); whether packs may be loaded whole.
  bool in_along_channels, in_packs, weights_along_k, weight_packs, out_along_channels;
  bool taps_innermost;  // the reduction's order: input channel, tap (else tap, input channel)
};

// Far outside of any input, also when two of them are added.
constexpr int kOutside = -0x30000000;

// One row of the reduction.
struct alignas(16) ImplicitGemmTap {
  int64_t in_offset;  // relative to the pixel's
  int h, w;           // relative to the pixel's input coordinate; kOutside past the reduction's end
};

template <class Params>
__device__ __forceinline__ void implicit_gemm_tap(const Params& params, int fh, int fw, int k, int depth,
                                                  ImplicitGemmTap& tap, int64_t& weight_offset) {
  if (k >= depth) {
    tap = {0, kOutside, kOutside};
    weight_offset = -1;
    return;
  }
  const int taps_w = params.w.taps[fw];
  const int inner = params.taps_innermost ? params.h.taps[fh] * taps_w : params.in_channels;
  const int ic = params.taps_innermost ? k / inner : k % inner;
  const int window = params.taps_innermost ? k % inner : k / inner;
  const int th = window / taps_w, tw = window % taps_w;
  tap.h = th * params.h.in_tap_step, tap.w = tw * params.w.in_tap_step;
  tap.in_offset = ic * params.in_stride[1];
  if (!params.upsampled) tap.in_offset += tap.h * params.in_stride[2] + tap.w * params.in_stride[3];
  weight_offset = ic * params.w_stride_in + params.h.filter(fh, th) * params.w_stride_h +
                  params.w.filter(fw, tw) * params.w_stride_w;
}

// The pixel that a thread fetches for.
template <class T>
struct ImplicitGemmPixel {
  const T* data;  // its image and group, and its coordinate unless the input is upsampled
  int h, w;       // input coordinate of tap 0; kOutside past the phase's last pixel
};

// The pixel's input under `tap`, null in the padding.
template <class T, class Params>
__device__ __forceinline__ const T* implicit_gemm_input(const Params& params, const ImplicitGemmPixel<T>& pixel,
                                                        const ImplicitGemmTap& tap) {
  const int h = pixel.h + tap.h, w = pixel.w + tap.w;
  // One comparison an axis: a negative coordinate is a large unsigned one.
  const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(params.h.in_extent) &&
                      static_cast<unsigned>(w) < static_cast<unsigned>(params.w.in_extent);
  int64_t offset = tap.in_offset;
  if (params.upsampled) {
    offset += params.scale_h.divide(h) * params.in_stride[2] + params.scale_w.divide(w) * params.in_stride[3];
  }
  return inside ? pixel.data + offset : nullptr;
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    implicit_gemm_simt_kernel(const ImplicitGemmSimtParams<typename Config::Element, typename Config::Weight> params,
                              const Epilogue epilogue) {
  using T = typename Config::Element;
  using W = typename Config::Weight;
  using Acc = typename Config::Acc;
  constexpr int kPack = Config::kPack, kTileM = Config::kTileM, kTileN = Config::kTileN, kTileK = Config::kTileK;
  constexpr int kFetchA = Config::kFetchA, kFetchB = Config::kFetchB;
  __shared__ __align__(16) Acc tile_a[2][kTileK][Config::kRowA];
  __shared__ __align__(16) Acc tile_b[2][kTileK][Config::kRowB];
  __shared__ ImplicitGemmTap taps[2][kTileK];
  __shared__ int64_t weight_offsets[2][kTileK];
  // Of the tile's pixels: image (-1 past the last), row and column within the phase.
  __shared__ int pixel_n[kTileM], pixel_i[kTileM], pixel_j[kTileM];
  // Set aside: the main loop has no register to spare.
  __shared__ int tile_group, tile_channel, tile_fh, tile_fw;

  const int thread = static_cast<int>(threadIdx.x);
  const int tile_n = static_cast<int>(blockIdx.x) % params.tiles_n;
  const int group = tile_n / params.tiles_n_of_group;
  const int oc0 = tile_n % params.tiles_n_of_group * kTileN;

  // Linear tile of pixels -> phase, and tile within it.
  int64_t tile_m = static_cast<int>(blockIdx.x) / params.tiles_n, pixels = 0;
  int phase = 0, fh = 0, fw = 0;
  for (;; ++phase) {
    fh = phase / params.w.phases, fw = phase % params.w.phases;
    pixels = params.N * params.h.count[fh] * params.w.count[fw];
    const int64_t tiles = (pixels + kTileM - 1) / kTileM;
    if (tile_m < tiles) break;
    tile_m -= tiles;
  }
  const int depth = params.h.taps[fh] * params.w.taps[fw] * params.in_channels;
  const int steps = (depth + kTileK - 1) / kTileK;

  if (thread == 0) tile_group = group, tile_channel = oc0, tile_fh = fh, tile_fw = fw;
  if (thread < kTileM) {
    const int64_t pixel = tile_m * kTileM + thread;
    const int64_t row = pixel / params.w.count[fw];
    pixel_n[thread] = pixel < pixels ? static_cast<int>(row / params.h.count[fh]) : -1;
    pixel_i[thread] = static_cast<int>(row % params.h.count[fh]);
    pixel_j[thread] = static_cast<int>(pixel % params.w.count[fw]);
  }
  __syncthreads();
  const auto make_taps = [&](int step) {
    if (thread < kTileK) {
      implicit_gemm_tap(params, tile_fh, tile_fw, step * kTileK + thread, depth, taps[step & 1][thread],
                        weight_offsets[step & 1][thread]);
    }
  };
  make_taps(0);
  make_taps(1);
  __syncthreads();

  // What this thread fetches: kFetchA rows of the reduction, k_step_a apart, of one pixel of A ...
  const bool along_channels = params.in_along_channels;
  const int m_a = along_channels ? thread / (kTileK / kFetchA) : thread % kTileM;
  const int k_a = along_channels ? thread % (kTileK / kFetchA) * kFetchA : thread / kTileM;
  const int k_step_a = along_channels ? 1 : Config::kThreads / kTileM;
  // ... and of B kFetchB rows of one channel as a pack, or one row of kFetchB channels: neighbours where these lie
  // together, else n_step_b apart, so that neighbouring lanes take neighbouring rows.
  const bool along_k = params.weights_along_k, pack_along_k = along_k && params.weight_packs;
  const int n_step_b = along_k ? Config::kThreads / kTileK : 1;
  const int n_b = pack_along_k ? thread / (kTileK / kFetchB)
                  : along_k    ? thread / kTileK
                               : thread % (kTileN / kFetchB) * kFetchB;
  const int k_b = pack_along_k ? thread % (kTileK / kFetchB) * kFetchB
                  : along_k    ? thread % kTileK
                               : thread / (kTileN / kFetchB);

  const W* weights = params.weights + group * params.w_stride_group + phase * params.w_stride_phase +
                     (oc0 + n_b) * params.w_stride_out;
  ImplicitGemmPixel<T> pixel;
  pixel.h = pixel_n[m_a] < 0 ? kOutside : params.h.input(fh, pixel_i[m_a], 0);
  pixel.w = params.w.input(fw, pixel_j[m_a], 0);
  pixel.data = params.in + pixel_n[m_a] * params.in_stride[0] + group * params.in_channels * params.in_stride[1];
  if (!params.upsampled) pixel.data += pixel.h * params.in_stride[2] + pixel.w * params.in_stride[3];

  Pack<T, kFetchA> staged_a;
  Pack<W, kFetchB> staged_b;
  const auto fetch = [&](int step) {
    const ImplicitGemmTap(&tap)[kTileK] = taps[step & 1];
    const int64_t (&weight_offset)[kTileK] = weight_offsets[step & 1];
    if (params.in_packs) {
      const T* at = implicit_gemm_input(params, pixel, tap[k_a]);
      staged_a = at ? load_pack<kFetchA>(at) : Pack<T, kFetchA>{};
    } else {
#pragma unroll
      for (int e = 0; e < kFetchA; ++e) {
        const T* at = implicit_gemm_input(params, pixel, tap[k_a + e * k_step_a]);
        staged_a.value[e] = at ? *at : T{};
      }
    }
    const int channels_left = params.out_channels - tile_channel - n_b;
    const int64_t at = weight_offset[k_b];
    if (params.weight_packs && (along_k || channels_left >= kFetchB)) {
      const bool inside = at >= 0 && channels_left > 0;
      staged_b = inside ? load_pack<kFetchB>(weights + at) : Pack<W, kFetchB>{};
    } else {
#pragma unroll
      for (int e = 0; e < kFetchB; ++e) {
        const bool inside = at >= 0 && e * n_step_b < channels_left;
        staged_b.value[e] = inside ? weights[at + e * n_step_b * params.w_stride_out] : W{};
      }
    }
  };
  const auto store = [&](int stage) {
#pragma unroll
    for (int e = 0; e < kFetchA; ++e) tile_a[stage][k_a + e * k_step_a][m_a] = to_accumulate(staged_a.value[e]);
    Pack<Acc, kFetchB> b;
#pragma unroll
    for (int e = 0; e < kFetchB; ++e) b.value[e] = to_accumulate(staged_b.value[e]);
    if (along_k) {
#pragma unroll
      for (int e = 0; e < kFetchB; ++e) {
        tile_b[stage][pack_along_k ? k_b + e : k_b][pack_along_k ? n_b : n_b + e * n_step_b] = b.value[e];
      }
    } else {
      store_pack<kFetchB>(&tile_b[stage][k_b][n_b], b);
    }
  };

  const int thread_m = thread / Config::kThreadsN * kPack, thread_n = thread % Config::kThreadsN * kPack;
  Acc acc[Config::kThreadM][Config::kThreadN] = {};
  if (steps > 0) {  // a phase may have no taps
    fetch(0);
    store(0);
    __syncthreads();
  }
  for (int step = 0; step < steps; ++step) {
    const int stage = step & 1;
    const bool more = step + 1 < steps;
    if (more) {
      fetch(step + 1);
      // Into the table that was last read before the previous barrier.
      make_taps(step + 2);
    }
#pragma unroll
    for (int k = 0; k < kTileK; ++k) {
      Pack<Acc, kPack> a[Config::kGroupsM], b[Config::kGroupsN];
#pragma unroll
      for (int g = 0; g < Config::kGroupsM; ++g) {
        a[g] = load_pack<kPack>(&tile_a[stage][k][thread_m + g * Config::kStepM]);
      }
#pragma unroll
      for (int g = 0; g < Config::kGroupsN; ++g) {
        b[g] = load_pack<kPack>(&tile_b[stage][k][thread_n + g * Config::kStepN]);
      }
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kThreadN; ++j) {
          acc[i][j] += a[i / kPack].value[i % kPack] * b[j / kPack].value[j % kPack];
        }
      }
    }
    // The other buffer was last read before the previous barrier, so one barrier a step is enough.
    if (more) {
      store(stage ^ 1);
      __syncthreads();
    }
  }

  // Through shared memory slice by slice, so that the output is written along its innermost extent and the epilogue's
  // code appears once. A slice is one row of every thread with all channels (or one column, with all pixels).
  const bool out_along_channels = params.out_along_channels;
  Acc* slice = &tile_a[0][0][0];
  const int slices = out_along_channels ? Config::kThreadM : Config::kThreadN;
  const int outputs = out_along_channels ? Config::kThreadsM * kTileN : Config::kThreadsN * kTileM;
#pragma unroll 1
  for (int s = 0; s < slices; ++s) {
    __syncthreads();
    // Registers have no run-time index: every row is looked at, one is stored.
    if (out_along_channels) {
#pragma unroll
      for (int i = 0; i < Config::kThreadM; ++i) {
        if (i != s) continue;
#pragma unroll
        for (int g = 0; g < Config::kGroupsN; ++g) {
          Pack<Acc, kPack> v;
#pragma unroll
          for (int e = 0; e < kPack; ++e) v.value[e] = acc[i][g * kPack + e];
          store_pack<kPack>(&slice[thread / Config::kThreadsN * kTileN + thread_n + g * Config::kStepN], v);
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < Config::kThreadN; ++j) {
        if (j != s) continue;
#pragma unroll
        for (int g = 0; g < Config::kGroupsM; ++g) {
          Pack<Acc, kPack> v;
#pragma unroll
          for (int e = 0; e < kPack; ++e) v.value[e] = acc[g * kPack + e][j];
          store_pack<kPack>(&slice[thread % Config::kThreadsN * Config::kRowA + thread_m + g * Config::kStepM], v);
        }
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int at = thread; at < outputs; at += Config::kThreads) {
      int m, channel;
      Acc value;
      if (out_along_channels) {
        m = at / kTileN * kPack + s / kPack * Config::kStepM + s % kPack;
        channel = tile_channel + at % kTileN;
        value = slice[at];
      } else {
        m = at % kTileM;
        channel = tile_channel + at / kTileM * kPack + s / kPack * Config::kStepN + s % kPack;
        value = slice[at / kTileM * Config::kRowA + m];
      }
      const int n = pixel_n[m];
      if (n < 0 || channel >= params.out_channels) continue;
      const int h = pixel_i[m] * params.h.phases + tile_fh, w = pixel_j[m] * params.w.phases + tile_fw;
      const int64_t k = static_cast<int64_t>(tile_group) * params.out_channels + channel;
      params.out[n * params.out_stride[0] + k * params.out_stride[1] + h * params.out_stride[2] +
                 w * params.out_stride[3]] = epilogue.finish(epilogue.channel(k), value, n, k, h, w);
    }
  }
}

// Tiles of kTileM pixels, over all phases.
inline int64_t implicit_gemm_pixel_tiles(const PhasedConv& c, int tile_m) {
  int64_t tiles = 0;
  for (int fh = 0; fh < c.h.phases; ++fh) {
    for (int fw = 0; fw < c.w.phases; ++fw) tiles += (c.N * c.h.count[fh] * c.w.count[fw] + tile_m - 1) / tile_m;
  }
  return tiles;
}

template <class Config, class Epilogue>
void launch_implicit_gemm_simt(const PhasedConv& c, const Epilogue& epilogue, const LaunchConfig& base) {
  using T = typename Config::Element;
  using W = typename Config::Weight;
  ImplicitGemmSimtParams<T, W> params;
  params.h = c.h, params.w = c.w, params.N = c.N;
  params.in_channels = static_cast<int>(c.in_channels), params.out_channels = static_cast<int>(c.out_channels);
  params.tiles_n_of_group = (params.out_channels + Config::kTileN - 1) / Config::kTileN;
  params.tiles_n = params.tiles_n_of_group * static_cast<int>(c.groups);
  params.in = c.in.as<const T>(), params.out = c.out.as<T>();
  params.weights = static_cast<const W*>(c.weights);
  for (int i = 0; i < 4; ++i) params.in_stride[i] = c.in.stride[i], params.out_stride[i] = c.out.stride[i];
  params.w_stride_group = c.w_stride_group, params.w_stride_phase = c.w_stride_phase;
  params.w_stride_out = c.w_stride_out, params.w_stride_in = c.w_stride_in;
  params.w_stride_h = c.w_stride_h, params.w_stride_w = c.w_stride_w;
  params.upsampled = c.h.scale != 1 || c.w.scale != 1;
  params.scale_h = FastDivmod(c.h.scale), params.scale_w = FastDivmod(c.w.scale);

  constexpr int kFetchA = Config::kFetchA, kFetchB = Config::kFetchB;
  const auto multiples = [](int pack, std::initializer_list<int64_t> strides) {
    for (const int64_t stride : strides) {
      if (stride % pack != 0) return false;
    }
    return true;
  };
  params.in_along_channels = c.in.stride[1] == 1 && c.in.stride[3] != 1;
  params.in_packs = params.in_along_channels && pack_aligned(params.in, kFetchA) &&
                    multiples(kFetchA, {c.in_channels, c.in.stride[0], c.in.stride[2], c.in.stride[3]});
  params.taps_innermost = !params.in_along_channels && c.w_stride_in != 1;
  params.weights_along_k = c.w_stride_in == 1 || c.w_stride_out != 1;
  params.weight_packs =
      pack_aligned(params.weights, kFetchB) &&
      multiples(kFetchB, {c.w_stride_group, c.w_stride_phase, c.w_stride_h, c.w_stride_w}) &&
      (params.weights_along_k
           ? c.w_stride_in == 1 && multiples(kFetchB, {c.in_channels, c.w_stride_out}) && !params.taps_innermost
           : multiples(kFetchB, {c.w_stride_in}));
  params.out_along_channels = c.out.stride[1] == 1 && c.out.stride[3] != 1;

  LaunchConfig config = base;
  config.block = dim3(Config::kThreads);
  config.grid = dim3(static_cast<unsigned>(implicit_gemm_pixel_tiles(c, Config::kTileM) * params.tiles_n));
  launch("implicit_gemm_simt", config, implicit_gemm_simt_kernel<Config, Epilogue>, params, epilogue);
}

// The weights' memory, for the emulator: from the first to the last element that a phase reads.
inline int64_t implicit_gemm_weight_extent(const PhasedConv& c) {
  const auto last_filter_row = [](const PhaseAxis& axis) {
    int64_t last = 0;
    for (int phase = 0; phase < axis.phases; ++phase) {
      if (axis.taps[phase] > 0) last = std::max<int64_t>(last, axis.filter(phase, axis.taps[phase] - 1));
    }
    return last;
  };
  return 1 + (c.groups - 1) * c.w_stride_group + (c.phases() - 1) * c.w_stride_phase +
         (c.out_channels - 1) * c.w_stride_out + (c.in_channels - 1) * c.w_stride_in +
         last_filter_row(c.h) * c.w_stride_h + last_filter_row(c.w) * c.w_stride_w;
}

// Launches in the tile of the plan. W as above; nothing to do for an empty output.
template <class T, class W>
void run_implicit_gemm_simt(const PhasedConv& c, const TilePlan& plan, void* stream) {
  if (c.N == 0 || c.out_channels == 0 || c.h.out_extent == 0 || c.w.out_extent == 0) return;
  LaunchConfig config;
  config.stream = stream;
  config.footprint.reads("in", c.in)
      .reads("weights", c.weights, c.in_channels ? implicit_gemm_weight_extent(c) * sizeof(W) : 0)
      .writes("out", c.out)
      .reads(c.epilogue, c.dtype, c.groups * c.out_channels);
  visit_epilogue<T>(c.epilogue, [&](auto epilogue) {
    if constexpr (sizeof(T) == 8) {
      launch_implicit_gemm_simt<ImplicitGemmSimtConfig<T, W, 64, 64, 4, 4>>(c, epilogue, config);
    } else {
      if (c.out_channels <= 32) {
        return launch_implicit_gemm_simt<ImplicitGemmSimtConfig<T, W, 64, 32, 4, 4>>(c, epilogue, config);
      }
      // For float alone: large problems of narrower types go to tensor cores, and their conversions would make it
      // spill.
      if constexpr (sizeof(T) == 4) {
        if (plan.predicted.tile_m == 128) {
          return launch_implicit_gemm_simt<ImplicitGemmSimtConfig<T, W, 128, 128, 8, 8>>(c, epilogue, config);
        }
      }
      launch_implicit_gemm_simt<ImplicitGemmSimtConfig<T, W, 64, 64, 8, 4>>(c, epilogue, config);
    }
  });
}

}  // namespace fastconv::cuda
