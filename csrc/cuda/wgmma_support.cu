#include "wgmma_support.h"

#include "conv2d_gemm.h"
#include "kernels/layout.cuh"
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

void refuse_wide_types(Reasons& reasons, DType dtype) {
  if (dtype == DType::kFloat16 || dtype == DType::kBFloat16) return;
  reasons.push_back(std::string("dtype is ") + dtype_name(dtype) + ", not float16 or bfloat16");
}

int64_t tma_pixel_stride(const TensorView& t, int64_t groups) {
  constexpr int64_t kVector = 8;  // elements in 16 bytes: what strides and addresses are multiples of
  const int64_t images = t.size[0], channels = t.size[1], pixels = t.size[2] * t.size[3];
  const int64_t of_group = channels / groups;
  const int64_t stride = images * pixels == 1 ? (channels + kVector - 1) / kVector * kVector
                         : pixels == 1        ? t.stride[0]
                                              : pixel_stride(t);
  const bool rows = pixels_are_even(t) && images_are_even(t, images) && stride > 0 && stride % kVector == 0;
  // Two columns at a time; groups are a dimension of the map, whose stride is their channels.
  const bool columns = t.stride[1] == 1 && of_group % (groups == 1 ? 2 : kVector) == 0;
  return rows && columns && aligned_16(t.data) ? stride : 0;
}

bool prefer_ping_pong(const WgmmaTurns& turns, const DeviceInfo& device) {
  constexpr int64_t kClocksLost = 1024 / 3, kEpilogue = 2 * 2850, kGeneralEpilogue = 2 * 128 * 100;
  if (turns.tiles <= device.multiprocessors) return false;
  return !turns.wide || turns.steps * kClocksLost <= (turns.general ? kGeneralEpilogue : kEpilogue);
}

}  // namespace fastconv::cuda
