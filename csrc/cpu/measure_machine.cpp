// Measures the constants of cost_model.h. Every figure is the best of several short runs: the machine may be shared.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "cost_model.h"

namespace fastconv::cpu {
namespace {

using Clock = std::chrono::steady_clock;

template <class F>
double best_seconds(int runs, F&& run) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// A capacity that the system knows, or `otherwise`.
double capacity(int name, double otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<double>(bytes) : otherwise;
}

// To the next power of 2^(1/4).
double rounded(double value) { return std::exp2(std::round(std::log2(value) * 4) / 4); }

// Bytes read and written a second while `footprint` bytes are copied from one half to the other, again and again.
double copy_bandwidth(const Kernels& table, float* memory, double footprint) {
  const int64_t count = static_cast<int64_t>(footprint) / 8 / 64 * 64;
  const int64_t passes = std::max<int64_t>(1, (8 << 20) / (count * 8));
  const double seconds = best_seconds(9, [&] {
    for (int64_t i = 0; i < passes; ++i) table.copy_burst(memory, memory + count, count);
  });
  return static_cast<double>(passes * count * 8) / seconds;
}

class Arena : public Workspace {
 public:
  void* allocate(size_t bytes) override {
    blocks_.push_back(std::make_unique<char[]>(bytes + 64));
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(blocks_.back().get()) + 63) / 64 * 64);
  }

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
};

// A convolution of one pixel: all that it takes is what every call takes.
double call_seconds(const Kernels& table) {
  float x[16] = {}, w[16 * 16] = {}, y[16];
  Conv2dCall call;
  ConvProblem& p = call.problem;
  p.N = p.H = p.W = p.R = p.S = p.P = p.Q = 1;
  p.C = p.K = 16;
  call.x = {x, DType::kFloat32, {1, 16, 1, 1}, {16, 1, 16, 16}};
  call.y = {y, DType::kFloat32, {1, 16, 1, 1}, {16, 1, 16, 16}};
  call.w = {w, DType::kFloat32, {16, 16, 1, 1}, {16, 1, 1, 1}};
  const double seconds = best_seconds(5, [&] {
    for (int i = 0; i < 20; ++i) {
      Arena arena;
      table.conv2d_pointwise(call, {&arena, nullptr});
    }
  });
  return seconds / 20;
}

}  // namespace

Machine measure_machine() {
  const Kernels& table = kernels();
  Machine m = default_machine(table);
  const double iterations = 100'000, lanes = table.vector_bytes / 4.0;
  double flops = 0;
  // Some 30 ms: wide vectors run slower at first.
  const double burst = best_seconds(60, [&] { flops = table.fma_burst(static_cast<int64_t>(iterations)); });
  m.fma_per_second = flops / (2 * lanes) / burst;
#ifdef _SC_LEVEL2_CACHE_SIZE
  m.l1_bytes = capacity(_SC_LEVEL1_DCACHE_SIZE, m.l1_bytes);
  m.l2_bytes = capacity(_SC_LEVEL2_CACHE_SIZE, m.l2_bytes);
  // What one core can count on of a cache that it shares with others, often outside of its own virtual machine.
  m.l3_bytes = std::max(2 * m.l2_bytes, std::min(capacity(_SC_LEVEL3_CACHE_SIZE, m.l3_bytes), 32.0 * (1 << 20)));
#endif
  const double far = 64 << 20;
  const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(far) / 4 + 16]);
  std::memset(memory.get(), 0, static_cast<size_t>(far));
  m.l1_bandwidth = copy_bandwidth(table, memory.get(), m.l1_bytes / 2);
  m.l2_bandwidth = copy_bandwidth(table, memory.get(), m.l2_bytes / 2);
  m.l3_bandwidth = copy_bandwidth(table, memory.get(), std::min(2 * m.l2_bytes + m.l3_bytes / 4, far));
  m.memory_bandwidth = copy_bandwidth(table, memory.get(), far);
  // Noise must not turn the order of the levels around.
  m.l2_bandwidth = std::min(m.l2_bandwidth, m.l1_bandwidth);
  m.l3_bandwidth = std::min(m.l3_bandwidth, m.l2_bandwidth);
  m.memory_bandwidth = std::min(m.memory_bandwidth, m.l3_bandwidth);
  m.call_seconds = call_seconds(table);
  for (const auto& [name, member] : kMachineFields) m.*member = rounded(m.*member);
  return m;
}

}  // namespace fastconv::cpu
