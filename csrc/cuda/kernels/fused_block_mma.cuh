// A block of convolutions in one launch, on tensor cores (fp16, bf16): 1x1 (expand), one filter per channel, 1x1
// (project), each with bias and activation, the last with a residual; or without the first. A thread block takes a tile
// of output pixels of one image and all filters, and goes through the hidden channels 32 at a time, so that the tensors
// between the stages exist as one chunk of a tile in shared memory and nowhere else:
//
//   x under the tile (once)    hidden, 32 channels           operand A           sums, in registers
//   +-----------------+ mma   +-------------------+ CUDA    +-----------+ mma   +---------+
//   | pixels x C      | ----> | pixels x 32       | ------> | tile x 32 | ----> | tile x K|  + bias, residual, act
//   +-----------------+       | 0 outside image   | cores  +-----------+       +---------+
//                             +-------------------+
//
// What neighbouring tiles both need of the hidden tensor they both compute. Weights and filters of the next chunk are
// copied while this one is filtered and projected. What a stage hands on is rounded to the storage type, as in memory.
#pragma once

#include "fused_block_window.cuh"
#include "gather_mma.cuh"

namespace fastconv::cuda {

template <class T, int kPixels_, int kFilters_, bool kExpands_>
struct FusedBlockConfig {
  using Element = T;
  static constexpr bool kExpands = kExpands_;
  static constexpr int kPixels = kPixels_, kFilters = kFilters_;
  // Warps of 16 pixels: what a warp multiplies for filters that there are not it can leave out, fragment by fragment.
  using Product = MmaConfig<T, kPixels, kFilters, 16, kPixels * kFilters / 128, 2, Major::kK, Major::kK>;
  using Tile = typename Product::TileA;
  static constexpr int kThreads = Product::kThreads;
  static constexpr int kMinBlocks = Product::kMinBlocks;
  static constexpr int kExpandN = kFusedChunk / 8;
  static_assert(kThreads == 256 && Product::kMmaM == 1, "eight warps, one fragment high");
  static_assert(Product::kTileK == kFusedChunk, "a chunk of hidden channels is a k-step of the projection");
  static_assert(Product::kSliceBytes == (kFilters == 64 ? 128 : 64) * (kFilters + 8) * 4, "what layout_of counts");
};

template <class T>
struct FusedBlockParams {
  const T* x;  // channels contiguous, in whole chunks; strides in elements
  int64_t x_stride_n;
  int x_stride_h, x_stride_w, x_chunks;
  const T *expand_weights, *project_weights, *filters;
  int64_t expand_row, project_row;  // elements from one filter to the next
  int hidden, hidden_chunks, filter_count, filter_elements;
  InnerEpilogue expand;
  FusedWindow window;
  int H, W, P, Q, pad_top, pad_left;
  FusedLayout layout;
  FastDivmod depth_chunks, tile_width, tiles_q, tiles_p;
  int64_t out_stride_n, out_stride_h, out_stride_w;
  MmaOutput<T> output;
};

// A pixel of x under the tile: bytes from the start of a hidden chunk, elements from the image's start. Negative: none.
struct FusedPixel {
  int hidden, x;
};

// The k-th of the columns from `left` on, in the order in which they lie in a chunk: those of one phase of the stride
// after the other.
__device__ __forceinline__ int column_in_order(int k, int left, int width, int stride) {
  for (int phase = 0;; ++phase) {
    const int first = left + (phase + stride - left % stride) % stride;
    const int count = (left + width - first + stride - 1) / stride;
    if (k < count || phase + 1 == stride) return first + k * stride;
    k -= count;
  }
}

// Writes the table of pixels that lie in the image, filled up to whole fragments, and returns their number. A
// fragment's pixels follow one another in a chunk, so that they are stored to different banks.
template <class T>
__device__ __forceinline__ int list_pixels(const FusedBlockParams<T>& params, int p0, int q0, int threads,
                                           FusedPixel* pixels) {
  const FusedWindow& w = params.window;
  const FusedLayout& layout = params.layout;
  const int h0 = p0 * w.stride_h - params.pad_top, w0 = q0 * w.stride_w - params.pad_left;
  const int rows = (min(layout.tile_p, params.P - p0) - 1) * w.stride_h + (w.R - 1) * w.dilation_h + 1;
  const int columns = (min(layout.tile_q, params.Q - q0) - 1) * w.stride_w + (w.S - 1) * w.dilation_w + 1;
  const int top = max(-h0, 0), left = max(-w0, 0);
  const int height = max(min(rows, params.H - h0) - top, 0), width = max(min(columns, params.W - w0) - left, 0);
  const int count = height * width;
  for (int i = static_cast<int>(threadIdx.x); i < (count + 15) / 16 * 16; i += threads) {
    FusedPixel pixel{-1, -1};
    if (i < count) {
      const int row = top + i / width, column = column_in_order(i % width, left, width, w.stride_w);
      const int place = (row * w.stride_w + column % w.stride_w) * layout.phase_columns + column / w.stride_w;
      pixel = {place * kFusedPixelBytes, (h0 + row) * params.x_stride_h + (w0 + column) * params.x_stride_w};
    }
    pixels[i] = pixel;
  }
  return count;
}

// All channels of x under the tile: slabs of 32 of them, each a tile as mma reads it.
template <class Config>
__device__ __forceinline__ void fetch_x(const FusedBlockParams<typename Config::Element>& params,
                                        const typename Config::Element* image, const FusedPixel* pixels, int count,
                                        unsigned char* x) {
  const FusedLayout& layout = params.layout;
  const int chunks = (count + 15) / 16 * 16 * layout.depth_chunks;
  for (int i = static_cast<int>(threadIdx.x); i < chunks; i += Config::kThreads) {
    int chunk;
    const int line = params.depth_chunks.divmod(i, chunk), offset = pixels[line].x;
    const bool valid = offset >= 0 && chunk < params.x_chunks;
    cp_async_16(x + chunk / 4 * layout.pixel_capacity * 64 + Config::Tile::offset(line, chunk % 4),
                image + (valid ? offset + chunk * 8 : 0), valid);
  }
}

// Without expand: x's channels of one chunk are the hidden ones.
template <class Config>
__device__ __forceinline__ void fetch_hidden(const FusedBlockParams<typename Config::Element>& params,
                                             const typename Config::Element* image, const FusedPixel* pixels, int count,
                                             int chunk, unsigned char* hidden) {
  for (int i = static_cast<int>(threadIdx.x); i < count * 4; i += Config::kThreads) {
    const FusedPixel pixel = pixels[i / 4];
    const int piece = chunk * 4 + i % 4;
    const bool valid = piece < params.x_chunks;
    cp_async_16(hidden + pixel.hidden + i % 4 * 16, image + (valid ? pixel.x + piece * 8 : 0), valid);
  }
}

template <class Config>
__device__ __forceinline__ void fetch_weights(const FusedBlockParams<typename Config::Element>& params, int chunk,
                                              unsigned char* weights) {
  const FusedLayout& layout = params.layout;
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (Config::kExpands) {
    for (int i = thread; i < kFusedChunk * layout.depth_chunks; i += Config::kThreads) {
      int piece;
      const int line = params.depth_chunks.divmod(i, piece), filter = chunk * kFusedChunk + line;
      const bool valid = filter < params.hidden && piece < params.x_chunks;
      cp_async_16(weights + piece / 4 * kFusedChunk * 64 + Config::Tile::offset(line, piece % 4),
                  params.expand_weights + (valid ? filter * params.expand_row + piece * 8 : 0), valid);
    }
  }
  for (int i = thread; i < (params.filter_count + 15) / 16 * 16 * 4; i += Config::kThreads) {
    const int line = i / 4, piece = chunk * 4 + i % 4;
    const bool valid = line < params.filter_count && piece < params.hidden_chunks;
    cp_async_16(weights + layout.project + Config::Tile::offset(line, i % 4),
                params.project_weights + (valid ? line * params.project_row + piece * 8 : 0), valid);
  }
  const int taps = kFusedChunk * params.window.R * layout.tap_pitch;
  for (int i = thread * 8; i < taps; i += Config::kThreads * 8) {
    const int element = chunk * taps + i;
    const bool valid = element < params.filter_elements;
    cp_async_16(weights + layout.filters + i * 2, params.filters + (valid ? element : 0), valid);
  }
}

// hidden = act(x * weights + bias), for the pixels in the image; the others stay zero.
template <class Config>
__device__ __forceinline__ void expand_chunk(const FusedBlockParams<typename Config::Element>& params, int chunk,
                                             const FusedPixel* pixels, int count, const unsigned char* x,
                                             const unsigned char* weights, unsigned char* hidden) {
  using T = typename Config::Element;
  constexpr int kN = Config::kExpandN;
  const FusedLayout& layout = params.layout;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first = chunk * kFusedChunk + lane % 4 * 2;
  float bias[kN][2];
#pragma unroll
  for (int i = 0; i < 2 * kN; ++i) {
    const int channel = first + i / 2 * 8 + i % 2;
    bias[i / 2][i % 2] = params.expand.bias && channel < params.hidden ? params.expand.bias[channel] : 0.0f;
  }
#pragma unroll 1
  for (int row = warp * 16; row < count; row += Config::kThreads / 2) {
    float sums[kN][4] = {};
#pragma unroll 1
    for (int step = 0; step < layout.depth_chunks / 2; ++step) {
      uint32_t a[1][4], b[kN][2];
      Config::Tile::load_a(a, x + step / 2 * layout.pixel_capacity * 64, row, step % 2);
      Config::Tile::load_b(b, weights + step / 2 * kFusedChunk * 64, 0, step % 2);
#pragma unroll
      for (int j = 0; j < kN; ++j) mma_m16n8k16<T>(sums[j], a[0], b[j]);
    }
    float v[4 * kN];
#pragma unroll
    for (int i = 0; i < 4 * kN; ++i) v[i] = sums[i / 4][i % 4] + bias[i / 4][i % 2];
    activate_inner<2, 4, 8>(params.expand, v, first, params.hidden - 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = pixels[row + half * 8 + lane / 4].hidden;
      if (place < 0) continue;
      T* pixel = reinterpret_cast<T*>(hidden + place) + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const int i = j * 4 + half * 2;
        store_pack<2>(pixel + j * 8, Pack<T, 2>{{from_accumulate<T>(v[i]), from_accumulate<T>(v[i + 1])}});
      }
    }
  }
}

// sums += columns * weights, for the fragments that hold outputs and filters.
template <class Config>
__device__ __forceinline__ void project_chunk(const FusedBlockParams<typename Config::Element>& params,
                                              const unsigned char* columns, const unsigned char* weights,
                                              typename Config::Product::Accumulators& sums) {
  using T = typename Config::Element;
  using Product = typename Config::Product;
  const int row = warp_row<Product>(), first = warp_column<Product>();
  if (row >= params.layout.tile_p * params.layout.tile_q || first >= params.filter_count) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[1][4];
    Config::Tile::load_a(a, columns, row, half);
#pragma unroll
    for (int j = 0; j < Product::kMmaN; j += 2) {
      if (first + j * 8 >= params.filter_count) break;
      uint32_t b[2][2];
      Config::Tile::load_b(b, weights, first + j * 8, half);
      mma_m16n8k16<T>(sums[0][j], a[0], b[0]);
      mma_m16n8k16<T>(sums[0][j + 1], a[0], b[1]);
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kMinBlocks)
    fused_block_mma_kernel(const __grid_constant__ FusedBlockParams<typename Config::Element> params) {
  using Product = typename Config::Product;
  const FusedLayout& layout = params.layout;
  unsigned char* shared = dynamic_shared_memory();
  auto* pixels = reinterpret_cast<FusedPixel*>(shared);
  unsigned char *x = shared + layout.x, *columns = shared + layout.columns;
  const auto hidden = [&](int chunk) {
    return shared + layout.hidden + (Config::kExpands ? 0 : chunk % 2 * layout.hidden_bytes);
  };
  const auto weights = [&](int chunk) { return shared + layout.weights + chunk % 2 * layout.weight_bytes; };

  int tile_p, tile_q;
  const int n = params.tiles_p.divmod(params.tiles_q.divmod(static_cast<int>(blockIdx.x), tile_q), tile_p);
  const int p0 = tile_p * layout.tile_p, q0 = tile_q * layout.tile_q;
  const int count = list_pixels(params, p0, q0, Config::kThreads, pixels);
  // What no pixel of the image is written to stays zero: padding, and rows of operand A without an output.
  for (int i = static_cast<int>(threadIdx.x) * 16; i < layout.columns + Config::kPixels * 64 - layout.hidden;
       i += Config::kThreads * 16) {
    store_pack<4>(reinterpret_cast<uint32_t*>(shared + layout.hidden + i), Pack<uint32_t, 4>{});
  }
  __syncthreads();
  const auto* image = params.x + n * params.x_stride_n;
  const auto fetch = [&](int chunk) {
    fetch_weights<Config>(params, chunk, weights(chunk));
    if constexpr (!Config::kExpands) fetch_hidden<Config>(params, image, pixels, count, chunk, hidden(chunk));
    cp_async_commit();
  };
  if constexpr (Config::kExpands) fetch_x<Config>(params, image, pixels, count, x);
  fetch(0);
  cp_async_wait<0>();
  __syncthreads();

  FusedWindowPart part;
  part.columns = columns;
  part.rows = min(layout.tile_p, params.P - p0), part.columns_wide = min(layout.tile_q, params.Q - q0);
  part.last = params.hidden - 1;
  typename Product::Accumulators sums = {};
  const int chunks = (params.hidden + kFusedChunk - 1) / kFusedChunk;
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const unsigned char* own = weights(chunk);
    if constexpr (Config::kExpands) expand_chunk<Config>(params, chunk, pixels, count, x, own, hidden(chunk));
    // This chunk is whole, and the weights (and hidden pixels) of the one before are no longer read.
    __syncthreads();
    if (chunk + 1 < chunks) fetch(chunk + 1);
    part.hidden = hidden(chunk), part.filters = own + layout.filters, part.first_channel = chunk * kFusedChunk;
    filter_hidden<Config>(params.window, part, layout);
    cp_async_wait<0>();
    __syncthreads();
    project_chunk<Config>(params, columns, own + layout.project, sums);
  }
  store_mma_tile<Product>(sums, shared, params.output, 0, [&](int row) {
    int q;
    const int p = params.tile_width.divmod(row, q);
    MmaRow at;
    at.n = n, at.p = p0 + p, at.q = q0 + q;
    at.valid = p < part.rows && q < part.columns_wide;
    at.offset = at.n * params.out_stride_n + at.p * params.out_stride_h + at.q * params.out_stride_w;
    at.partial = 0;
    return at;
  });
}

}  // namespace fastconv::cuda
