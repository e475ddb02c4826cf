// Thread-block clusters: the barrier of their threads, and what goes for access to another block's shared memory. That
// exists while the block's threads run: an access may neither come before they are known to run, nor after they have
// returned. Both follow from the clocks, whatever the schedule: who accesses must have seen something that the block
// did, and the block must have seen the access before its last thread returns.
#include "device_cluster.h"

#include <algorithm>

#include "machine.h"

namespace fastconv::emulator {
namespace {

std::string state(const Fiber&) {
  const Machine& m = machine();
  return ": " + std::to_string(m.engines.cluster.arrived) + " of the " + std::to_string(m.live) +
         " threads of the cluster that have not returned have arrived";
}

void open_if_complete() {
  Machine& m = machine();
  ClusterBarrier& barrier = m.engines.cluster;
  if (m.live == 0 || barrier.arrived < m.live) return;
  barrier.arrived = 0;
  ++barrier.phase;
  barrier.completed = std::move(barrier.arriving);
  barrier.arriving.clear();
  std::set<uint32_t> seen;
  for (const Block& block : m.blocks) seen.insert(block.seen_blocks.begin(), block.seen_blocks.end());
  for (Block& block : m.blocks) block.seen_blocks = seen;
  wake_waiting(barrier.waiting);
}

std::string describe(const Block& block) {
  return "block (" + std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," +
         std::to_string(block.index.z) + ")";
}

}  // namespace

void cluster_arrive(Caller caller) {
  Machine& m = machine();
  ClusterBarrier& barrier = m.engines.cluster;
  uint32_t& arrived_in = barrier.arrived_in[static_cast<size_t>(m.agent())];
  if (arrived_in) {
    report_and_abandon("cluster-barrier", Site{0, caller},
                       "barrier.cluster.arrive at {0}: the thread has arrived already and not waited since");
  }
  arrived_in = barrier.phase + 1;
  if (m.checking) m.clocks.release(m.agent(), barrier.arriving);
  ++barrier.arrived;
  open_if_complete();
}

void cluster_wait(Caller caller) {
  Machine& m = machine();
  ClusterBarrier& barrier = m.engines.cluster;
  uint32_t& arrived_in = barrier.arrived_in[static_cast<size_t>(m.agent())];
  if (!arrived_in) {
    report_and_abandon("cluster-barrier", Site{0, caller},
                       "barrier.cluster.wait at {0}: the thread has not arrived since it last waited");
  }
  if (arrived_in == barrier.phase + 1) {
    barrier.waiting.push_back(m.current);
    m.block_current("barrier.cluster.wait", caller, state);
  }
  // The next phase takes an arrival of this thread, so what has been published is still that of its own.
  arrived_in = 0;
  if (m.checking) m.clocks.acquire(m.agent(), barrier.completed);
}

void leave_cluster_barrier(const Fiber& fiber) {
  ClusterBarrier& barrier = machine().engines.cluster;
  if (barrier.arrived_in[static_cast<size_t>(fiber.context->agent)] == barrier.phase + 1) --barrier.arrived;
  open_if_complete();
}

void* map_shared_rank(const void* address, uint32_t rank, Caller caller) {
  Machine& m = machine();
  const Site site{0, caller};
  const int own = m.current->context->cluster_rank;
  if (rank_of(address) != own) {
    report_and_abandon("shared-address", site, "mapa at {0}: not a pointer to dynamic shared memory of the block");
  }
  if (rank >= static_cast<uint32_t>(m.cluster_blocks)) {
    report_and_abandon("cluster-rank", site,
                       "mapa at {0} to rank " + std::to_string(rank) + " of a cluster of " +
                           std::to_string(m.cluster_blocks) + " blocks");
  }
  const unsigned char* mine = static_cast<const unsigned char*>(address);
  return const_cast<unsigned char*>(mine) +
         (static_cast<int64_t>(rank) - own) * static_cast<int64_t>(kMaxDynamicSharedBytes);
}

void remote_access(int rank, int observer, int agent, uint32_t clock, const Site& site) {
  Machine& m = machine();
  Block& block = m.blocks[static_cast<size_t>(rank)];
  if (block.live == 0) {
    report_and_abandon(
        "remote-after-exit", site,
        "access at {0} to the shared memory of " + describe(block) + ", whose threads have all returned");
  }
  bool known = false;
  for (int t = rank * m.threads; t < (rank + 1) * m.threads && !known; ++t) known = m.clocks.seen_running(observer, t);
  if (!known) {
    report("remote-before-start", site,
           "access at {0} to the shared memory of " + describe(block) + ", which nothing says has started");
  }
  block.visitors[agent] = {clock, site};
}

void check_visitors(int rank) {
  Machine& m = machine();
  const Block& block = m.blocks[static_cast<size_t>(rank)];
  for (const auto& [agent, access] : block.visitors) {
    bool seen = false;
    for (int t = rank * m.threads; t < (rank + 1) * m.threads && !seen; ++t) {
      seen = m.clocks.seen(t, agent, access.clock);
    }
    if (seen) continue;
    report("remote-after-exit", access.site,
           "the last thread of " + describe(block) + " returns without having waited for the access at {0} by " +
               describe_agent(agent) + " to the block's shared memory");
  }
}

}  // namespace fastconv::emulator
