#include "model.h"

#include <algorithm>

#include "tuning/lookup.h"

namespace fastconv::cuda {
namespace {

constexpr const char* kTensorCores = "tensor cores";
constexpr const char* kCudaCores = "CUDA cores";

double as_double(int64_t value) { return static_cast<double>(value); }

// A second's worth of clocks, and who took the most.
struct Clocks {
  double clocks;
  const char* what;
};
// Products, shared memory, L2 and memory work at the same time, but not perfectly so: an eighth of what the faster ones
// take adds to the slowest. That is what brings large products down to the 790 TFLOP/s that torch reaches on an H200
// (public figures), and why fetching less pays even where products take longer.
constexpr double kFriction = 0.125;

Clocks longer(const Clocks& a, const Clocks& b) { return b.clocks > a.clocks ? b : a; }

}  // namespace

TileKernel wgmma_kernel(int bytes, int tile_n, int cluster) {
  constexpr int kTileM = 128, kConsumers = 2;
  const Tuning& t = tuning(current_device().architecture);
  TileKernel k{kTileM, tile_n, 128 / bytes, 1, cluster, true, kTensorCores, 0, 0, 0};
  k.rate = t.wgmma_rate / (bytes == 4 ? 2.0 : 1.0);
  // Each consumer reads its half of the rows and all columns.
  k.shared_bytes = bytes * (2.0 * kTileM + (1 + kConsumers) * tile_n);
  k.l2_bytes = bytes * (kTileM + static_cast<double>(tile_n) / cluster);
  return k;
}

TileKernel mma_kernel(int bytes, int tile_m, int tile_n, int warp_m, int warp_n, int resident) {
  const Tuning& t = tuning(current_device().architecture);
  TileKernel k{tile_m, tile_n, 64 / bytes, resident, 1, false, kTensorCores, 0, 0, 0};
  k.rate = t.mma_rate / (bytes == 4 ? 2.0 : 1.0);
  const double warps = tile_m / warp_m * (tile_n / warp_n);
  k.shared_bytes = bytes * (tile_m + tile_n + warps * (warp_m + warp_n));
  k.l2_bytes = bytes * (tile_m + tile_n);
  return k;
}

TileKernel simt_kernel(int bytes, int tile_m, int tile_n) {
  const Tuning& t = tuning(current_device().architecture);
  const bool large = tile_m >= 128 && tile_n >= 128;
  TileKernel k{tile_m, tile_n, large || bytes == 8 ? 8 : 16, 0, 1, false, kCudaCores, 0, 0, 0};
  k.resident = large ? t.simt_large_resident : t.simt_small_resident;
  k.rate = t.simt_rate / (bytes == 8 ? 2.0 : 1.0) * (large ? t.simt_large_percent : t.simt_small_percent) / 100;
  k.l2_bytes = bytes * (tile_m + tile_n);  // what a thread's loads from shared memory cost is in the percentages
  return k;
}

int even_parts(int64_t parts, int64_t steps) {
  const int64_t depth = (steps + parts - 1) / parts;
  return depth == 0 ? 1 : static_cast<int>((steps + depth - 1) / depth);
}

Prediction predict_tiles(const TileKernel& kernel, const TileProblem& problem, int64_t parts, int partial_bytes) {
  const DeviceInfo& device = current_device();
  if (device.architecture == 0) return {};
  const Tuning& t = tuning(device.architecture);
  const double multiprocessors = std::max(device.multiprocessors, 1);
  const double area = static_cast<double>(kernel.tile_m) * kernel.tile_n;
  const int64_t steps = (problem.K + kernel.tile_k - 1) / kernel.tile_k * problem.taps;
  const double depth = as_double((steps + parts - 1) / parts) * kernel.tile_k;
  int64_t tiles = tile_count(problem.M, problem.N, problem.batch, kernel.tile_m * kernel.cluster, kernel.tile_n);
  tiles *= kernel.cluster * parts;

  // One block. Few of them have more of the L2 cache each.
  const double active = std::min(as_double(std::max<int64_t>(tiles, 1)), multiprocessors);
  const double l2_rate = std::min<double>(t.l2_rate_each, t.l2_rate_all / active);
  const Clocks products{area / std::max(kernel.rate, 1.0), kernel.unit};
  const Clocks shared{kernel.shared_bytes / t.shared_rate, "shared memory"}, l2{kernel.l2_bytes / l2_rate, "L2"};
  Clocks step = longer(longer(products, shared), l2);
  step.clocks += kFriction * (products.clocks + shared.clocks + l2.clocks - step.clocks);
  const double leaving = area * (parts > 1 ? partial_bytes : problem.bytes) / l2_rate;
  // Another block computes meanwhile where a multiprocessor holds several.
  const double block = depth * step.clocks + (kernel.resident > 1 ? 0.0 : leaving);

  // Waves. In the last one a multiprocessor has `rest` blocks; fewer than it holds leave it waiting part of the time.
  const int64_t wave = static_cast<int64_t>(multiprocessors) * kernel.resident;
  const double full = as_double(tiles / wave * kernel.resident);
  const double rest = as_double((tiles % wave + device.multiprocessors - 1) / device.multiprocessors);
  const double tail = rest == 0 ? 0.0 : 0.5 * rest + 0.5 * kernel.resident;
  const double waves = as_double((tiles + wave - 1) / wave);
  Clocks work{(full + tail) * block, step.what};
  // Of all that the multiprocessors could compute in these waves.
  const double asked = as_double(problem.M * problem.N * problem.batch) * as_double(parts);
  if (2 * asked < (full + tail) * multiprocessors * area) work.what = "idle multiprocessors";
  const Clocks memory{problem.memory_bytes / (t.memory_rate * multiprocessors), "memory"};
  const double both = work.clocks + memory.clocks;
  work = longer(work, memory);
  work.clocks += kFriction * (both - work.clocks);

  // What is not overlapped with anything.
  double passes = problem.pass_bytes / (t.memory_rate * multiprocessors);
  int launches = 1 + problem.passes;
  if (parts > 1) {
    const double partials = as_double(parts * problem.M * problem.N * problem.batch) * partial_bytes;
    const double memory_rate = t.memory_rate * multiprocessors;
    passes += partials / (2 * partials <= t.l2_bytes ? std::max<double>(t.l2_rate_all, memory_rate) : memory_rate / 2);
    ++launches;
  }
  const double filling = (kernel.persistent ? 1.0 : waves) * t.block_overhead;
  const Clocks bound =
      longer(longer(work, {passes, "memory"}), {launches * 1.0 * t.launch_overhead + filling, "launch"});
  Prediction p;
  p.seconds = (work.clocks + passes + filling + launches * 1.0 * t.launch_overhead) / t.clock;
  p.bound = bound.what;
  p.tile_m = kernel.tile_m, p.tile_n = kernel.tile_n, p.cluster = kernel.cluster;
  p.parts = static_cast<int>(parts);
  return p;
}

TilePlan fastest(std::initializer_list<TileKernel> kernels, const TileProblem& problem, const SplitRule& split) {
  const int64_t multiprocessors = std::max(current_device().multiprocessors, 1);
  TilePlan best;
  bool found = false;
  int number = 0;
  const int64_t least = std::max<int64_t>(split.least_parts, 1);
  TileProblem whole = problem;
  if (split.least_parts == 0) {
    whole.pass_bytes += 2 * as_double(problem.M * problem.N * problem.batch) * split.partial_bytes, ++whole.passes;
  }
  for (const TileKernel& kernel : kernels) {
    const int64_t steps = (problem.K + kernel.tile_k - 1) / kernel.tile_k * problem.taps;
    const int64_t tiles =
        std::max<int64_t>(tile_count(problem.M, problem.N, problem.batch, kernel.tile_m, kernel.tile_n), 1);
    const int64_t most = std::min(split.most_parts, steps / split.least_steps);
    const auto consider = [&](int64_t parts) {
      parts = even_parts(std::max(std::min(parts, most), least), steps);
      const Prediction predicted = predict_tiles(kernel, parts == 1 ? whole : problem, parts, split.partial_bytes);
      if (found && predicted.seconds >= best.predicted.seconds) return;
      found = true;
      best = {number, static_cast<int>(parts), predicted};
    };
    consider(least);
    // Between the splits that fill a wave, two, ... the work is the same and the partial sums are more.
    constexpr int kMostWaves = 4;
    for (int waves = 1; waves <= kMostWaves && most > least; ++waves) {
      const int64_t parts = waves * multiprocessors * kernel.resident / tiles;
      if (parts > least) consider(parts);
      if (parts >= most) break;
    }
    ++number;
  }
  return best;
}

double tensor_bytes(const Conv2dCall& call) {
  const int64_t results = call.y.numel() * (call.epilogue.residual.present() ? 2 : 1);
  return as_double(call.x.numel() + call.w.numel() + results) * static_cast<double>(dtype_size(call.dtype));
}

Prediction predict_stream(double bytes, double multiply_adds, bool tensor_cores, double efficiency, int launches) {
  const DeviceInfo& device = current_device();
  if (device.architecture == 0) return {};
  const Tuning& t = tuning(device.architecture);
  const double multiprocessors = std::max(device.multiprocessors, 1);
  const double rate = std::max(tensor_cores ? t.mma_rate : t.simt_rate, 1) * efficiency * multiprocessors;
  Clocks work{bytes / (t.memory_rate * multiprocessors), "memory"};
  work = longer(work, {multiply_adds / rate, tensor_cores ? kTensorCores : kCudaCores});
  const double overhead = launches * 1.0 * t.launch_overhead + t.block_overhead;
  Prediction p;
  p.seconds = (work.clocks + overhead) / t.clock;
  p.bound = longer(work, {overhead, "launch"}).what;
  return p;
}

}  // namespace fastconv::cuda
