#include "tables.h"

#include "../cpu/algorithms.h"
#include "emulated.h"

namespace fastconv::ops {

namespace {

const cuda::Backend& cuda_backend(Backend backend) {
  if (backend == Backend::kCudaEmulated) return emulated_backend();
#if defined(FASTCONV_WITH_CUDA)
  return *fastconv_cuda_backend();
#else
  throw NotServed("cuda: this build has no CUDA kernels; fastconv.build_info() says why");
#endif
}

}  // namespace

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
  const Backend backend = name.empty() ? Backend::kCpu : backend_named(name);
  if (t.is_cuda()) return Backend::kCuda;  // a backend is forced for CPU tensors
  if (!t.is_cpu()) throw NotServed(concat(op, ": no backend serves tensors of this device"));
  if (backend == Backend::kCuda) throw NotServed(concat(op, ": backend cuda does not take tensors of the CPU"));
  return backend;
}

void* current_stream([[maybe_unused]] const Tensor& t, Backend backend) {
  if (backend != Backend::kCuda) return nullptr;
#if defined(FASTCONV_WITH_CUDA)
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
#else
  return nullptr;
#endif
}

const OpKernels& op_kernels(Backend backend) {
  return backend == Backend::kCpu ? cpu::kernels() : *cuda_backend(backend).kernels;
}

OpKernels::Kernel<CombineCall> combine_kernel(Backend backend) {
  if (backend != Backend::kCpu) return cuda_backend(backend).combine;
  return [](const CombineCall& call, const CallContext& context) { cpu::kernels().combine(call, context); };
}

template <>
const AlgorithmTable<GemmCall>& algorithms<GemmCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::gemm_algorithms() : *cuda_backend(backend).gemm;
}

template <>
const AlgorithmTable<Conv2dCall>& algorithms<Conv2dCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::conv2d_algorithms() : *cuda_backend(backend).conv2d;
}

template <>
const AlgorithmTable<Conv2dStatsCall>& algorithms<Conv2dStatsCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::conv2d_stats_algorithms() : *cuda_backend(backend).conv2d_stats;
}

const AlgorithmTable<Conv2dCall>& upsample_algorithms(Backend backend) {
  return backend == Backend::kCpu ? cpu::upsample_conv2d_algorithms() : *cuda_backend(backend).upsample_conv2d;
}

template <>
const AlgorithmTable<Conv2dInputGradCall>& algorithms<Conv2dInputGradCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::conv2d_input_grad_algorithms() : *cuda_backend(backend).conv2d_input_grad;
}

template <>
const AlgorithmTable<Conv2dWeightGradCall>& algorithms<Conv2dWeightGradCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::conv2d_weight_grad_algorithms() : *cuda_backend(backend).conv2d_weight_grad;
}

template <>
const AlgorithmTable<InvertedResidualCall>& algorithms<InvertedResidualCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::inverted_residual_algorithms() : *cuda_backend(backend).inverted_residual;
}

template <>
const AlgorithmTable<DepthwisePointwiseCall>& algorithms<DepthwisePointwiseCall>(Backend backend) {
  return backend == Backend::kCpu ? cpu::depthwise_pointwise_algorithms() : *cuda_backend(backend).depthwise_pointwise;
}

// This block is the CPU's: other backends run its parts, which fastconv.functional calls one by one.
template <>
const AlgorithmTable<ConvMaxPoolCall>& algorithms<ConvMaxPoolCall>(Backend backend) {
  static const AlgorithmTable<ConvMaxPoolCall> none;
  return backend == Backend::kCpu ? cpu::conv_max_pool_algorithms() : none;
}

}  // namespace fastconv::ops
