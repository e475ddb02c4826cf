#include "tables.h"

#include "../cpu/algorithms.h"

namespace fastconv::ops {

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kCuda:
      return "cuda";
    case Backend::kCudaEmulated:
      return "cuda_emulated";
    default:
      return "cpu";
  }
}

Backend backend_named(const std::string& name) {
  for (const Backend backend : {Backend::kCpu, Backend::kCudaEmulated, Backend::kCuda}) {
    if (name == backend_name(backend)) return backend;
  }
  throw std::invalid_argument(
      concat("fastconv: expected backend to be one of cpu, cuda_emulated, cuda, but got '", name, "'"));
}

Backend backend_of(const Tensor& t, const std::string& name, const char* op) {
  const bool on_cpu = t.is_cpu();
  if (name.empty()) return on_cpu ? Backend::kCpu : Backend::kCuda;
  const Backend backend = backend_named(name);
  if (on_cpu != (backend != Backend::kCuda)) {
    throw NotServed(concat(op, ": backend ", name, " does not take tensors of this device"));
  }
  return backend;
}

template <>
const AlgorithmTable<GemmCall>& algorithms<GemmCall>(Backend backend) {
  static const AlgorithmTable<GemmCall> none;
  return backend == Backend::kCpu ? cpu::gemm_algorithms() : none;
}

template <>
const AlgorithmTable<Conv2dCall>& algorithms<Conv2dCall>(Backend backend) {
  static const AlgorithmTable<Conv2dCall> none;
  return backend == Backend::kCpu ? cpu::conv2d_algorithms() : none;
}

const AlgorithmTable<Conv2dCall>& upsample_algorithms(Backend backend) {
  static const AlgorithmTable<Conv2dCall> none;
  return backend == Backend::kCpu ? cpu::upsample_conv2d_algorithms() : none;
}

template <>
const AlgorithmTable<Conv2dInputGradCall>& algorithms<Conv2dInputGradCall>(Backend backend) {
  static const AlgorithmTable<Conv2dInputGradCall> none;
  return backend == Backend::kCpu ? cpu::conv2d_input_grad_algorithms() : none;
}

template <>
const AlgorithmTable<Conv2dWeightGradCall>& algorithms<Conv2dWeightGradCall>(Backend backend) {
  static const AlgorithmTable<Conv2dWeightGradCall> none;
  return backend == Backend::kCpu ? cpu::conv2d_weight_grad_algorithms() : none;
}

}  // namespace fastconv::ops
