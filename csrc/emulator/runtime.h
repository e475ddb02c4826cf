// Runs a CUDA kernel on the host: every cluster of blocks in turn, every thread of its blocks as a fiber, every memory
// access of instrumented kernels under a checker. This is the interface of launchers and tests; kernels see
// cuda_shim.h.
//
// Environment, read at every launch:
//   FASTCONV_EMULATOR_SCHEDULE=fifo|lifo|rand:SEED   the order in which ready threads run
//   FASTCONV_EMULATOR_COPIES=lazy|eager|rand:SEED    when asynchronous copies land
//   FASTCONV_EMULATOR_CHECK=0                        no checks: faster, and a wild pointer is a wild pointer
//   FASTCONV_EMULATOR_LIMIT=N                        memory accesses and switches a launch may make (default: any
//   number) FASTCONV_EMULATOR_COUNTERS=1|print               count bank conflicts and sectors; print them at exit
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "vector_types.h"

namespace fastconv::emulator {

constexpr size_t kMaxDynamicSharedBytes = 227 << 10;  // sm_90's limit for one block
constexpr int kMaxThreads = 1024;
constexpr int kMaxClusterBlocks = 8;  // more are not portable

// Global memory that the kernel may read, and write when `writable`. Any other access ends the launch.
struct MemoryRange {
  const void* data;
  size_t bytes;
  const char* name;
  bool writable;
  bool uninitialised = false;  // what it holds before this launch means nothing
};

struct LaunchShape {
  // The kernel function: tells its __shared__ variables from those of other kernels. Null: any may be used.
  const void* function = nullptr;
  dim3 grid, block, cluster;  // cluster: in blocks
  size_t dynamic_shared_bytes = 0;
  std::vector<MemoryRange> ranges;
};

// One finding of the checker. The first line of text() is `kernel: [rule] message`.
struct Report {
  const char* rule;
  std::string kernel;
  std::string message;
  std::string position;  // file:line of the access or call
  std::string thread;    // "block (x,y,z) thread t (warp w lane l)"

  std::string text() const { return kernel + ": [" + rule + "] " + message; }
};

// What launch() in the kernel library throws when a launch left reports.
struct EmulationError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Calls body(argument) once for every thread. `argument_bytes` bytes at `argument`, the kernel's parameters, may be
// read by all threads. Launches of several host threads run one after the other.
std::vector<Report> run(const char* kernel, const LaunchShape& shape, void (*body)(void*), void* argument,
                        size_t argument_bytes);

// The reports in one text, for an exception.
std::string join(const std::vector<Report>& reports);

// Fiber switches of this process so far: a measure of synchronisation.
int64_t switch_count();

// What the accesses of block 0 at one source line would cost a GPU, over all launches so far. Units are wavefronts of
// shared memory, or 32-byte sectors of global memory; `minimum` is what no bank conflict, or no byte in vain, would
// take.
struct CounterRow {
  std::string kernel, line;
  const char* access;  // "shared read", "ldmatrix", ...
  int64_t instructions = 0, units = 0, minimum = 0;
};
std::vector<CounterRow> counters();
std::string counter_table();
void clear_counters();

// Memory with red zones, filled with NaN bytes: an emulated cudaMalloc for tests and for kernels used on their own.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  MemoryRange range(const char* name, bool writable = true) const { return {data_, bytes_, name, writable}; }
  // Whether the red zones still hold what they were filled with; uninstrumented code may have written there.
  bool intact() const;

 private:
  static constexpr size_t kRedZoneBytes = 256;
  unsigned char* memory_;
  unsigned char* data_;
  size_t bytes_;
};

}  // namespace fastconv::emulator
