// Small kernels that break one rule of the checker each, and their clean twins. A file of this folder adds its cases to
// one table; a line that ends in `// breaks: NAME` is where test_emulator_rules.py expects the report of case NAME to
// point; kBroken = false gives the twin.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "../../../csrc/cuda/primitives/launch.h"

using namespace fastconv;
using cuda::Footprint;
using cuda::LaunchConfig;

// 64 floats each: `in` is declared to be read, and zero; `out` to be written.
struct Buffers {
  emulator::DeviceBuffer in{64 * sizeof(float)}, out{64 * sizeof(float)};
};

struct Case {
  const char* rule;  // that the broken twin is reported for
  // Launches with 64 threads, unless it changes the configuration.
  std::function<void(bool broken, Buffers&, LaunchConfig&)> run;
};

std::map<std::string, Case>& cases();

struct AddCases {
  explicit AddCases(const std::map<std::string, Case>& more) { cases().insert(more.begin(), more.end()); }
};

// The case of kernel template `name`, which takes (arguments...) and `bytes` of dynamic shared memory; `in` and `out`
// are at hand.
#define SHARED_RULE_CASE(bytes, name, rule, ...)                                \
  {                                                                             \
    #name, {                                                                    \
      rule, [](bool broken, Buffers& b, LaunchConfig& c) {                      \
        const float* in = b.in.as<float>();                                     \
        float* out = b.out.as<float>();                                         \
        (void)in, (void)out;                                                    \
        c.dynamic_shared_bytes = bytes;                                         \
        cuda::launch(#name, c, broken ? name<true> : name<false>, __VA_ARGS__); \
      }                                                                         \
    }                                                                           \
  }
#define RULE_CASE(name, rule, ...) SHARED_RULE_CASE(0, name, rule, __VA_ARGS__)
