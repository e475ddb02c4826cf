// conv2d_stats on the CPU: its parts.
#include "algorithms.h"

namespace fastconv::cpu {

const AlgorithmTable<Conv2dStatsCall>& conv2d_stats_algorithms() {
  static const AlgorithmTable<Conv2dStatsCall> table = {
      {"parts", "conv2d, then batch_norm_stats, which reads y again", [](const Conv2dStatsCall&) { return Reasons(); },
       nullptr,
       [](const Conv2dStatsCall& call, const CallContext& context) {
         const Conv2dCall& conv = call.conv;
         select_algorithm(conv2d_algorithms(), conv, "conv2d", "").run(conv, context);
         kernels().batch_norm_stats({conv.dtype, conv.y, call.mean, call.var}, context);
       }},
  };
  return table;
}

}  // namespace fastconv::cpu
