// How blocks share an (N, C, H, W) image when what they do depends on the channel: reductions to channels, and maps
// with per-channel factors. A block of 256 threads holds `lanes` packs of channels side by side and walks its group of
// pixels with 256 / lanes rows of threads, so that whatever belongs to a channel is loaded once and stays in registers:
//
//   NHWC            lanes over packs of channels, rows over pixels:      |c c c c|  <- pixel 0
//                                                                        |c c c c|  <- pixel 1 ...
//   other layouts   one channel a block, its threads over packs of pixels
//
// Which pixels form a group depends on the extents alone, never on the device: sums come out the same everywhere.
#pragma once

#include "../../common/algorithm_table.h"
#include "merged_axes.cuh"

namespace fastconv::cuda {

template <class T, int kPack_, bool kAlongPixels_>
struct ChannelConfig {
  using Element = T;
  using Acc = accumulate_t<T>;
  static constexpr int kPack = kPack_;
  static constexpr bool kAlongPixels = kAlongPixels_;  // where the elements of a pack lie
  static constexpr int kChannels = kAlongPixels ? 1 : kPack, kPixels = kAlongPixels ? kPack : 1;  // of one thread
  static constexpr int kThreads = kFlatThreads;
  static_assert(kPack * sizeof(T) <= 16);
};

constexpr int64_t kChannelWalkBlocks = 512;    // wanted: a few for each multiprocessor of a large GPU
constexpr int64_t kChannelWalkLongest = 1024;  // packs of pixels that one thread may sum up serially

template <int kOperands_>
struct ChannelWalk {
  static constexpr int kOperands = kOperands_;
  int64_t channels = 0, groups = 0, pixel_packs = 0, packs_per_group = 0;
  int lanes = 1;  // a power of two
  int64_t channel_blocks = 1;
  Divider block_divider;
  AxisIndex<kOperands> pixels;
  int64_t channel_stride[kOperands] = {};

  int64_t blocks() const { return channel_blocks * groups; }
};

template <int kOperands, class Config>
ChannelWalk<kOperands> make_channel_walk(const TensorView (&operands)[kOperands], Config) {
  const TensorView& shape = operands[0];
  MergedAxes<kOperands> merged;
  for (const int d : {0, 2, 3}) {
    typename MergedAxes<kOperands>::Axis axis{shape.size[d], {}};
    for (int i = 0; i < kOperands; ++i) axis.stride[i] = operands[i].stride[d];
    merged.add(axis);
  }
  merged.merge();
  ChannelWalk<kOperands> walk;
  for (int i = 0; i < kOperands; ++i) walk.channel_stride[i] = operands[i].stride[1];
  walk.channels = shape.size[1];
  walk.pixels = AxisIndex<kOperands>(merged, Config::kPixels);
  walk.pixel_packs = walk.pixels.count;
  if (!Config::kAlongPixels && shape.stride[1] == 1 && walk.channels > 1) {
    const int64_t packs = walk.channels / Config::kPack;
    while (walk.lanes < 32 && walk.lanes < packs) walk.lanes *= 2;
    walk.channel_blocks = (packs + walk.lanes - 1) / walk.lanes;
  } else {
    walk.channel_blocks = walk.channels;
  }
  const int64_t rows = Config::kThreads / walk.lanes;
  const auto parts = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  int64_t groups = parts(kChannelWalkBlocks, walk.channel_blocks);
  groups = groups < parts(walk.pixel_packs, 4 * rows) ? groups : parts(walk.pixel_packs, 4 * rows);
  const int64_t least = parts(walk.pixel_packs, rows * kChannelWalkLongest);
  walk.packs_per_group = parts(walk.pixel_packs, groups > least ? groups : least);
  walk.groups = parts(walk.pixel_packs, walk.packs_per_group);
  walk.block_divider = Divider(walk.channel_blocks, walk.blocks());
  return walk;
}

// Calls f(Config{}) with the widest packs that every present operand allows. double is there for gradient checks and
// goes by single elements.
template <class T, int kOperands, class F>
void visit_channel_config(const TensorView (&operands)[kOperands], F&& f) {
  if constexpr (sizeof(T) < 8) {
    constexpr int kPack = kWidestPack<T>;
    bool channels = operands[0].size[1] > 1, pixels = true;
    MergedAxes<kOperands> merged;
    for (const int d : {0, 2, 3}) {
      typename MergedAxes<kOperands>::Axis axis{operands[0].size[d], {}};
      for (int i = 0; i < kOperands; ++i) {
        // An absent operand goes where the first one does.
        axis.stride[i] = operands[operands[i].present() ? i : 0].stride[d];
      }
      merged.add(axis);
    }
    merged.merge();
    for (int i = 0; i < kOperands; ++i) {
      if (!operands[i].present()) continue;
      channels = channels && runs_in_packs(operands[i], 1, kPack, 16);
      pixels = pixels && merged.in_packs(i, operands[i].data, kPack, 16) &&
               (operands[i].size[1] == 1 || operands[i].stride[1] % kPack == 0);
    }
    if (channels) return f(ChannelConfig<T, kPack, false>{});
    if (pixels) return f(ChannelConfig<T, kPack, true>{});
  }
  f(ChannelConfig<T, 1, false>{});
}

// One thread's part of a walk.
template <class Config, class Walk>
struct ChannelShare {
  int lane, row, rows;
  int64_t channel, group;  // the first channel
  bool inside;
  int64_t pixel, end;  // packs of pixels: first and limit; `rows` apart

  __device__ __forceinline__ explicit ChannelShare(const Walk& walk) {
    const int thread = static_cast<int>(threadIdx.x);
    int64_t block;
    group = walk.block_divider.divide(static_cast<int64_t>(blockIdx.x), block);
    lane = thread % walk.lanes, row = thread / walk.lanes, rows = Config::kThreads / walk.lanes;
    channel = (block * walk.lanes + lane) * Config::kChannels;
    inside = channel < walk.channels;
    pixel = group * walk.packs_per_group + row;
    end = inside ? min(walk.pixel_packs, (group + 1) * walk.packs_per_group) : 0;
  }
};

template <class T, int kInputs>
struct ChannelInputs {
  const T* data[kInputs];  // null: absent, and read as zero
};

// A thread's packs of pixels, and where the operands of one lie.
template <class Config, int kOperands>
__device__ __forceinline__ void locate_pixel(const ChannelShare<Config, ChannelWalk<kOperands>>& share,
                                             const ChannelWalk<kOperands>& walk, int64_t pixel,
                                             int64_t (&offset)[kOperands]) {
  walk.pixels.locate(pixel, offset);
#pragma unroll
  for (int i = 0; i < kOperands; ++i) offset[i] += share.channel * walk.channel_stride[i];
}

// One pack of every input, the first of the operands; zeros behind the last pixel.
template <class Config, int kInputs_>
struct PixelPacks {
  static constexpr int kInputs = kInputs_;
  Pack<typename Config::Element, Config::kPack> value[kInputs];

  template <int kOperands>
  __device__ __forceinline__ void load(const ChannelShare<Config, ChannelWalk<kOperands>>& share,
                                       const ChannelWalk<kOperands>& walk,
                                       const ChannelInputs<typename Config::Element, kInputs>& inputs, int64_t pixel) {
    *this = {};
    if (pixel >= share.end) return;
    int64_t offset[kOperands];
    locate_pixel(share, walk, pixel, offset);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if (inputs.data[i]) value[i] = load_pack<Config::kPack>(inputs.data[i] + offset[i]);
    }
  }
};

// f(pixel, v) for each of a thread's packs of pixels, in order, v the inputs' values. Loads of a single input run ahead
// of their use: a multiprocessor's share of the memory bandwidth times its latency is some 24 KiB, more than one pack
// for each resident thread. With several inputs there are as many packs, and the registers that more would take are
// worth more as resident threads.
template <class Config, int kInputs, int kOperands, class F>
__device__ __forceinline__ void walk_pixels(const ChannelShare<Config, ChannelWalk<kOperands>>& share,
                                            const ChannelWalk<kOperands>& walk,
                                            const ChannelInputs<typename Config::Element, kInputs>& inputs,
                                            const F& f) {
  constexpr int kPack = Config::kPack, kAhead = kInputs == 1 ? 3 : 0;
  PixelPacks<Config, kInputs> packs[kAhead + 1];
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    packs[a].load(share, walk, inputs, share.pixel + static_cast<int64_t>(a) * share.rows);
  }
#pragma unroll 1
  for (int64_t pixel = share.pixel; pixel < share.end; pixel += share.rows) {
    packs[kAhead].load(share, walk, inputs, pixel + static_cast<int64_t>(kAhead) * share.rows);
    typename Config::Acc v[kInputs][kPack];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) v[i][e] = to_accumulate(packs[0].value[i].value[e]);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) packs[a] = packs[a + 1];
    f(pixel, v);
  }
}

inline LaunchConfig channel_launch(const LaunchConfig& base, const char* op, int64_t blocks) {
  if (blocks > 0x7fffffff) {
    throw NotServed(std::string(op) + ": no algorithm serves this problem:\n  by channel: " + std::to_string(blocks) +
                    " blocks are more than one grid holds");
  }
  LaunchConfig config = base;
  config.block = dim3(kFlatThreads);
  config.grid = dim3(static_cast<unsigned>(blocks));
  return config;
}

}  // namespace fastconv::cuda
