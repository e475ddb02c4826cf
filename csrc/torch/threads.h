#pragma once

namespace fastconv::ops {

// Hands torch's thread pool to csrc/cpu. Once, before any kernel runs.
void install_thread_pool();

}  // namespace fastconv::ops
