// The optional tensors of a fused call as the kernels' EpilogueArgs.
#pragma once

#include "tensor_utils.h"

namespace fastconv::ops {

// As they stand in the schemas.
struct EpilogueTensors {
  const OptionalTensor& bias;
  const OptionalTensor& scale;
  const OptionalTensor& shift;
  const OptionalTensor& residual;
  const std::string& act;
  double act_param;
  const OptionalTensor& alpha;
};

// Owns the converted vectors for the duration of a call; `args` points into them.
struct EpilogueHolder {
  EpilogueArgs args;
  OptionalTensor bias, scale, shift, alpha;
};

// The enumerator of `name`; throws std::invalid_argument listing the valid names.
Activation activation_named(const std::string& name, const char* op);

// Reads the one value of a one-element CPU tensor.
double scalar_value(const Tensor& t, const char* op);

// `channels` is the epilogue's channel count; `y` is the output, `channel_dim` its channel axis, and `as_view` gives
// the four-dimensional view (batch, channel, row, column) of a tensor of y's shape.
void fill_epilogue(EpilogueHolder& holder, const EpilogueTensors& tensors, const Tensor& y, int channel_dim,
                   DType dtype, TensorView (*as_view)(const Tensor&, DType), const char* op);

}  // namespace fastconv::ops
