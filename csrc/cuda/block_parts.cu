// The row "parts" of blocks: each stage by the row that conv2d's table chooses for it.
#include "../common/block_parts.h"
#include "algorithms.h"

namespace fastconv::cuda {
namespace {

void run_stage(const Conv2dCall& call, const CallContext& context) {
  select_algorithm(conv2d_algorithms(), call, "conv2d", "").run(call, context);
}

template <class Call>
constexpr Algorithm<Call> parts() {
  return {"parts", "the stages one after the other, the tensors between them in the workspace",
          [](const Call&) { return Reasons(); }, nullptr,
          [](const Call& call, const CallContext& context) { run_parts(call, run_stage, 0, context); }};
}

}  // namespace

const Algorithm<InvertedResidualCall> kInvertedResidualParts = parts<InvertedResidualCall>();
const Algorithm<DepthwisePointwiseCall> kDepthwisePointwiseParts = parts<DepthwisePointwiseCall>();

}  // namespace fastconv::cuda
