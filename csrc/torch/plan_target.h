// What network plans need of the backends, in standard types: plan_module.cpp includes nothing of torch.
#pragma once

#include <cstdint>
#include <string>

#include "../plan/recorder.h"

namespace fastconv::ops {

// Throws std::invalid_argument for an unknown name, NotServed for a backend that this build lacks.
plan::Target plan_target(const std::string& backend);

// plan.run_on, on torch's current stream of GPU number `device`; -1: the emulated one, which has no streams.
size_t run_plan_on(const plan::Plan& plan, int device, plan::DeviceRun memory, size_t first,
                   const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs);

}  // namespace fastconv::ops
