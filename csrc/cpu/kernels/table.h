// Fills the function table of one instruction set. Included by target_<isa>.cpp after its simd/<isa>.h; a new kernel is
// an include and a line here.
#pragma once

#include "../cpu_kernels.h"
#include "channel_sum.h"
#include "conv_depthwise.h"
#include "conv_depthwise_grad.h"
#include "conv_input_grad.h"
#include "conv_weight_grad.h"
#include "elementwise.h"
#include "im2col.h"
#include "prelu_grad.h"
#include "softmax.h"
#include "upsample.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr Kernels make_table() {
  Kernels k{};
  k.isa = kIsaName;
  k.vector_bytes = kVectorBytes;
  k.activation = activation;
  k.prelu_param_grad = prelu_param_grad;
  k.softmax = softmax;
  k.softmax_backward = softmax_backward;
  k.im2col = im2col;
  k.col2im = col2im;
  k.upsample_nearest2d = upsample_nearest2d;
  k.upsample_nearest2d_backward = upsample_nearest2d_backward;
  k.channel_sum = channel_sum;
  k.conv2d_depthwise = conv2d_depthwise;
  k.conv2d_input_grad_depthwise = conv2d_input_grad_depthwise;
  k.conv2d_weight_grad_depthwise = conv2d_weight_grad_depthwise;
  k.conv2d_weight_grad = conv2d_weight_grad;
  k.conv2d_input_grad = conv2d_input_grad;
  k.input_grad_packed_bytes = input_grad_packed_bytes;
  k.input_grad_pack = input_grad_pack;
  return k;
}

// A constant expression: no code of this translation unit may run while the library loads, on a CPU without the ISA.
extern const Kernels kTable;
constexpr Kernels kTable = make_table();

}  // namespace fastconv::cpu::FASTCONV_ISA
