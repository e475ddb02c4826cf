#include "kernels/conv_mma_launch.cuh"

namespace fastconv::cuda {
template void launch_conv_mma<bfloat16_t>(const ConvMmaProblem&, const CallContext&);
}  // namespace fastconv::cuda
