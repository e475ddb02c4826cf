// A call in words, for the error of a kernel that failed.
#pragma once

#include <string>

#include "../common/fused_calls.h"

namespace fastconv::ops {

std::string describe(const ConvProblem& problem);
std::string describe(const PoolProblem& problem);
std::string describe(const TensorView& view);  // its extents

inline std::string describe(const Conv2dCall& c) { return describe(c.problem); }
inline std::string describe(const Conv2dStatsCall& c) { return describe(c.conv); }
inline std::string describe(const InvertedResidualCall& c) { return describe(c.depthwise.problem); }
inline std::string describe(const DepthwisePointwiseCall& c) { return describe(c.depthwise.problem); }
inline std::string describe(const ConvMaxPoolCall& c) { return describe(c.conv.problem); }
inline std::string describe(const Conv2dInputGradCall& c) { return describe(c.problem); }
inline std::string describe(const Conv2dWeightGradCall& c) { return describe(c.problem); }
inline std::string describe(const Im2colCall& c) { return describe(c.problem); }
inline std::string describe(const PoolCall& c) { return describe(c.problem); }
inline std::string describe(const ActivationCall& c) { return describe(c.x); }
inline std::string describe(const PreluParamGradCall& c) { return describe(c.x); }
inline std::string describe(const ChannelSumCall& c) { return describe(c.dy); }
inline std::string describe(const UpsampleCall& c) { return describe(c.large); }
inline std::string describe(const BatchNormStatsCall& c) { return describe(c.x); }
inline std::string describe(const BatchNormCall& c) { return describe(c.x); }
inline std::string describe(const BatchNormGradCall& c) { return describe(c.forward.x); }
std::string describe(const GemmCall& c);
std::string describe(const SoftmaxCall& c);

template <class Call>
DType element_type(const Call& c) {
  return c.dtype;
}
inline DType element_type(const BatchNormGradCall& c) { return c.forward.dtype; }
inline DType element_type(const Conv2dStatsCall& c) { return c.conv.dtype; }

}  // namespace fastconv::ops
