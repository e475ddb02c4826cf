// What a kernel is expected to take on the current GPU, counted from its tiles and the constants of csrc/cuda/tuning:
// the same on every call, nothing is tried out. The one model behind the choice of a row's tile, the choice among rows,
// and what `explain` shows. It need not be exact: it has to rank.
//
//   a block        the slowest of products, shared memory and L2, for every value of k; then its epilogue
//   the launch     waves of blocks over the multiprocessors, or all operands once through memory, whichever is longer;
//                  then filling and draining a wave's pipeline, launches, and what runs before and after it
#pragma once

#include <cstdint>
#include <initializer_list>

#include "../common/algorithm_table.h"
#include "device.h"

namespace fastconv::cuda {

// One kernel with one size of tile.
struct TileKernel {
  int tile_m, tile_n, tile_k;
  int resident;         // blocks on a multiprocessor at once, of which one computes while another waits
  int cluster;          // blocks that share the columns they fetch
  bool persistent;      // blocks stay for all tiles, fetching the next one's operands under this one's epilogue
  const char* unit;     // who multiplies
  double rate;          // multiply-adds of one multiprocessor in a clock
  double shared_bytes;  // through shared memory for one value of k: written once, read by every warp or warpgroup
  double l2_bytes;      // fetched for one value of k
};

// The kernels there are. `bytes`: of an operand's element; 4 are tf32 on tensor cores.
TileKernel wgmma_kernel(int bytes, int tile_n, int cluster);
TileKernel mma_kernel(int bytes, int tile_m, int tile_n, int warp_m, int warp_n, int resident);
TileKernel simt_kernel(int bytes, int tile_m, int tile_n);

// A product of M x N with `taps` reductions over K each, which a kernel takes in whole steps; `batch` of them.
struct TileProblem {
  int64_t M, N, K, taps, batch;
  int bytes;            // of an element of the result
  double memory_bytes;  // operands and results, each once
  double pass_bytes;    // read and written by kernels before or behind it, to bring operands into form
  int passes;           // such kernels
};

// How the reduction may be split over blocks, whose partial sums a second kernel adds up.
struct SplitRule {
  int64_t least_parts, most_parts;  // least 0: from 1 on, and a single part goes through the second kernel as well
  int64_t least_steps;              // of a part, where there are several
  int partial_bytes = 4;            // of one partial sum
};
constexpr SplitRule kUnsplit{1, 1, 1};

struct TilePlan {
  int kernel = 0;  // which of those given
  int parts = 1;   // of the reduction, all of them with steps, all but the last equally many
  Prediction predicted;
};

// Of one kernel with the reduction in `parts`.
Prediction predict_tiles(const TileKernel& kernel, const TileProblem& problem, int64_t parts, int partial_bytes);

// The kernel and the split that are expected to be fastest; at a tie the first.
TilePlan fastest(std::initializer_list<TileKernel> kernels, const TileProblem& problem, const SplitRule& split);

// Of a kernel that is no product of tiles: `bytes` once through memory, and `multiply_adds` on CUDA cores or, with
// `tensor_cores`, at mma.sync's rate; `efficiency` is the share of that rate.
Prediction predict_stream(double bytes, double multiply_adds, bool tensor_cores, double efficiency, int launches);

// What conv2d's tensors take, each once.
double tensor_bytes(const Conv2dCall& call);

// `parts` changed so that none of them is empty.
int even_parts(int64_t parts, int64_t steps);

inline int64_t tile_count(int64_t M, int64_t N, int64_t batch, int tile_m, int tile_n) {
  return (M + tile_m - 1) / tile_m * ((N + tile_n - 1) / tile_n) * batch;
}

}  // namespace fastconv::cuda
