#include "kernel_list.h"

#include <cstdio>
#include <map>
#include <string>

namespace fastconv::emulator {
namespace {

struct ListedKernel {
  std::string name;
  bool has_run = false;
};

// By function: filled while the library is loaded, before any launch.
std::map<const void*, ListedKernel>& listed() {
  static auto* kernels = new std::map<const void*, ListedKernel>;
  return *kernels;
}

}  // namespace

bool list_kernel(const void* function, const char* name) { return listed()[function].name = name, true; }

void note_run(const void* function) {
  if (const auto found = listed().find(function); found != listed().end()) found->second.has_run = true;
}

void clear_runs() {
  for (auto& [function, kernel] : listed()) kernel.has_run = false;
}

}  // namespace fastconv::emulator

// For ctypes. A line for each listed kernel: 1 where a launch has run to its end since the counters were cleared, else
// 0, and its name. Cut off where it does not fit; returns the size it needs, the ending zero included.
extern "C" __attribute__((visibility("default"))) size_t fastconv_emulator_kernels(char* text, size_t bytes) {
  std::string lines;
  for (const auto& [function, kernel] : fastconv::emulator::listed()) {
    lines += (kernel.has_run ? "1 " : "0 ") + kernel.name + "\n";
  }
  if (bytes) snprintf(text, bytes, "%s", lines.c_str());
  return lines.size() + 1;
}
