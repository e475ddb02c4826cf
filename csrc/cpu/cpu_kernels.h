// The function table that each instruction set fills in its target_<isa>.cpp. Kernels are written once, in kernels/*.h,
// against the vector type of simd/<isa>.h, and compiled once per table.
#pragma once

#include "../common/op_kernels.h"
#include "parallel.h"

namespace fastconv::cpu {

// Products of bfloat16 with float32 sums, in hardware (kernels/bf16_*.h). All null where the CPU has no such
// instruction; the sets that fill this table read one packed format.
struct Bf16Kernels {
  OpKernels::Kernel<Conv2dCall> conv2d = nullptr;
  size_t (*conv2d_packed_bytes)(const ConvProblem&) = nullptr;
  void (*conv2d_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;
  OpKernels::Kernel<GemmCall> gemm = nullptr;
  size_t (*gemm_packed_b_bytes)(int64_t K, int64_t N) = nullptr;
  void (*gemm_pack_b)(const GemmCall&, void* packed) = nullptr;
  // Depthwise convolution with weights as the other tables pack them, for the layouts and filters that it serves.
  bool (*serves_depthwise)(const Conv2dCall&) = nullptr;
  OpKernels::Kernel<Conv2dCall> conv2d_depthwise = nullptr;
};

// Whether the `depthwise` algorithm is the one for this problem, and its packed filters those of conv2d_pack: one
// channel a filter, and not one channel with so many filters that the engine has them in its lanes. Of the weight's
// extents alone, as the next one is.
inline bool one_channel_each(const ConvProblem& c, DType dtype, int vector_bytes) {
  const int64_t lanes = vector_bytes / (dtype == DType::kFloat64 ? 8 : 4);
  return c.is_depthwise() || (c.C == 1 && c.groups == 1 && 2 * c.K <= lanes);
}

// Whether vectors of this many bytes hold the filters of several groups, so that the `grouped` algorithm is the one for
// this problem and its packed filters those of conv2d_pack. Of the weight's extents alone: it decides a format.
inline bool shares_vectors(const ConvProblem& c, DType dtype, int vector_bytes) {
  const int64_t lanes = vector_bytes / (dtype == DType::kFloat64 ? 8 : 4);
  return c.groups > 1 && !c.is_depthwise() && 2 * c.filters_per_group() <= lanes && c.channels_per_group() < lanes;
}

// Pixels along a side of the tiles that `fft` transforms: at least half of a tile is output, or a quarter of the larger
// one.
inline int64_t fft_side(const ConvProblem& c) {
  return (c.R - 1) * c.dilation_h <= 32 && (c.S - 1) * c.dilation_w <= 32 ? 64 : 128;
}

struct Kernels : OpKernels {
  const char* isa = nullptr;
  int vector_bytes = 0;

  // Convolution (kernels/conv_*.h). `packed_w` in the calls may be null: then the kernel packs into the workspace.
  void (*conv2d_implicit_gemm)(const Conv2dCall&,
                               const CallContext&) = nullptr;  // grouped, 1x1 and C = 3 stem included
  void (*conv2d_pointwise)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_direct)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_im2col)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_depthwise)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_winograd_2x2)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_winograd_4x4)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_grouped)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_fft)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*upsample_conv2d_gather)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*upsample_conv2d_phase)(const Conv2dCall&, const CallContext&) = nullptr;
  void (*conv2d_input_grad)(const Conv2dInputGradCall&, const CallContext&) = nullptr;
  void (*conv2d_input_grad_winograd)(const Conv2dInputGradCall&, const CallContext&) = nullptr;
  void (*conv2d_input_grad_depthwise)(const Conv2dInputGradCall&, const CallContext&) = nullptr;
  void (*conv2d_weight_grad)(const Conv2dWeightGradCall&, const CallContext&) = nullptr;
  void (*conv2d_weight_grad_depthwise)(const Conv2dWeightGradCall&, const CallContext&) = nullptr;

  // Fused blocks (kernels/conv_blocks.h, conv_max_pool.h), of float32 and narrower; the last of any type.
  void (*inverted_residual)(const InvertedResidualCall&, const CallContext&) = nullptr;
  void (*depthwise_pointwise)(const DepthwisePointwiseCall&, const CallContext&) = nullptr;
  void (*conv_max_pool)(const ConvMaxPoolCall&, const CallContext&) = nullptr;

  // Packed weights: bytes needed, and the packing. One format per function, of the accumulate type.
  size_t (*conv2d_packed_bytes)(const ConvProblem&, DType) = nullptr;
  void (*conv2d_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;
  size_t (*winograd_2x2_packed_bytes)(const ConvProblem&) = nullptr;
  void (*winograd_2x2_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;
  size_t (*winograd_4x4_packed_bytes)(const ConvProblem&) = nullptr;
  void (*winograd_4x4_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;
  size_t (*upsample_phase_packed_bytes)(const ConvProblem&, DType) = nullptr;
  void (*upsample_phase_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;
  size_t (*input_grad_packed_bytes)(const ConvProblem&, DType) = nullptr;
  void (*input_grad_pack)(const ConvProblem&, const TensorView& w, void* packed) = nullptr;

  // GEMM (kernels/gemm.h).
  void (*gemm)(const GemmCall&, const CallContext&) = nullptr;
  size_t (*gemm_packed_b_bytes)(int64_t K, int64_t N, DType) = nullptr;
  void (*gemm_pack_b)(const GemmCall&, void* packed) = nullptr;

  // Copies, sums and products of whole tensors (kernels/combine.h).
  void (*combine)(const CombineCall&, const CallContext&) = nullptr;
  // bfloat16 by the instructions that multiply it; null where there are none.
  const Bf16Kernels* amx = nullptr;
  const Bf16Kernels* avx512_bf16 = nullptr;

  // Measurement (kernels/machine.h): iterations of independent FMAs on one thread; returns FLOPs done.
  double (*fma_burst)(int64_t iterations) = nullptr;
  // One copy of `count` elements on one thread.
  void (*copy_burst)(const float* from, float* to, int64_t count) = nullptr;
};

// The table in use: the best the CPU has, or what FASTCONV_CPU_ISA names. Throws std::invalid_argument on a bad name,
// NotServed when the CPU lacks it.
const Kernels& kernels();
// Every table that this CPU can run, best first.
const Kernels* const* available_kernels(int* count);
// Whether VDPBF16PS is faster than widening to float32: full rate on AMD's Zen 4 and later (twice the products of an
// FMA in its time), but a quarter of the rate, half the products, on Intel's Sapphire Rapids (measured: 0.62 ns against
// 0.15 ns), whose way is AMX.
bool fast_bf16_pairs();
// The kernels for bfloat16 that are taken unasked with the instruction set in use; null: none.
const Bf16Kernels* bf16_kernels();
// Selects by name for this process ("" = best); for tests and verify.
void select_isa(const char* name);

// Whether Winograd's algorithms may be taken unasked: true, unless FASTCONV_WINOGRAD=0 or a call of the second.
bool winograd_allowed();
void allow_winograd(bool allowed);

// A number for the state of everything that decides which algorithm serves a problem: the instruction set,
// allow_winograd, the constants of the cost model (the second notes new ones). Who keeps a choice keeps it with it: a
// state that comes back has its number again.
int64_t choice_epoch();
void new_choice_epoch();

}  // namespace fastconv::cpu
