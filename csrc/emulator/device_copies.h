// Asynchronous copies from global to shared memory (cp.async) as an emulated CUDA thread issues them. Kernels call
// these through csrc/cuda/primitives/cp_async.cuh.
#pragma once

namespace fastconv::emulator {

// Copies `bytes` (4, 8 or 16), or zeros where `valid` is false; `global` is not looked at then. The bytes may land at
// any time until the wait that covers them; to the checker they are pending until that wait.
void copy_async(void* shared, const void* global, int bytes, bool valid);
// Closes the group of the copies issued since the last call. It may be empty.
void commit_copies();
// Until at most `pending_groups` of the thread's closed groups, the latest, are unfinished.
void wait_copies(int pending_groups);

}  // namespace fastconv::emulator
