#include "wgmma_support.h"

#include "primitives/cuda.h"

namespace fastconv::cuda {
namespace {

// wgmma exists in code for sm_90a alone, which later GPUs do not run, and TORCH_CUDA_ARCH_LIST may have left it out.
// The size of this kernel's shared memory tells which of its versions the GPU has been given, without a launch.
#if defined(FASTCONV_EMULATED)
bool compiled_for_this_gpu() { return true; }
#else
constexpr size_t kProbeBytes = 8192;

__global__ void wgmma_probe(int* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ int marker[kProbeBytes / sizeof(int)];
#else
  __shared__ int marker[1];
#endif
  marker[threadIdx.x] = *out;
  __syncthreads();
  *out = marker[0];
}

bool compiled_for_this_gpu() {
  // Asked for on a GPU of architecture 90 only; those of one machine are alike in this.
  static const bool compiled = [] {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, wgmma_probe) == cudaSuccess)
      return attributes.sharedSizeBytes >= kProbeBytes;
    (void)cudaGetLastError();
    return false;
  }();
  return compiled;
}
#endif

}  // namespace

void refuse_without_wgmma(Reasons& reasons) {
  const int architecture = current_device().architecture;
  if (architecture == 0) {
    reasons.push_back("there is no CUDA device");
  } else if (architecture != 90) {
    reasons.push_back("the GPU is sm_" + std::to_string(architecture) + ": wgmma is sm_90a's");
  } else if (!compiled_for_this_gpu()) {
    reasons.push_back("this build has no code for sm_90a");
  }
}

}  // namespace fastconv::cuda
