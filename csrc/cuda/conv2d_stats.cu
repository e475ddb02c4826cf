// The conv2d_stats row "parts".
#include "algorithms.h"

namespace fastconv::cuda {

namespace {

Reasons stats_parts_reasons(const Conv2dStatsCall&) { return {}; }

void run_stats_parts(const Conv2dStatsCall& call, const CallContext& context) {
  const Conv2dCall& conv = call.conv;
  select_algorithm(conv2d_algorithms(), conv, "conv2d", "").run(conv, context);
  batch_norm_stats({conv.dtype, conv.y, call.mean, call.var}, context);
}

}  // namespace

const Algorithm<Conv2dStatsCall> kConv2dStatsParts = {"parts", "conv2d, then batch_norm_stats, which reads y again",
                                                      stats_parts_reasons, nullptr, run_stats_parts};

}  // namespace fastconv::cuda
