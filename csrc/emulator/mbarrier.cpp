// mbarriers: objects in shared memory whose phase ends when the expected threads have arrived and the expected bytes of
// asynchronous copies have landed. Their state is kept here; the eight bytes in shared memory stay untouched, and an
// ordinary access to them is reported.
#include <algorithm>

#include "device_cluster.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr uint32_t kMaxArrivals = (1u << 20) - 1;
constexpr int64_t kMaxBytes = (1 << 20) - 1;

int64_t most_ring_rounds = 0;

struct Wait {
  const Mbarrier* barrier;
  uint32_t parity;
};

std::string state(const Fiber& fiber) {
  const Wait& wait = *static_cast<const Wait*>(fiber.wait_object);
  const Mbarrier& b = *wait.barrier;
  return " on the mbarrier at " + shared_place(b.address) + " for the end of a phase of parity " +
         std::to_string(wait.parity) + "; it is in phase " + std::to_string(b.phase) + " (parity " +
         std::to_string(b.phase & 1) + "), lacking " + std::to_string(b.pending) + " of " + std::to_string(b.expected) +
         " arrivals and " + std::to_string(b.bytes) + " bytes";
}

void end_phase_if_complete(Mbarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  b.completed[b.phase & 1] = std::move(b.arriving);
  b.arriving.clear();
  b.pending = b.expected;
  ++b.phase;
  wake_waiting(b.waiting);
}

// False after a report.
bool takes_an_arrival(const Mbarrier& b, const char* instruction, Caller caller) {
  if (b.pending != 0) return true;
  report("mbarrier-arrivals", Site{0, caller},
         std::string(instruction) + " at {0} is one more than the " + std::to_string(b.expected) +
             " arrivals that a phase of the mbarrier at " + shared_place(b.address) + " takes");
  return false;
}

void arrive(Mbarrier& b, const char* instruction, Caller caller) {
  Machine& m = machine();
  if (!takes_an_arrival(b, instruction, caller)) return;
  if (m.checking) m.clocks.release(m.agent(), b.arriving);
  --b.pending;
  end_phase_if_complete(b);
}

}  // namespace

void wake_waiting(std::vector<Fiber*>& waiting) {
  for (Fiber* fiber : waiting) machine().ready.push(fiber);
  waiting.clear();
}

Mbarrier* find_mbarrier(uint64_t* barrier, const char* instruction, Caller caller, bool remote) {
  Machine& m = machine();
  const Site site{0, caller};
  if (!remote && is_shared(barrier) && !is_own_shared(barrier)) {
    report_and_abandon(
        "shared-address", site,
        std::string(instruction) + " at {0} takes an mbarrier of the own block, not " + shared_place(barrier));
  }
  const auto found = m.engines.mbarriers.find(barrier);
  if (found == m.engines.mbarriers.end()) {
    report_and_abandon("mbarrier-uninitialised", site,
                       std::string(instruction) + " at {0}: no initialised mbarrier lies at " +
                           (is_shared(barrier) ? shared_place(barrier) : "that address, which is not shared memory"));
  }
  Mbarrier& b = found->second;
  if (m.checking && !m.clocks.seen(m.agent(), b.owner, b.since)) {
    report("shared-race", site,
           std::string(instruction) + " at {0} is not ordered after the mbarrier's initialisation at {1} by " +
               describe_agent(b.owner) + ", " + shared_place(barrier),
           Site{0, b.initialised});
  }
  return &b;
}

void complete_bytes(Mbarrier& b, int64_t bytes) {
  b.bytes -= bytes;
  end_phase_if_complete(b);
}

void mbarrier_init(uint64_t* barrier, uint32_t arrivals, Caller caller) {
  Machine& m = machine();
  const Site site{0, caller};
  if (arrivals < 1 || arrivals > kMaxArrivals || reinterpret_cast<uintptr_t>(barrier) % 8 != 0) {
    report_and_abandon("mbarrier-init", site,
                       "mbarrier.init at {0} for " + std::to_string(arrivals) +
                           " arrivals; one takes 1 to 2^20 - 1, at an address that is a multiple of 8");
  }
  if (const auto old = m.engines.mbarriers.find(barrier); old != m.engines.mbarriers.end()) {
    report_and_abandon("mbarrier-init", site,
                       "mbarrier.init at {0} of the mbarrier that was initialised at " +
                           position(old->second.initialised) + " and not invalidated");
  }
  Accessor me = running_thread();
  me.through = Through::kMbarrier;
  if (m.checking) shared_access(barrier, sizeof *barrier, AccessKind::kWrite, me, site);
  Mbarrier& b = m.engines.mbarriers[barrier];
  b.address = barrier;
  b.initialised = caller;
  b.owner = me.agent;
  b.since = me.clock;
  b.engine = m.clocks.engine(m.current->context->cluster_rank * kEngines + kFirstLoadEngine +
                             m.engines.mbarriers_created++ % kLoadEngines);
  b.expected = b.pending = arrivals;
}

void mbarrier_invalidate(uint64_t* barrier, Caller caller) {
  Machine& m = machine();
  const Mbarrier& b = *find_mbarrier(barrier, "mbarrier.inval", caller);
  if (!b.waiting.empty()) {
    report_and_abandon("mbarrier-init", Site{0, caller},
                       "mbarrier.inval at {0} while " + std::to_string(b.waiting.size()) + " thread(s) wait on it");
  }
  m.engines.mbarriers.erase(barrier);
  if (m.checking) forget_shared_bytes(barrier, sizeof *barrier);
}

void mbarrier_arrive(uint64_t* barrier, Caller caller) {
  arrive(*find_mbarrier(barrier, "mbarrier.arrive", caller), "mbarrier.arrive", caller);
}

void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes, Caller caller) {
  const char* name = "mbarrier.arrive.expect_tx";
  Mbarrier& b = *find_mbarrier(barrier, name, caller);
  b.bytes += bytes;
  b.counts_bytes = true;
  if (b.bytes > kMaxBytes) {
    report_and_abandon("mbarrier-bytes", Site{0, caller},
                       std::string(name) + " at {0}: a phase would wait for " + std::to_string(b.bytes) +
                           " bytes; an mbarrier counts to 2^20 - 1");
  }
  arrive(b, name, caller);
}

void mbarrier_arrive_remote(uint64_t* barrier, uint32_t rank, Caller caller) {
  Machine& m = machine();
  const char* name = "mbarrier.arrive.shared::cluster";
  const ThreadContext& thread = *m.current->context;
  uint64_t* theirs = static_cast<uint64_t*>(map_shared_rank(barrier, rank, caller));
  const int engine =
      m.clocks.engine(thread.cluster_rank * kEngines + kFirstArrivalEngine + thread.warp % kArrivalEngines);
  const uint32_t clock = m.clocks.begin_operation(engine);
  if (m.checking && rank != static_cast<uint32_t>(thread.cluster_rank)) {
    remote_access(static_cast<int>(rank), m.agent(), engine, clock, Site{0, caller});
  }
  Mbarrier& b = *find_mbarrier(theirs, name, caller, true);
  if (!takes_an_arrival(b, name, caller)) return;
  if (m.checking) {
    m.clocks.acquire_operation(m.agent(), engine, clock);
    m.clocks.release_waited_operations(m.agent(), b.arriving);
  }
  --b.pending;
  end_phase_if_complete(b);
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity, Caller caller) {
  Machine& m = machine();
  Mbarrier& b = *find_mbarrier(barrier, "mbarrier.try_wait", caller);
  while ((b.phase & 1) == (parity & 1)) {
    const Wait wait{&b, parity & 1};
    b.waiting.push_back(m.current);
    m.block_current("mbarrier.try_wait", caller, state, &wait);
  }
  if (m.checking) m.clocks.acquire(m.agent(), b.completed[parity & 1]);
}

void note_ring_rounds() {
  int64_t least = 0;
  for (const auto& [address, barrier] : machine().engines.mbarriers) {
    const int64_t rounds = barrier.phase;
    if (!barrier.counts_bytes && rounds > 0 && (least == 0 || rounds < least)) least = rounds;
  }
  most_ring_rounds = std::max(most_ring_rounds, least);
}

int64_t ring_rounds() { return most_ring_rounds; }

void clear_ring_rounds() { most_ring_rounds = 0; }

void fence_mbarrier_init() {
  Machine& m = machine();
  for (auto& [address, barrier] : m.engines.mbarriers) {
    if (barrier.owner == m.agent()) barrier.fenced = true;
  }
}

void fence_proxy_async() {
  Machine& m = machine();
  if (!m.checking) return;
  const int me = m.agent();
  for (auto& [address, barrier] : m.engines.mbarriers) {
    if (m.clocks.seen(me, barrier.owner, barrier.since)) barrier.fenced = true;
  }
  m.clocks.proxy_fence(me);
}

}  // namespace fastconv::emulator
