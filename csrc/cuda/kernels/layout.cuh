// What brings a convolution's operands into the form that tensor-core kernels read in whole 16-byte chunks, where the
// caller's tensors are not in it: both kernels turn 32 x 32 tiles in shared memory, so that global memory is read and
// written along the direction in which each side is contiguous.
//
//   pack_channels      any (N, C, H, W)  ->  dense [n][h][w][group][c], each group's channels padded with zeros
//   pack_conv_weights  any weights of a PhasedConv  ->  [phase][group][oc][tap of the phase][ic], ic padded with zeros;
//                      or, for upsampling, filters summed over the taps that meet in one stored pixel
#pragma once

#include "../conv_mma.h"
#include "../primitives/fast_divmod.cuh"
#include "../primitives/launch.h"
#include "../primitives/pack.cuh"

namespace fastconv::cuda {

// `Bits` is an unsigned integer of the element's size: values are only moved.
template <class Bits>
struct PackChannelsParams {
  const Bits* source;
  Bits* packed;
  int64_t stride_n, stride_c, stride_h, stride_w;  // of the source, in elements
  int64_t pixels;                                  // N * H * W
  FastDivmod width, height;
  FastDivmod padded;   // channels of a group in `packed`
  FastDivmod tiles_c;  // of a block's number
  int channels;        // of a group in the source
  int packed_channels;
  bool along_pixels;  // the direction in which neighbouring lanes read
};

constexpr int kPackThreads = 256;

template <class Bits>
__global__ void __launch_bounds__(kPackThreads) pack_channels_kernel(const PackChannelsParams<Bits> params) {
  constexpr int kWord = 4 / sizeof(Bits);  // elements that a lane writes: 32 bits
  constexpr int kTileC = 32 * kWord, kWarps = kPackThreads / 32;
  // A row is 33 words: a column of words touches every bank once.
  __shared__ __align__(16) Bits tile[32][33 * kWord];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int tile_c;
  const int64_t pixel0 = static_cast<int64_t>(params.tiles_c.divmod(static_cast<int>(blockIdx.x), tile_c)) * 32;
  const int channel0 = tile_c * kTileC;

  const auto pixel_offset = [&](int64_t pixel) {
    int h, w;
    const int row = params.width.divmod(static_cast<int>(pixel), w);
    const int n = params.height.divmod(row, h);
    return n * params.stride_n + h * params.stride_h + w * params.stride_w;
  };
  const auto read = [&](bool inside, int64_t offset, int channel) {
    int c;
    const int group = params.padded.divmod(channel, c);
    if (!inside || channel >= params.packed_channels || c >= params.channels) return Bits(0);
    return params.source[offset + (static_cast<int64_t>(group) * params.channels + c) * params.stride_c];
  };
  if (params.along_pixels) {
    const bool inside = pixel0 + lane < params.pixels;
    const int64_t offset = pixel_offset(inside ? pixel0 + lane : 0);
    for (int c = warp; c < kTileC; c += kWarps) tile[lane][c] = read(inside, offset, channel0 + c);
  } else {
    for (int row = warp; row < 32; row += kWarps) {
      const bool inside = pixel0 + row < params.pixels;
      const int64_t offset = pixel_offset(inside ? pixel0 + row : 0);
      for (int c = lane; c < kTileC; c += 32) tile[row][c] = read(inside, offset, channel0 + c);
    }
  }
  __syncthreads();
  const int channel = channel0 + lane * kWord;
  for (int row = warp; row < 32; row += kWarps) {
    if (pixel0 + row >= params.pixels || channel >= params.packed_channels) continue;
    store_pack<kWord>(params.packed + (pixel0 + row) * params.packed_channels + channel,
                      load_pack<kWord>(&tile[row][lane * kWord]));
  }
}

inline bool aligned_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether a group's `channels` can be read in whole 16-byte chunks from where the tensor lies.
template <class T>
bool in_whole_chunks(const TensorView& view, int64_t channels) {
  constexpr int64_t kChunk = 16 / sizeof(T);
  bool whole = channels % kChunk == 0 && (view.size[1] == 1 || view.stride[1] == 1) && aligned_16(view.data);
  for (const int axis : {0, 2, 3}) whole = whole && (view.size[axis] == 1 || view.stride[axis] % kChunk == 0);
  return whole;
}

// A copy in the workspace: dense NHWC, each group's channels padded with zeros to `padded`.
template <class T>
TensorView packed_channels(const TensorView& view, int64_t groups, int64_t padded, const CallContext& context) {
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  static_assert(sizeof(T) == sizeof(Bits), "16 or 32 bits");
  TensorView packed = view;
  packed.size[1] = groups * padded;
  packed.stride[1] = 1;
  packed.stride[3] = packed.size[1];
  packed.stride[2] = packed.stride[3] * packed.size[3];
  packed.stride[0] = packed.stride[2] * packed.size[2];
  packed.data = context.workspace->allocate(static_cast<size_t>(packed.numel()) * sizeof(T));

  PackChannelsParams<Bits> params;
  params.source = view.as<const Bits>();
  params.packed = packed.as<Bits>();
  params.stride_n = view.stride[0], params.stride_c = view.stride[1];
  params.stride_h = view.stride[2], params.stride_w = view.stride[3];
  params.pixels = view.size[0] * view.size[2] * view.size[3];
  params.width = FastDivmod(view.size[3]), params.height = FastDivmod(view.size[2]);
  params.padded = FastDivmod(padded);
  params.channels = static_cast<int>(view.size[1] / groups);
  params.packed_channels = static_cast<int>(groups * padded);
  params.along_pixels = view.stride[1] != 1;
  constexpr int kTileC = 32 * 4 / sizeof(Bits);
  const int64_t tiles_c = (params.packed_channels + kTileC - 1) / kTileC;
  params.tiles_c = FastDivmod(tiles_c);
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.reads("x", view).scratch("packed x", packed.data, packed.numel() * dtype_size(packed.dtype));
  config.block = dim3(kPackThreads);
  config.grid = dim3(static_cast<unsigned>((params.pixels + 31) / 32 * tiles_c));
  launch("pack_channels", config, pack_channels_kernel<Bits>, params);
  return packed;
}

template <class T>
struct PackWeightsParams {
  const T* source;
  T* packed;
  int64_t stride_group, stride_out, stride_in, stride_h, stride_w;                         // of the source, in elements
  int64_t packed_stride_phase, packed_stride_group, packed_stride_out, packed_stride_tap;  // ic is dense
  int in_channels, padded_in_channels, out_channels;
  FastDivmod tiles_in, tiles_out, groups;  // of a block's number
  WeightAxis h, w;
  bool along_in;  // the direction in which neighbouring lanes read: ic, else oc
};

template <class T>
__global__ void __launch_bounds__(kPackThreads)
    pack_conv_weights_kernel(const __grid_constant__ PackWeightsParams<T> params) {
  constexpr int kWarps = kPackThreads / 32;
  __shared__ float tile[32][33];
  const int phase_h = static_cast<int>(blockIdx.z) / params.w.phases;
  const int phase_w = static_cast<int>(blockIdx.z) % params.w.phases;
  int tile_in, tile_out, group;
  const int tiles = params.tiles_in.divmod(static_cast<int>(blockIdx.x), tile_in);
  const int tap = params.groups.divmod(params.tiles_out.divmod(tiles, tile_out), group);
  const int taps_w = params.w.taps[phase_w];
  if (tap >= params.h.taps[phase_h] * taps_w) return;  // this phase has fewer taps than another
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int begin_h = params.h.begin(phase_h, tap / taps_w), end_h = params.h.end(phase_h, tap / taps_w);
  const int begin_w = params.w.begin(phase_w, tap % taps_w), end_w = params.w.end(phase_w, tap % taps_w);

  for (int i = warp; i < 32; i += kWarps) {
    const int oc = tile_out * 32 + (params.along_in ? i : lane), ic = tile_in * 32 + (params.along_in ? lane : i);
    float sum = 0.0f;
    if (oc < params.out_channels && ic < params.in_channels) {
      const T* source = params.source + group * params.stride_group + oc * params.stride_out + ic * params.stride_in;
      for (int r = begin_h; r < end_h; ++r) {
        for (int s = begin_w; s < end_w; ++s) {
          const float value = to_accumulate(source[r * params.stride_h + s * params.stride_w]);
          sum = r == begin_h && s == begin_w ? value : sum + value;  // a single tap keeps its -0
        }
      }
    }
    tile[oc % 32][ic % 32] = sum;
  }
  __syncthreads();
  for (int row = warp; row < 32; row += kWarps) {
    const int oc = tile_out * 32 + row, ic = tile_in * 32 + lane;
    if (oc >= params.out_channels || ic >= params.padded_in_channels) continue;
    T* packed = params.packed + blockIdx.z * params.packed_stride_phase + group * params.packed_stride_group +
                oc * params.packed_stride_out + tap * params.packed_stride_tap;
    packed[ic] = from_accumulate<T>(tile[row][lane]);
  }
}

// `packed` has room for `most_taps` taps in each phase, with gaps where a phase has fewer; its strides say in which
// order.
template <class T>
void launch_pack_conv_weights(PackWeightsParams<T> params, int64_t groups, int most_taps, const Footprint& footprint,
                              void* stream) {
  const int64_t tiles_in = (params.padded_in_channels + 31) / 32, tiles_out = (params.out_channels + 31) / 32;
  params.tiles_in = FastDivmod(tiles_in), params.tiles_out = FastDivmod(tiles_out), params.groups = FastDivmod(groups);
  params.along_in = params.stride_in <= params.stride_out;
  LaunchConfig config;
  config.stream = stream;
  config.footprint = footprint;
  config.block = dim3(kPackThreads);
  // Filters of 256x256 have more taps than gridDim.y goes up to.
  config.grid = dim3(static_cast<unsigned>(tiles_in * tiles_out * groups * most_taps), 1,
                     static_cast<unsigned>(params.h.phases * params.w.phases));
  launch("pack_conv_weights", config, pack_conv_weights_kernel<T>, params);
}

}  // namespace fastconv::cuda
