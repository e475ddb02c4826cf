#include "backend.h"

const fastconv::cuda::Backend* fastconv_cuda_backend() {
  using namespace fastconv::cuda;
  static const Backend backend{kBackendAbi, &gemm_algorithms(), &conv2d_algorithms()};
  return &backend;
}
