#include "kernels/conv_mma_launch.cuh"

namespace fastconv::cuda {
template void launch_conv_mma<half_t>(const ConvMmaProblem&, const CallContext&);
}  // namespace fastconv::cuda
