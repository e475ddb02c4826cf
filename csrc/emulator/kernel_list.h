// Kernels by name, so that a verification can say which of those that were compiled have never run.
#pragma once

namespace fastconv::emulator {

// Puts a kernel on the list; returns true. Called while the library is loaded.
bool list_kernel(const void* function, const char* name);

void note_run(const void* function);  // a launch that has come to its end
void clear_runs();                    // none has run

}  // namespace fastconv::emulator
