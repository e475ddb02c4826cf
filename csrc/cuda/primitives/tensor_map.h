// Makes the tensor maps that tma.cuh and tma_im2col.cuh take: on the host, once a launch.
#pragma once

#include <stdexcept>
#include <string>

#include "../../common/dtypes.h"
#include "tma.cuh"

namespace fastconv::cuda {

// A tensor and the box that one copy moves, the contiguous dimension first.
struct TensorMapSpec {
  const void* data;
  DType dtype;
  int rank;
  uint64_t extent[5];  // in elements
  uint64_t stride[5];  // in elements; that of dimension 0 is 1
  uint32_t box[5];
  int swizzle_bytes;     // 0, 32, 64 or 128: at least a row of the box
  bool as_tf32 = false;  // loads round floats to tf32
};

// A batch of images, dimensions (channel, width, height, depth, image) without height or depth where the rank is
// smaller, and the pixels that one im2col copy moves.
struct Im2colMapSpec {
  const void* data;
  DType dtype;
  int rank;            // 3 to 5
  uint64_t extent[5];  // as above
  uint64_t stride[5];
  // The box of base pixels, width first: its first pixel, and its last pixel's distance from the image's last. A
  // convolution's: -padding, and padding - dilation * (filter - 1).
  int lower_corner[3], upper_corner[3];
  uint32_t step[3];           // distance of base pixels, width first: 1 to 8
  uint32_t channels, pixels;  // that a copy moves: at most 256 of 1024
  int swizzle_bytes;
  bool as_tf32 = false;
};

#if !defined(FASTCONV_EMULATED)

namespace tensor_map_detail {

// From the driver that is loaded already: nothing links against libcuda.
template <class Function>
Function* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result) != cudaSuccess) {
    function = nullptr;
  }
  return reinterpret_cast<Function*>(function);
}

inline CUtensorMapDataType data_type(DType dtype, bool as_tf32) {
  return as_tf32                     ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
         : dtype == DType::kFloat16  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
         : dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
         : dtype == DType::kFloat32  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
}

inline CUtensorMapSwizzle swizzle(int bytes) {
  return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
         : bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                       : CU_TENSOR_MAP_SWIZZLE_NONE;
}

inline std::string refusal_of(const char* function, CUresult status) {
  return status == CUDA_SUCCESS ? "" : std::string(function) + ": error " + std::to_string(static_cast<int>(status));
}

// Drivers up to 13.1 set a bit for tensors below 128 KiB that belongs to larger ones, as NVIDIA's own libraries undo.
// Hopper does not read it.
template <class Spec>
void correct_small_tensor(CUtensorMap& map, const Spec& spec) {
  static const bool affected = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version <= 13010;
  }();
  uint64_t elements = spec.extent[0];
  for (int d = 1; d < spec.rank; ++d) elements += (spec.extent[d] - 1) * spec.stride[d];
  if (affected && elements * dtype_size(spec.dtype) < 128u << 10) {
    reinterpret_cast<uint64_t*>(&map)[1] &= ~(uint64_t{1} << 21);
  }
}

}  // namespace tensor_map_detail

#endif

// Throws std::runtime_error where the driver refuses; what it demands (strides and pointer multiples of 16 bytes, boxes
// of at most 256 a dimension) is for the caller to have checked.
inline TensorMap make_tensor_map(const char* name, const TensorMapSpec& spec) {
  TensorMap map;
  uint64_t stride_bytes[5] = {};
  for (int d = 1; d < spec.rank; ++d) stride_bytes[d - 1] = spec.stride[d] * dtype_size(spec.dtype);
#if defined(FASTCONV_EMULATED)
  const std::string refusal =
      emulator::encode_tensor_map(map, const_cast<void*>(spec.data), static_cast<int>(dtype_size(spec.dtype)),
                                  spec.rank, spec.extent, stride_bytes, spec.box, spec.swizzle_bytes);
  map.rounds_to_tf32 = spec.as_tf32;
#else
  using namespace tensor_map_detail;
  const cuuint32_t element_stride[5] = {1, 1, 1, 1, 1};
  cuuint64_t extent[5], stride[5];
  for (int d = 0; d < 5; ++d) extent[d] = spec.extent[d], stride[d] = stride_bytes[d];
  static auto* const encode = driver_function<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  const CUresult status = encode ? encode(&map, data_type(spec.dtype, spec.as_tf32), static_cast<cuuint32_t>(spec.rank),
                                          const_cast<void*>(spec.data), extent, stride, spec.box, element_stride,
                                          CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle(spec.swizzle_bytes),
                                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                                 : CUDA_ERROR_NOT_SUPPORTED;
  const std::string refusal = refusal_of("cuTensorMapEncodeTiled", status);
#endif
  if (!refusal.empty()) throw std::runtime_error(std::string("tensor map of ") + name + ": " + refusal);
#if !defined(FASTCONV_EMULATED)
  correct_small_tensor(map, spec);
#endif
  return map;
}

// The same; the limits of the corners are -2^15 to 2^15 - 1 for rank 3, -128 to 127 for 4, -16 to 15 for 5.
inline TensorMap make_im2col_map(const char* name, const Im2colMapSpec& spec) {
  TensorMap map;
  uint64_t stride_bytes[5] = {};
  for (int d = 1; d < spec.rank; ++d) stride_bytes[d - 1] = spec.stride[d] * dtype_size(spec.dtype);
#if defined(FASTCONV_EMULATED)
  const std::string refusal = emulator::encode_im2col_map(
      map, const_cast<void*>(spec.data), static_cast<int>(dtype_size(spec.dtype)), spec.rank, spec.extent, stride_bytes,
      spec.lower_corner, spec.upper_corner, spec.channels, spec.pixels, spec.step, spec.swizzle_bytes);
  map.rounds_to_tf32 = spec.as_tf32;
#else
  using namespace tensor_map_detail;
  cuuint32_t element_stride[5] = {1, 1, 1, 1, 1};
  for (int d = 0; d < spec.rank - 2; ++d) element_stride[d + 1] = spec.step[d];
  cuuint64_t extent[5], stride[5];
  for (int d = 0; d < 5; ++d) extent[d] = spec.extent[d], stride[d] = stride_bytes[d];
  static auto* const encode = driver_function<decltype(cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  const CUresult status =
      encode ? encode(&map, data_type(spec.dtype, spec.as_tf32), static_cast<cuuint32_t>(spec.rank),
                      const_cast<void*>(spec.data), extent, stride, spec.lower_corner, spec.upper_corner, spec.channels,
                      spec.pixels, element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle(spec.swizzle_bytes),
                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
             : CUDA_ERROR_NOT_SUPPORTED;
  const std::string refusal = refusal_of("cuTensorMapEncodeIm2col", status);
#endif
  if (!refusal.empty()) throw std::runtime_error(std::string("tensor map of ") + name + ": " + refusal);
#if !defined(FASTCONV_EMULATED)
  correct_small_tensor(map, spec);
#endif
  return map;
}

}  // namespace fastconv::cuda
