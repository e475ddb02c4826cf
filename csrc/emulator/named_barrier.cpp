// Named barriers (bar.sync, bar.arrive): meetings of a given number of a block's threads. Those that arrive without
// waiting publish what they have done; those that wait take it in.
#include "machine.h"

namespace fastconv::emulator {
namespace {

std::string state(const Fiber& fiber) {
  const NamedBarrier& barrier = *static_cast<const NamedBarrier*>(fiber.wait_object);
  return ": " + std::to_string(barrier.arrived) + " of " + std::to_string(barrier.expected) +
         " threads have arrived at barrier " +
         std::to_string(&barrier - machine().blocks[fiber.context->cluster_rank].named);
}

// True for the arrival that completes the barrier.
bool arrive(NamedBarrier& barrier, int id, int threads, const char* instruction, Caller caller) {
  Machine& m = machine();
  const Site site{0, caller};
  if (threads < 32 || threads % 32 != 0 || threads > m.threads) {
    report_and_abandon("named-barrier", site,
                       std::string(instruction) + " at {0}: barrier " + std::to_string(id) + " for " +
                           std::to_string(threads) + " threads; a block of " + std::to_string(m.threads) +
                           " has whole warps of 32 to meet");
  }
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.first = caller;
  } else if (barrier.expected != threads) {
    report_and_abandon("named-barrier", site,
                       std::string(instruction) + " at {0} is for " + std::to_string(threads) +
                           " threads, but others wait at barrier " + std::to_string(id) + " for " +
                           std::to_string(barrier.expected) + ", at " + position(barrier.first));
  }
  if (m.checking) m.clocks.release(m.agent(), barrier.arriving);
  return ++barrier.arrived == barrier.expected;
}

void open(NamedBarrier& barrier) {
  Machine& m = machine();
  if (m.checking) {
    for (const Fiber* fiber : barrier.waiting) m.clocks.acquire(fiber->context->agent, barrier.arriving);
  }
  wake_waiting(barrier.waiting);
  barrier = NamedBarrier();
}

}  // namespace

void named_barrier_sync(int id, int threads, Caller caller) {
  Machine& m = machine();
  NamedBarrier& barrier = m.block().named[id];
  if (!arrive(barrier, id, threads, "bar.sync", caller)) {
    barrier.waiting.push_back(m.current);
    m.block_current("bar.sync", caller, state, &barrier);
    return;
  }
  if (m.checking) m.clocks.acquire(m.agent(), barrier.arriving);
  open(barrier);
}

void named_barrier_arrive(int id, int threads, Caller caller) {
  NamedBarrier& barrier = machine().block().named[id];
  if (arrive(barrier, id, threads, "bar.arrive", caller)) open(barrier);
}

}  // namespace fastconv::emulator
