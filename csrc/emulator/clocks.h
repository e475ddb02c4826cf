// Which access happens before which: vector clocks, the way race detectors keep them, with a shortcut for
// __syncthreads. An agent is whatever accesses memory in its own order: today the threads of a block; asynchronous copy
// engines and warpgroups take further numbers.
//
// Every agent has a clock. An access carries (agent, clock). Observer o has seen it when o's view of that agent has
// reached the clock. Views grow by synchronisation only: release() publishes a view, acquire() takes it in. After a
// barrier of the whole block all views are equal: that common part is the floor, and a view is stored only for agents
// that have synchronised otherwise since. Kernels with nothing but __syncthreads thus cost O(threads) a barrier.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastconv::emulator {

using VectorClock = std::vector<uint32_t>;

class Clocks {
 public:
  // Agents 0 to threads - 1 are the block's threads, which take part in its barriers; the others do not.
  void reset(int threads, int agents) {
    threads_ = threads;
    clock_.assign(agents, 1);
    floor_.assign(agents, 0);
    views_.assign(agents, {});
    view_generation_.assign(agents, 0);
    generation_ = 1;
    block_start_ = floor_;
  }

  // Whatever came before belongs to another block: it is ordered, and what it wrote to shared memory is gone.
  void start_block() {
    block_barrier();
    for (size_t agent = threads_; agent < clock_.size(); ++agent) floor_[agent] = clock_[agent]++;
    block_start_ = floor_;
  }

  uint32_t now(int agent) const { return clock_[agent]; }
  bool of_this_block(int agent, uint32_t clock) const { return clock > block_start_[agent]; }

  bool seen(int observer, int agent, uint32_t clock) const {
    if (agent == observer || clock <= floor_[agent]) return true;
    return view_generation_[observer] == generation_ && views_[observer][agent] >= clock;
  }

  // Adds what `agent` has done and seen to `published`.
  void release(int agent, VectorClock& published) {
    join(published, floor_);
    if (view_generation_[agent] == generation_) join(published, views_[agent]);
    published[agent] = std::max(published[agent], clock_[agent]++);
  }

  void acquire(int agent, const VectorClock& published) {
    if (view_generation_[agent] != generation_) {
      views_[agent] = floor_;
      view_generation_[agent] = generation_;
    }
    join(views_[agent], published);
  }

  void block_barrier() {
    for (size_t agent = 0; agent < clock_.size(); ++agent) {
      if (view_generation_[agent] == generation_) join(floor_, views_[agent]);
    }
    for (int thread = 0; thread < threads_; ++thread) floor_[thread] = clock_[thread]++;
    ++generation_;
  }

 private:
  static void join(VectorClock& into, const VectorClock& from) {
    if (into.size() < from.size()) into.resize(from.size(), 0);
    for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
  }

  int threads_ = 0;
  VectorClock clock_, floor_, block_start_;
  std::vector<VectorClock> views_;
  std::vector<uint64_t> view_generation_;
  uint64_t generation_ = 1;
};

}  // namespace fastconv::emulator
