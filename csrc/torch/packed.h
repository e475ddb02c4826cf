// Prepacked weights as torch tensors: a header that says what was packed and for which instruction set, then the
// kernels' own format. The header is what keeps a stale or foreign tensor from being read as weights.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

enum class PackedKind : int32_t {
  kConv2d = 1,
  kUpsample,
  kTranspose,
  kGemmB,
  kWinograd2x2,
  kWinograd4x4,
  kConv2dBf16,
  kGemmBf16
};

// Where the kernels' format begins in `packed`; throws std::invalid_argument unless it was made by the matching pack
// function, in this process' instruction set, from a weight of these extents.
const void* packed_data(const Tensor& packed, PackedKind kind, const ConvProblem& problem, DType dtype, const char* op);

// The same for whatever pack_conv2d_weight made: fills the call's packed_w and packed_format.
void fill_packed(Conv2dCall& call, const Tensor& packed, const char* op);
void fill_packed_upsample(Conv2dCall& call, const Tensor& packed, const char* op);  // pack_upsample_weight
void fill_packed(GemmCall& call, const Tensor& packed, const char* op);

}  // namespace fastconv::ops
