// Makes the tensor maps that tma.cuh takes: on the host, once a launch.
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
  int swizzle_bytes;  // 0, 32, 64 or 128: at least a row of the box
};

#if !defined(FASTCONV_EMULATED)

// From the driver that is loaded already: nothing links against libcuda.
inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) !=
        cudaSuccess) {
      function = nullptr;
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  return encoder;
}

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
#else
  const auto type = spec.dtype == DType::kFloat16    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                    : spec.dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                    : spec.dtype == DType::kFloat32  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
  const auto swizzle = spec.swizzle_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                       : spec.swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                       : spec.swizzle_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                  : CU_TENSOR_MAP_SWIZZLE_NONE;
  const cuuint32_t element_stride[5] = {1, 1, 1, 1, 1};
  cuuint64_t extent[5], stride[5];
  for (int d = 0; d < 5; ++d) extent[d] = spec.extent[d], stride[d] = stride_bytes[d];
  const auto encode = tensor_map_encoder();
  const CUresult status = encode
                              ? encode(&map, type, static_cast<cuuint32_t>(spec.rank), const_cast<void*>(spec.data),
                                       extent, stride, spec.box, element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                              : CUDA_ERROR_NOT_SUPPORTED;
  const std::string refusal =
      status == CUDA_SUCCESS ? "" : "cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(status));
#endif
  if (!refusal.empty()) throw std::runtime_error(std::string("tensor map of ") + name + ": " + refusal);
  return map;
}

}  // namespace fastconv::cuda
