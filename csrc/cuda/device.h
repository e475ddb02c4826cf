// The GPU that kernels are about to run on: what tables and tunings decide by.
#pragma once

namespace fastconv::cuda {

struct DeviceInfo {
  int architecture = 0;     // compute capability: 75, 80, 90, ...
  int multiprocessors = 0;  // for wave counts
  int shared_bytes = 0;     // dynamic shared memory that one block may ask for
};

// Of the current device, asked for once. Under the emulator an H200, or the architecture in FASTCONV_EMULATED_ARCH
// (75, 80, 90; 0 for none), with the number in FASTCONV_EMULATED_MULTIPROCESSORS, read at every call. Without a device
// (explain on a machine with none): architecture 0.
const DeviceInfo& current_device();

}  // namespace fastconv::cuda
