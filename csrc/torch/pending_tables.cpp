// Empty tables for operations whose csrc/cpu/<op>.cpp is still being written; the real definition wins at link time.
#include "../cpu/algorithms.h"

namespace fastconv::cpu {

template <class Call>
const AlgorithmTable<Call>& empty_table() {
  static const AlgorithmTable<Call> table;
  return table;
}

#define FC_PENDING __attribute__((weak))
FC_PENDING const AlgorithmTable<GemmCall>& gemm_algorithms() { return empty_table<GemmCall>(); }
FC_PENDING const AlgorithmTable<Conv2dCall>& conv2d_algorithms() { return empty_table<Conv2dCall>(); }
FC_PENDING const AlgorithmTable<Conv2dCall>& upsample_conv2d_algorithms() { return empty_table<Conv2dCall>(); }
FC_PENDING const AlgorithmTable<Conv2dInputGradCall>& conv2d_input_grad_algorithms() {
  return empty_table<Conv2dInputGradCall>();
}
FC_PENDING const AlgorithmTable<Conv2dWeightGradCall>& conv2d_weight_grad_algorithms() {
  return empty_table<Conv2dWeightGradCall>();
}

}  // namespace fastconv::cpu
