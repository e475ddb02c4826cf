// Windows written out as columns of a matrix, and their sum back into the image (torch's unfold and fold, and the
// left side of conv2d's explicit GEMM).
//
//   im2col   columns[n][window position and channel][pixel] = x[n, c, h(p, r), w(q, s)], zero in the padding
//   col2im   x[n, c, h, w] = sum of the columns that im2col would have filled from there
//
// A thread takes one pixel and channel (or a pack of channels) and walks the window: of the matrix for im2col, of the
// image for col2im, which so gathers instead of scattering and adds in the same order every time. Neighbouring threads
// follow memory: pixels, or channels where these are innermost.
#pragma once

#include "../../common/calls.h"
#include "image_index.cuh"

namespace fastconv::cuda {

// Where the matrix keeps what: strides in elements. `channels_first`: its rows in the order (c, r, s), else (r, s, c).
struct Im2colLayout {
  int64_t stride_image, stride_row, stride_pixel;
  bool channels_first;

  __device__ __forceinline__ int64_t row(int64_t c, int64_t channels, int r, int s, int R, int S) const {
    return channels_first ? (c * R + r) * S + s : (static_cast<int64_t>(r) * S + s) * channels + c;
  }
};

// T only names the element's size: nothing is computed.
template <class T>
struct Im2colParams {
  ConvProblem problem;  // P: the rows of pixels asked for
  int64_t first_p;      // of the image's
  TensorView x;
  T* columns;
  Im2colLayout layout;
  ImageIndex index;  // over (N, C, P, Q)
};

template <class T, int kPack>
__global__ void __launch_bounds__(kFlatThreads) im2col_kernel(const Im2colParams<T> params) {
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  const ConvProblem& problem = params.problem;
  const int R = static_cast<int>(problem.R), S = static_cast<int>(problem.S);
  const int64_t corner_h = (params.first_p + at.h) * problem.stride_h - problem.pad_top;
  const int64_t corner_w = at.w * problem.stride_w - problem.pad_left;
  const T* image = params.x.template as<const T>() + params.x.offset(at.n, at.c, 0, 0);
  T* columns =
      params.columns + at.n * params.layout.stride_image + (at.h * problem.Q + at.w) * params.layout.stride_pixel;
  for (int r = 0; r < R; ++r) {
    const int64_t h = corner_h + r * problem.dilation_h;
    for (int s = 0; s < S; ++s) {
      const int64_t w = corner_w + s * problem.dilation_w;
      const bool inside = h >= 0 && h < problem.H && w >= 0 && w < problem.W;
      const T* from = image + h * params.x.stride[2] + w * params.x.stride[3];
      T* to = columns + params.layout.row(at.c, problem.C, r, s, R, S) * params.layout.stride_row;
      store_pack<kPack>(to, inside ? load_pack<kPack>(from) : Pack<T, kPack>{});
    }
  }
}

// The windows of problem.P rows of pixels from `first_p` on, of problem.C channels from x's first.
template <class T>
void launch_im2col(const ConvProblem& problem, int64_t first_p, const TensorView& x, const Im2colLayout& layout,
                   T* columns, LaunchConfig config) {
  Im2colParams<T> params{problem, first_p, x, columns, layout, {}};
  // Channels in the lanes only where they are innermost on both sides.
  const bool along_channels = x.stride[1] == 1 && x.stride[3] != 1 && layout.stride_row == 1 && !layout.channels_first;
  constexpr int kPack = kWidestPack<T>;
  const bool packs = along_channels && problem.C % kPack == 0 && layout.stride_image % kPack == 0 &&
                     layout.stride_pixel % kPack == 0 && pack_aligned(columns, kPack) &&
                     runs_in_packs(x, 1, kPack, kPack * static_cast<int>(sizeof(T)));
  params.index = ImageIndex(problem.N, problem.C, problem.P, problem.Q, packs ? kPack : 1, along_channels);
  if (packs) {
    launch("im2col", flat_launch(config, params.index.count), im2col_kernel<T, kPack>, params);
  } else {
    launch("im2col", flat_launch(config, params.index.count), im2col_kernel<T, 1>, params);
  }
}

template <class T>
struct Col2imParams {
  ConvProblem problem;
  TensorView x;
  const T* columns;
  Im2colLayout layout;
  ImageIndex index;  // over (N, C, H, W)
  Divider stride_h, stride_w;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) col2im_kernel(const Col2imParams<T> params) {
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  const ConvProblem& problem = params.problem;
  const int R = static_cast<int>(problem.R), S = static_cast<int>(problem.S);
  const T* columns = params.columns + at.n * params.layout.stride_image;
  accumulate_t<T> sum = 0;
  for (int r = 0; r < R; ++r) {
    // The window row r of pixel row p lies here if p * stride_h is this:
    const int64_t from_h = at.h + problem.pad_top - r * problem.dilation_h;
    if (from_h < 0) break;
    int64_t beside_h;
    const int64_t p = params.stride_h.divide(from_h, beside_h);
    if (beside_h != 0 || p >= problem.P) continue;
    for (int s = 0; s < S; ++s) {
      const int64_t from_w = at.w + problem.pad_left - s * problem.dilation_w;
      if (from_w < 0) break;
      int64_t beside_w;
      const int64_t q = params.stride_w.divide(from_w, beside_w);
      if (beside_w != 0 || q >= problem.Q) continue;
      sum += to_accumulate(columns[params.layout.row(at.c, problem.C, r, s, R, S) * params.layout.stride_row +
                                   (p * problem.Q + q) * params.layout.stride_pixel]);
    }
  }
  params.x.template as<T>()[params.x.offset(at.n, at.c, at.h, at.w)] = from_accumulate<T>(sum);
}

template <class T>
void launch_col2im(const ConvProblem& problem, const TensorView& x, const Im2colLayout& layout, const T* columns,
                   const LaunchConfig& config) {
  Col2imParams<T> params{problem, x, columns, layout, {}, {}, {}};
  params.index = ImageIndex(problem.N, problem.C, problem.H, problem.W, 1, x.stride[1] == 1 && x.stride[3] != 1);
  params.stride_h = Divider(problem.stride_h, problem.H + problem.pad_top);
  params.stride_w = Divider(problem.stride_w, problem.W + problem.pad_left);
  launch("col2im", flat_launch(config, params.index.count), col2im_kernel<T>, params);
}

// Calls f with an unsigned type of the element's size: what copying needs to know of a dtype.
template <class F>
void visit_element_size(DType dtype, F&& f) {
  switch (dtype_size(dtype)) {
    case 2:
      return f(TypeTag<uint16_t>{});
    case 4:
      return f(TypeTag<uint32_t>{});
    default:
      return f(TypeTag<uint64_t>{});
  }
}

}  // namespace fastconv::cuda
