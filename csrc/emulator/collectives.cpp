// What threads do together: the barrier of a block, and the warp functions, which are meetings of the lanes in a mask.
#include <cstring>

#include "machine.h"

namespace fastconv::emulator {
namespace {

std::string hex(unsigned mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void open_barrier() {
  Machine& m = machine();
  const int rank = m.current->context->cluster_rank;
  if (m.checking) m.clocks.block_barrier(rank * m.threads, m.threads);
  for (int warp = 0; m.counts(*m.current) && warp < m.warps_per_block(); ++warp) count_warp(warp);
  for (Fiber* fiber : m.block().barrier.waiting) m.ready.push(fiber);
  m.block().barrier = BlockBarrier();
}

// CUDA lets threads return before a barrier that the others wait in; this project does not, because the same code with
// the return a little later hangs. Said once per barrier, whichever comes first.
void report_absent_threads() {
  Machine& m = machine();
  report("divergent-barrier", Site{0, m.block().barrier.first},
         std::to_string(m.block().barrier.arrived) + " of " + std::to_string(m.threads) +
             " threads reach __syncthreads() at {0}; the others have returned from the kernel");
}

}  // namespace

bool meet(unsigned mask, const char* function, void* operand, Caller caller, Rendezvous& complete) {
  Machine& m = machine();
  Fiber* me = m.current;
  Warp& warp = m.warp_of(*me);
  const unsigned bit = 1u << me->context->lane;
  const Site site{0, caller};
  if (!(mask & bit)) {
    report_and_abandon("warp-mask", site,
                       std::string(function) + " at {0}: mask " + hex(mask) + " lacks the calling lane, " +
                           std::to_string(me->context->lane));
  }
  mask &= warp.existing;  // a full mask is the custom in the last, partial warp too
  if (mask & ~warp.live) {
    report_and_abandon("warp-mask", site,
                       std::string(function) + " at {0}: mask " + hex(mask) +
                           " names lanes that have returned from the kernel (live: " + hex(warp.live) + ")");
  }
  me->operand = operand;
  for (size_t i = 0; i < warp.open.size(); ++i) {
    Rendezvous& open = warp.open[i];
    if (open.mask != mask || (open.arrived & bit)) continue;
    if (strcmp(open.function, function) != 0 || open.caller.line != caller.line) {
      report_and_abandon("divergent-warp", site,
                         "lane " + std::to_string(me->context->lane) + " is in " + function +
                             " at {0} while others of its mask are in " + open.function + " at " +
                             position(open.caller));
    }
    open.arrived |= bit;
    open.lane[me->context->lane] = me;
    if (open.arrived == mask) {
      if (m.counts(*me) && mask == warp.existing) count_warp(me->context->warp);
      complete = open;
      warp.open.erase(warp.open.begin() + static_cast<ptrdiff_t>(i));
      return true;
    }
    m.block_current(function, caller);
    return false;
  }
  Rendezvous fresh;
  fresh.mask = mask;
  fresh.arrived = bit;
  fresh.function = function;
  fresh.caller = caller;
  fresh.lane[me->context->lane] = me;
  if (mask == bit) {
    complete = fresh;
    return true;
  }
  warp.open.push_back(fresh);
  m.block_current(function, caller);
  return false;
}

namespace {
template <class F>
void for_each_lane(const Rendezvous& r, F f) {
  for (int lane = 0; lane < 32; ++lane) {
    if (r.mask >> lane & 1) f(lane, *r.lane[lane]);
  }
}

}  // namespace

void wake(const Rendezvous& r) {
  Machine& m = machine();
  for_each_lane(r, [&](int, Fiber& fiber) {
    if (&fiber != m.current) m.ready.push(&fiber);
  });
}

void block_barrier(Caller caller) {
  Machine& m = machine();
  BlockBarrier& barrier = m.block().barrier;
  if (barrier.arrived == 0) {
    barrier.first = caller;
  } else if (barrier.first.line != caller.line || strcmp(barrier.first.file, caller.file) != 0) {
    report("divergent-barrier", Site{0, caller},
           "threads of one block meet in __syncthreads() at {0} and at " + position(barrier.first));
  }
  ++barrier.arrived;
  if (barrier.arrived < m.block().live) {
    barrier.waiting.push_back(m.current);
    m.block_current("__syncthreads()", caller);
    return;
  }
  if (barrier.arrived < m.threads) report_absent_threads();
  open_barrier();
}

void thread_left(Fiber& fiber) {
  Machine& m = machine();
  Warp& warp = m.warp_of(fiber);
  const unsigned bit = 1u << fiber.context->lane;
  warp.live &= ~bit;
  for (const Rendezvous& open : warp.open) {
    if (!(open.mask & bit)) continue;
    report_and_abandon("warp-mask", Site{0, open.caller},
                       std::string("lanes wait in ") + open.function + " at {0} with mask " + hex(open.mask) +
                           ", but one of them returns from the kernel");
  }
  const Block& block = m.block();
  if (block.barrier.arrived > 0 && block.barrier.arrived == block.live) {
    report_absent_threads();
    open_barrier();
  }
}

void warp_barrier(unsigned mask, Caller caller) {
  Machine& m = machine();
  Rendezvous r;
  if (!meet(mask, "__syncwarp", nullptr, caller, r)) return;
  if (m.checking) {
    VectorClock published;
    for_each_lane(r, [&](int, Fiber& fiber) { m.clocks.release(fiber.context->agent, published); });
    for_each_lane(r, [&](int, Fiber& fiber) { m.clocks.acquire(fiber.context->agent, published); });
  }
  wake(r);
}

// Shuffles and votes exchange registers; they do not order memory, so the clocks are left alone.
uint64_t shuffle(unsigned mask, Shuffle kind, uint64_t value, int operand, int width, Caller caller) {
  struct Operand {
    uint64_t value;
    int operand, width;
  } mine{value, operand, width};
  static const char* const kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  const char* name = kNames[static_cast<int>(kind)];
  Fiber* me = machine().current;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    report_and_abandon(
        "warp-mask", Site{0, caller},
        std::string(name) + " at {0}: width " + std::to_string(width) + " is not a power of two up to 32");
  }
  Rendezvous r;
  if (!meet(mask, name, &mine, caller, r)) return me->result;
  for_each_lane(r, [&](int lane, Fiber& fiber) {
    const Operand& o = *static_cast<Operand*>(fiber.operand);
    const int segment = lane & ~(o.width - 1);
    int source = lane;
    if (kind == Shuffle::kIndex) source = segment + (o.operand & (o.width - 1));
    if (kind == Shuffle::kUp) source = lane - o.operand < segment ? lane : lane - o.operand;
    if (kind == Shuffle::kDown) source = lane + o.operand >= segment + o.width ? lane : lane + o.operand;
    // The PTX rule: a source above the segment gives the lane's own value; one below it is read.
    if (kind == Shuffle::kXor) source = (lane ^ o.operand) >= segment + o.width ? lane : lane ^ o.operand;
    if (source < 0 || source > 31 || !(r.mask >> source & 1)) {
      report("warp-mask", Site{0, caller},
             std::string(name) + " at {0}: lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
                 ", which takes no part");
      source = lane;
    }
    fiber.result = static_cast<Operand*>(r.lane[source]->operand)->value;
  });
  wake(r);
  return me->result;
}

unsigned ballot(unsigned mask, bool predicate, Caller caller) {
  Fiber* me = machine().current;
  Rendezvous r;
  if (!meet(mask, "a warp vote", &predicate, caller, r)) return static_cast<unsigned>(me->result);
  unsigned votes = 0;
  for_each_lane(r, [&](int lane, Fiber& fiber) { votes |= *static_cast<bool*>(fiber.operand) ? 1u << lane : 0u; });
  for_each_lane(r, [&](int, Fiber& fiber) { fiber.result = votes; });
  wake(r);
  return votes;
}

void atomic_access(void* address, size_t bytes, void* old, AtomicUpdate update, void* state, Caller caller) {
  if (machine().checking) memory_access(address, bytes, AccessKind::kAtomic, true, Site{0, caller});
  alignas(16) unsigned char value[16];
  memcpy(value, address, bytes);
  memcpy(old, value, bytes);
  update(value, state);
  memcpy(address, value, bytes);
}

}  // namespace fastconv::emulator
