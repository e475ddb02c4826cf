// The algorithms of gemm and linear on the CPU.
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {
namespace {

Reasons unless_bf16(const GemmCall& call, const Bf16Kernels* there) {
  Reasons reasons;
  if (!there) reasons.push_back("the instruction set in use (" + std::string(kernels().isa) + ") has none");
  if (call.dtype != DType::kBFloat16) {
    reasons.push_back("expected bfloat16, but got " + std::string(dtype_name(call.dtype)));
  }
  if (call.packed_b && call.packed_format != PackedFormat::kBf16Pairs) {
    reasons.push_back("packed is not made of pairs of bfloat16");
  }
  if (call.K == 0) reasons.push_back("expected a reduction of at least one element, but got K = 0");
  return reasons;
}

Reasons unless_panels(const GemmCall& call) {
  if (!call.packed_b || call.packed_format == PackedFormat::kPanels) return {};
  return {"packed is made of pairs of bfloat16"};
}

}  // namespace

const AlgorithmTable<GemmCall>& gemm_algorithms() {
  static const AlgorithmTable<GemmCall> table = {
      {"amx", "bfloat16 in the processor's matrix tiles, float32 sums",
       [](const GemmCall& call) { return unless_bf16(call, kernels().amx); }, nullptr,
       [](const GemmCall& call, const CallContext& context) { kernels().amx->gemm(call, context); }},
      {"avx512_bf16", "bfloat16 by dot products of pairs, float32 sums",
       [](const GemmCall& call) { return unless_bf16(call, kernels().avx512_bf16); },
       [](const GemmCall&) { return fast_bf16_pairs(); },
       [](const GemmCall& call, const CallContext& context) { kernels().avx512_bf16->gemm(call, context); }},
      {"tiled", "register tiles of rows x columns, B in packed panels", unless_panels, nullptr,
       [](const GemmCall& call, const CallContext& context) { kernels().gemm(call, context); }},
  };
  return table;
}

}  // namespace fastconv::cpu
