#include "plan_target.h"

#include "tables.h"

namespace fastconv::ops {

plan::Target plan_target(const std::string& name) {
  const Backend backend = backend_named(name);
  return {combine_kernel(backend), backend == Backend::kCpu, &algorithms<InvertedResidualCall>(backend),
          &algorithms<DepthwisePointwiseCall>(backend), &algorithms<ConvMaxPoolCall>(backend)};
}

size_t run_plan_on(const plan::Plan& plan, int device, plan::DeviceRun memory, size_t first,
                   const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) {
  if (device < 0) return plan.run_on(memory, first, inputs, outputs);
#if defined(FASTCONV_WITH_CUDA)
  const torch::stable::accelerator::DeviceGuard guard(device);
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &memory.stream));
  return plan.run_on(memory, first, inputs, outputs);
#else
  throw NotServed("cuda: this build has no CUDA kernels; fastconv.build_info() says why");
#endif
}

}  // namespace fastconv::ops
