// Which access happens before which: vector clocks, the way race detectors keep them, with a shortcut for
// __syncthreads. An agent is whatever accesses memory in its own order: the threads of a cluster, and engines, which
// work for them asynchronously (copies, warpgroups' matrix products).
//
// Every agent has a clock. An access carries (agent, clock). Observer o has seen it when o's view of that agent has
// reached the clock. Views grow by synchronisation only: release() publishes a view, acquire() takes it in. After a
// barrier of a block that is its own cluster all views are equal: that common part is the floor, and a view is stored
// only for threads that have synchronised otherwise since. Kernels with nothing but __syncthreads thus cost O(threads)
// a barrier.
//
// What ordinary stores wrote is visible to an asynchronous engine only after a proxy fence somewhere between the store
// and the engine's access. A view therefore has a second entry for each thread, its mark: how far that thread's stores
// are known to be fenced. Marks travel with the rest of a view.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastconv::emulator {

using VectorClock = std::vector<uint32_t>;

class Clocks {
 public:
  // Agents 0 to threads - 1 are the cluster's threads, block by block, which take part in its barriers. The threads'
  // marks follow, then the engines, which hold no views.
  void reset(int threads, int engines) {
    threads_ = threads;
    const size_t entries = static_cast<size_t>(2 * threads + engines);
    clock_.assign(entries, 1);
    floor_.assign(entries, 0);
    views_.assign(threads, {});
    view_generation_.assign(threads, 0);
    generation_ = 1;
    start_ = floor_;
  }

  // Whatever came before belongs to another cluster: it is ordered, and what it wrote to shared memory is gone.
  void start_cluster() {
    barrier_of_all();
    for (int thread = 0; thread < threads_; ++thread) floor_[mark(thread)] = floor_[thread];
    for (size_t agent = 2 * static_cast<size_t>(threads_); agent < clock_.size(); ++agent) {
      floor_[agent] = clock_[agent]++;
    }
    start_ = floor_;
  }

  uint32_t now(int agent) const { return clock_[agent]; }
  bool of_this_cluster(int agent, uint32_t clock) const { return clock > start_[agent]; }
  // Whether the observer knows that `thread` runs: it has seen something that the thread did here.
  bool seen_running(int observer, int thread) const { return seen(observer, thread, start_[thread] + 1); }

  bool seen(int observer, int agent, uint32_t clock) const {
    if (agent == observer || clock <= floor_[agent]) return true;
    return view_generation_[observer] == generation_ && views_[observer][agent] >= clock;
  }

  // Adds what `thread` has done and seen to `published`.
  void release(int thread, VectorClock& published) {
    join(published, floor_);
    if (view_generation_[thread] == generation_) join(published, views_[thread]);
    published[thread] = std::max(published[thread], clock_[thread]++);
  }

  void acquire(int thread, const VectorClock& published) { join(view(thread), published); }

  // __syncthreads() of the threads from `first` on.
  void block_barrier(int first, int count) {
    if (count == threads_) return barrier_of_all();
    VectorClock published;
    for (int thread = first; thread < first + count; ++thread) release(thread, published);
    for (int thread = first; thread < first + count; ++thread) acquire(thread, published);
  }

  void barrier_of_all() {
    for (int thread = 0; thread < threads_; ++thread) {
      if (view_generation_[thread] == generation_) join(floor_, views_[thread]);
    }
    for (int thread = 0; thread < threads_; ++thread) floor_[thread] = clock_[thread]++;
    ++generation_;
  }

  // ---- engines ----
  int engine(int number) const { return 2 * threads_ + number; }
  bool is_thread(int agent) const { return agent < threads_; }
  // The next operation of an engine; its accesses carry the clock that is returned.
  uint32_t begin_operation(int engine) { return ++clock_[engine]; }
  // `thread` has waited for the operation. Nothing else follows from it: others may be in flight.
  void acquire_operation(int thread, int engine, uint32_t clock) {
    uint32_t& entry = view(thread)[engine];
    entry = std::max(entry, clock);
  }
  // Adds the operations that `thread` has waited for, and nothing of what threads did themselves.
  void release_waited_operations(int thread, VectorClock& published) const {
    const VectorClock& from = view_generation_[thread] == generation_ ? views_[thread] : floor_;
    if (published.size() < clock_.size()) published.resize(clock_.size(), 0);
    for (size_t i = static_cast<size_t>(engine(0)); i < from.size(); ++i)
      published[i] = std::max(published[i], from[i]);
  }
  // Adds the end of an operation to `published`.
  void release_operation(int engine, uint32_t clock, VectorClock& published) const {
    if (published.size() < clock_.size()) published.resize(clock_.size(), 0);
    published[engine] = std::max(published[engine], clock);
  }

  // ---- the proxy fence ----
  // All that `thread` has written or seen written is from now on visible to engines that it starts.
  void proxy_fence(int thread) {
    VectorClock& mine = view(thread);
    for (int t = 0; t < threads_; ++t) mine[mark(t)] = std::max(mine[mark(t)], mine[t]);
    mine[mark(thread)] = std::max(mine[mark(thread)], clock_[thread]++);
  }
  // Whether a store of `agent` at `clock` is fenced, as far as `observer` knows.
  bool fenced(int observer, int agent, uint32_t clock) const {
    if (!is_thread(agent) || clock <= floor_[mark(agent)]) return true;
    return view_generation_[observer] == generation_ && views_[observer][mark(agent)] >= clock;
  }

 private:
  int mark(int thread) const { return threads_ + thread; }

  VectorClock& view(int thread) {
    if (view_generation_[thread] != generation_) {
      views_[thread] = floor_;
      view_generation_[thread] = generation_;
    }
    return views_[thread];
  }

  static void join(VectorClock& into, const VectorClock& from) {
    if (into.size() < from.size()) into.resize(from.size(), 0);
    for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
  }

  int threads_ = 0;
  VectorClock clock_, floor_, start_;
  std::vector<VectorClock> views_;
  std::vector<uint64_t> view_generation_;
  uint64_t generation_ = 1;
};

}  // namespace fastconv::emulator
