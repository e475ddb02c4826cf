// The algorithms of gemm and linear on the CPU.
#include "algorithms.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {

const AlgorithmTable<GemmCall>& gemm_algorithms() {
  static const AlgorithmTable<GemmCall> table = {
      {"tiled", "register tiles of rows x columns, B in packed panels", [](const GemmCall&) { return Reasons{}; },
       nullptr, [](const GemmCall& call, const CallContext& context) { kernels().gemm(call, context); }},
  };
  return table;
}

}  // namespace fastconv::cpu
