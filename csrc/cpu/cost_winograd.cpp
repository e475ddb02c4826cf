// The cost of conv2d's Winograd rows (kernels/conv_winograd.h).
#include <cmath>

#include "cost_model.h"

namespace fastconv::cpu {
namespace {

double cost_of(const Conv2dCall& call, int64_t outputs) {
  const ConvProblem& p = call.problem;
  const Machine& m = machine();
  const double lanes = lanes_of(DType::kFloat32), most = kernels().vector_bytes >= 64 ? 14 : 6, item = 4;
  const double side = static_cast<double>(outputs), positions = (side + 2) * (side + 2);
  const double C = static_cast<double>(p.channels_per_group()), K = static_cast<double>(p.filters_per_group());
  const double groups = static_cast<double>(p.groups);
  const double c_vectors = std::ceil(C / lanes), k_vectors = std::ceil(K / lanes);
  const double tiles = std::ceil(static_cast<double>(p.P) / side) * std::ceil(static_cast<double>(p.Q) / side);

  // Register tiles: tiles of the image x two vectors of filters; each begins and ends.
  const double chunks = std::ceil(tiles / most), rows = tiles / chunks;
  const double pairs = std::floor(k_vectors / 2), odd = k_vectors - 2 * pairs;
  const double step = pairs * tile_step(rows, 2) + odd * tile_step(rows, 1), start = 60 + 6 * rows;
  double fmas = groups * positions * chunks * (step * C + (pairs + odd) * start);
  // A position of a transform: additions, two loads and two stores of a vector, which wait for each other.
  const double per_input = outputs == 4 ? 8 : 6, per_output = outputs == 4 ? 7 : 6;
  fmas += groups * tiles * positions * (c_vectors * per_input + k_vectors * per_output);
  double seconds = m.call_seconds + tensor_seconds(call) + fma_seconds(fmas);

  // Transposition of NCHW tensors, rows of x that two rows of tiles share read twice.
  const double x = static_cast<double>(p.C * p.H * p.W) * item, y = static_cast<double>(p.K * p.P * p.Q) * item;
  if (call.x.stride[1] != 1) seconds += x * (side + 2) / side * 4 / m.l2_bandwidth;
  if (call.y.stride[1] != 1) seconds += y * 4 / m.l2_bandwidth;

  // The transformed filters pass once for each block of two register tiles; prefetching hides a part of it.
  const double filters = positions * C * k_vectors * lanes * groups * item, blocks = std::ceil(tiles / (2 * most));
  if (filters > m.l2_bytes / 2) {
    const double fetch = blocks * stream_seconds(filters, filters + m.l2_bytes);
    seconds = std::max(seconds, fetch) + 0.25 * std::min(seconds, fetch);
  }
  return seconds;
}

}  // namespace

double cost_of_winograd_2x2(const Conv2dCall& call) { return cost_of(call, 2); }
double cost_of_winograd_4x4(const Conv2dCall& call) { return cost_of(call, 4); }

}  // namespace fastconv::cpu
