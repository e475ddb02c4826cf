// Fills the function table of one instruction set. Included by target_<isa>.cpp after its simd/<isa>.h; a new kernel is
// an include and a line here.
#pragma once

#include "../cpu_kernels.h"
#include "batch_norm.h"
#include "channel_sum.h"
#include "combine.h"
#include "conv_blocks.h"
#include "conv_depthwise.h"
#include "conv_depthwise_grad.h"
#include "conv_direct.h"
#include "conv_fft.h"
#include "conv_grouped.h"
#include "conv_im2col.h"
#include "conv_implicit_gemm.h"
#include "conv_input_grad.h"
#include "conv_max_pool.h"
#include "conv_upsample.h"
#include "conv_weight_grad.h"
#include "conv_winograd.h"
#include "elementwise.h"
#include "gemm.h"
#include "im2col.h"
#include "machine.h"
#include "pooling_backward.h"
#include "pooling_max.h"
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
  k.batch_norm_stats = batch_norm_stats;
  k.batch_norm_act = batch_norm_act;
  k.batch_norm_act_backward = batch_norm_act_backward;
  k.conv2d_depthwise = conv2d_depthwise;
  k.conv2d_grouped = conv2d_grouped;
  k.conv2d_fft = conv2d_fft;
  k.conv2d_input_grad_depthwise = conv2d_input_grad_depthwise;
  k.conv2d_weight_grad_depthwise = conv2d_weight_grad_depthwise;
  k.max_pool2d = max_pool2d;
  k.max_pool2d_backward = max_pool2d_backward;
  k.avg_pool2d = avg_pool2d;
  k.avg_pool2d_backward = avg_pool2d_backward;
  k.conv2d_weight_grad = conv2d_weight_grad;
  k.conv2d_input_grad = conv2d_input_grad;
  k.conv2d_input_grad_winograd = conv2d_input_grad_winograd;
  k.input_grad_packed_bytes = input_grad_packed_bytes;
  k.input_grad_pack = input_grad_pack;
  k.conv2d_implicit_gemm = conv2d_implicit_gemm;
  k.conv2d_pointwise = conv2d_pointwise;
  k.conv2d_direct = conv2d_direct;
  k.conv2d_im2col = conv2d_im2col;
  k.conv2d_winograd_2x2 = conv2d_winograd<2>;
  k.conv2d_winograd_4x4 = conv2d_winograd<4>;
  k.upsample_conv2d_gather = upsample_conv2d_gather;
  k.upsample_conv2d_phase = upsample_conv2d_phase;
  k.inverted_residual = inverted_residual;
  k.depthwise_pointwise = depthwise_pointwise;
  k.conv_max_pool = conv_max_pool;
  k.conv2d_packed_bytes = conv2d_packed_bytes;
  k.conv2d_pack = conv2d_pack;
  k.winograd_2x2_packed_bytes = winograd_packed_bytes<2>;
  k.winograd_2x2_pack = winograd_pack<2>;
  k.winograd_4x4_packed_bytes = winograd_packed_bytes<4>;
  k.winograd_4x4_pack = winograd_pack<4>;
  k.upsample_phase_packed_bytes = upsample_phase_packed_bytes;
  k.upsample_phase_pack = upsample_phase_pack;
  k.gemm = gemm;
  k.gemm_packed_b_bytes = gemm_packed_b_bytes;
  k.gemm_pack_b = gemm_pack_b;
  k.combine = combine;
  k.fma_burst = fma_burst;
  k.copy_burst = copy_burst;
  return k;
}

// A constant expression: no code of this translation unit may run while the library loads, on a CPU without the ISA.
extern const Kernels kTable;
constexpr Kernels kTable = make_table();

}  // namespace fastconv::cpu::FASTCONV_ISA
