#include "kernels/conv_mma_launch.cuh"

namespace fastconv::cuda {
template void launch_conv_mma<float>(const ConvMmaProblem&, const CallContext&);
}  // namespace fastconv::cuda
