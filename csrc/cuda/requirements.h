// Reasons against a row that needs instructions which not every GPU has.
#pragma once

#include <string>

#include "../common/algorithm_table.h"
#include "device.h"

namespace fastconv::cuda {

// Where explain is asked on a machine without a GPU, too, there is nothing that could run it.
inline void refuse_below(Reasons& reasons, int architecture, const char* instructions) {
  const int here = current_device().architecture;
  if (here >= architecture) return;
  reasons.push_back(here == 0 ? "there is no CUDA device"
                              : "the GPU is sm_" + std::to_string(here) + ": " + instructions + " need sm_" +
                                    std::to_string(architecture));
}

inline void refuse_without_mma(Reasons& reasons) { refuse_below(reasons, 80, "mma.sync and cp.async"); }

}  // namespace fastconv::cuda
