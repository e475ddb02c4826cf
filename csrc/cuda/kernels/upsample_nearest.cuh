// Nearest upsampling by whole factors, large[n, c, h, w] = small[n, c, h / scale_h, w / scale_w], and its transpose,
// the sum over each scale_h x scale_w block, gathered by the small pixel. A thread for each pixel and pack of channels
// (NHWC), or element. Forward moves bits, whatever the type.
#pragma once

#include "../../common/calls.h"
#include "image_index.cuh"

namespace fastconv::cuda {

struct UpsampleParams {
  TensorView small, large;
  ImageIndex index;  // of the tensor that is written
  Divider scale_h, scale_w;
  int rows, columns;  // of a block
};

// Bits: 16 bytes of channels, or an unsigned integer of the element's size; element offsets count in `elements` of it.
template <class Bits>
__global__ void __launch_bounds__(kFlatThreads)
    upsample_nearest_kernel(const UpsampleParams params, int element_bytes) {
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  int64_t rest;
  const int64_t h = params.scale_h.divide(at.h, rest), w = params.scale_w.divide(at.w, rest);
  const char* from = params.small.template as<const char>() + params.small.offset(at.n, at.c, h, w) * element_bytes;
  char* to = params.large.template as<char>() + params.large.offset(at.n, at.c, at.h, at.w) * element_bytes;
  *reinterpret_cast<Bits*>(to) = *reinterpret_cast<const Bits*>(from);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kFlatThreads) upsample_nearest_backward_kernel(const UpsampleParams params) {
  using Acc = accumulate_t<T>;
  static_assert(kPack * sizeof(T) <= 16);
  const int64_t i = flat_thread();
  if (i >= params.index.count) return;
  const ImagePlace at = params.index(i);
  const T* block =
      params.large.template as<const T>() + params.large.offset(at.n, at.c, static_cast<int64_t>(at.h) * params.rows,
                                                                static_cast<int64_t>(at.w) * params.columns);
  Acc sum[kPack] = {};
#pragma unroll 1  // there are threads enough to wait together
  for (int r = 0; r < params.rows; ++r) {
#pragma unroll 1
    for (int s = 0; s < params.columns; ++s) {
      const Pack<T, kPack> v = load_pack<kPack>(block + r * params.large.stride[2] + s * params.large.stride[3]);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum[e] += to_accumulate(v.value[e]);
    }
  }
  Pack<T, kPack> out;
#pragma unroll
  for (int e = 0; e < kPack; ++e) out.value[e] = from_accumulate<T>(sum[e]);
  store_pack<kPack>(params.small.template as<T>() + params.small.offset(at.n, at.c, at.h, at.w), out);
}

inline UpsampleParams upsample_params(const UpsampleCall& call, const TensorView& written, int pack) {
  UpsampleParams params;
  params.small = call.small, params.large = call.large;
  params.index = ImageIndex(written.size[0], written.size[1], written.size[2], written.size[3], pack,
                            written.stride[1] == 1 && written.size[1] > 1);
  params.rows = static_cast<int>(call.scale_h), params.columns = static_cast<int>(call.scale_w);
  params.scale_h = Divider(call.scale_h, call.large.size[2]);
  params.scale_w = Divider(call.scale_w, call.large.size[3]);
  return params;
}

}  // namespace fastconv::cuda
