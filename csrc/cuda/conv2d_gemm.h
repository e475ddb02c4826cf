// conv2d's tensors as the matrices of a GemmCall: pixels are rows, channels columns. For the rows that call the GEMM.
#pragma once

#include "../common/algorithm_table.h"

namespace fastconv::cuda {

// Whether the pixels of one image lie evenly in memory, and those of all images.
inline bool pixels_are_even(const TensorView& t) {
  return t.size[2] == 1 || t.size[3] == 1 || t.stride[2] == t.size[3] * t.stride[3];
}
inline int64_t pixel_stride(const TensorView& t) { return t.size[3] > 1 ? t.stride[3] : t.stride[2]; }
// A parameter that all images share has one image, which its stride of 0 repeats.
inline bool images_are_even(const TensorView& t, int64_t images) {
  const int64_t pixels = t.size[2] * t.size[3];
  if (!t.present() || pixels == 1) return true;
  return pixels_are_even(t) && (images == 1 || t.stride[0] == pixels * pixel_stride(t));
}

inline void refuse_uneven_pixels(Reasons& reasons, const char* name, const TensorView& t) {
  if (!t.present() || pixels_are_even(t)) return;
  reasons.push_back(std::string("the pixels of ") + name + " do not lie evenly: rows are " +
                    std::to_string(t.stride[2]) + " elements apart, columns " + std::to_string(t.stride[3]) + " (" +
                    std::to_string(t.size[3]) + " of them)");
}

// A part of a tensor (N, C, H, W): images from n on, channels from c on, rows from h on.
struct ImagePart {
  int64_t n, images, c, channels, h, rows;
};

inline TensorView part_of(const TensorView& t, const ImagePart& part) {
  if (!t.present()) return t;
  TensorView view = t;
  view.data =
      static_cast<char*>(t.data) + t.offset(part.n, part.c, part.h, 0) * static_cast<int64_t>(dtype_size(t.dtype));
  view.size[0] = part.images, view.size[1] = part.channels, view.size[2] = part.rows;
  return view;
}

// (batch, channel, pixel, 1), the form of a GemmCall's epilogue; with `merged` all images are one batch.
inline TensorView matrix_of(const TensorView& t, bool merged) {
  if (!t.present()) return t;
  const int64_t pixels = t.size[2] * t.size[3];
  TensorView view = t;
  view.size[0] = merged ? 1 : t.size[0], view.size[2] = merged ? t.size[0] * pixels : pixels, view.size[3] = 1;
  // A lone pixel an image: its neighbour is the next image's.
  view.stride[2] = merged && pixels == 1 ? t.stride[0] : pixel_stride(t), view.stride[3] = 0;
  return view;
}

// The output's half of a GemmCall: d, its strides, the epilogue, batch, M and N, for `part` of y.
inline GemmCall gemm_into(const Conv2dCall& call, const ImagePart& part, bool merged) {
  GemmCall gemm;
  gemm.dtype = call.dtype;
  gemm.allow_tf32 = call.allow_tf32;
  const TensorView d = matrix_of(part_of(call.y, part), merged);
  gemm.batch = d.size[0], gemm.M = d.size[2], gemm.N = d.size[1];
  gemm.d = d.data, gemm.d_stride_batch = d.stride[0], gemm.d_stride_n = d.stride[1], gemm.d_stride_m = d.stride[2];
  gemm.epilogue = call.epilogue;
  const auto from_channel = [&](const void* vector) -> const void* {
    const size_t bytes = static_cast<size_t>(part.c) * dtype_size(accumulate_dtype(call.dtype));
    return vector ? static_cast<const char*>(vector) + bytes : nullptr;
  };
  EpilogueArgs& e = gemm.epilogue;
  e.bias = from_channel(e.bias), e.scale = from_channel(e.scale), e.shift = from_channel(e.shift);
  e.channel_param = from_channel(e.channel_param);
  e.residual = matrix_of(part_of(e.residual, part), merged);
  e.full_param = matrix_of(part_of(e.full_param, part), merged);
  return gemm;
}

}  // namespace fastconv::cuda
