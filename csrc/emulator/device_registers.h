// The registers of a block, which warpgroups hand to one another (setmaxnreg). Kernels call this through
// csrc/cuda/primitives/register_budget.cuh.
#pragma once

#include "device.h"

namespace fastconv::emulator {

// Changes the calling thread's registers; an increase waits until the block has that many to spare.
void set_max_registers(int registers, bool increase, Caller caller);

}  // namespace fastconv::emulator
