// The emulated multiprocessors of a cluster: state shared by the runtime's source files, each of which implements one
// part of it. There is one machine a process; run() holds a lock while it works.
#pragma once

#include <array>
#include <cstdio>
#include <map>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "clocks.h"
#include "device.h"
#include "engines.h"
#include "fiber.h"
#include "image.h"
#include "runtime.h"

namespace fastconv::emulator {

// A place in the kernel's source: an instruction address when the access was instrumented, else a file and line.
struct Site {
  uint32_t code = 0;  // offset in the image, 0: none
  Caller caller = {nullptr, 0};

  bool operator==(const Site& o) const {
    return code == o.code && caller.line == o.caller.line && caller.file == o.caller.file;
  }
};

struct Fiber {
  MachineContext machine;
  ThreadContext* context = nullptr;
  bool done = false;
  // What it waits for, for deadlock reports. `wait` is null while it can run.
  const char* wait = nullptr;
  Caller wait_caller = {nullptr, 0};
  std::string (*wait_state)(const Fiber&) = nullptr;  // what it lacks, in words
  const void* wait_object = nullptr;
  // Its accumulators that a wgmma may be writing lie in between; empty otherwise.
  uintptr_t in_flight_low = 0, in_flight_high = 0;
  // Argument and result of the warp collective it takes part in.
  void* operand = nullptr;
  uint64_t result = 0;
};

// ---- scheduler.cpp: which fiber runs next ---------------------------------------------------------------------------
enum class Schedule { kFifo, kLifo, kRandom };

class ReadyQueue {
 public:
  void reset(int threads);
  void push(Fiber* fiber);
  Fiber* pop(Schedule schedule, std::mt19937& random);

 private:
  std::vector<Fiber*> ring_;
  size_t first_ = 0, count_ = 0;
};

// ---- collectives.cpp: barriers and warp functions -------------------------------------------------------------------
struct BlockBarrier {
  int arrived = 0;
  Caller first = {nullptr, 0};  // where the first thread arrived
  std::vector<Fiber*> waiting;
};

// Lanes of one warp meeting in one warp function.
struct Rendezvous {
  unsigned mask = 0, arrived = 0;
  const char* function = nullptr;
  Caller caller = {nullptr, 0};
  Fiber* lane[32] = {};
};

// An access to a block's shared memory from another block of its cluster.
struct RemoteAccess {
  uint32_t clock;
  Site site;
};

struct Block {
  uint3 index = {};
  int live = 0;  // threads that have not returned
  BlockBarrier barrier;
  NamedBarrier named[kNamedBarriers];
  RegisterBudget registers;
  std::map<int, RemoteAccess> visitors;  // by agent: the latest
  std::set<uint32_t> seen_blocks;        // that atomics have ordered before it
};

struct Warp {
  unsigned live = 0;      // lanes that have not returned from the kernel
  unsigned existing = 0;  // lanes the block has
  std::vector<Rendezvous> open;
};

// ---- shared_memory.cpp: what every byte of shared memory has seen ---------------------------------------------------
// By which way an access reaches memory. Ordinary stores and asynchronous engines see one another's data only after a
// proxy fence; an mbarrier is touched by its own instructions only. A cp.async is pending until its
// thread waits for it, an ordinary store from then on.
enum class Through : uint8_t { kOrdinary, kAsynchronous, kMbarrier, kPendingCopy };

struct SharedAccess {
  uint32_t clock = 0;  // 0: never
  uint32_t site = 0;   // pack()
  uint16_t agent = 0;
  bool atomic = false;
  Through through = Through::kOrdinary;
};

// Who accesses. A thread accesses for itself; an engine under its own number, and ordered after what the threads had
// seen that started it.
struct Accessor {
  int agent;
  uint32_t clock;
  int first_thread, threads;  // all of these must have seen what came before
  Through through;
  // The last write and the last read found seen by all of them; that does not change, and neighbours share it.
  mutable std::pair<int, uint32_t> known_write = {-1, 0}, known_read = {-1, 0};
};

// Two readers are kept: enough for one to differ from any writer. With partial synchronisation a third, evicted reader
// may go unseen; __syncthreads-only kernels lose nothing.
struct SharedByte {
  SharedAccess write, read[2];
};

// A __shared__ variable of the running kernel, or of a device function it has called, or the dynamic block. A library
// has hundreds of such variables, most of other kernels; only those in use are poisoned and watched.
struct SharedRegion {
  SharedRegion(unsigned char* data_, size_t bytes_, const std::string& name_)
      : data(data_), bytes(bytes_), name(name_), shadow((bytes_ + 3) / 4 * 4), whole((bytes_ + 3) / 4, true) {}

  // The shadow that stands for byte `offset`.
  SharedByte& byte(size_t offset) { return shadow[whole[offset / 4] ? offset / 4 * 4 : offset]; }

  unsigned char* data;
  size_t bytes;
  std::string name;
  std::vector<SharedByte> shadow;
  // Per four bytes: always accessed together since they were last written together, so the first stands for all four.
  std::vector<uint8_t> whole;
};

enum class AccessKind { kRead, kWrite, kAtomic };

inline const char* verb(AccessKind kind) {
  return kind == AccessKind::kRead ? "read" : kind == AccessKind::kWrite ? "write" : "atomic";
}

// ---- async_copies.cpp: cp.async -------------------------------------------------------------------------------------
enum class CopyTiming { kLazy, kEager, kRandom };

struct AsyncCopy {
  unsigned char* target;
  const unsigned char* source;  // null: zeros
  size_t bytes;
  int64_t group;  // of its thread, counted from the start of the block
  Site site;
  bool landed = false;
};

// The copies of one thread that it has not waited for, in the order of their issue.
struct CopyQueue {
  std::vector<AsyncCopy> copies;
  int64_t closed_groups = 0;
};

// ---- global_shadow.cpp: what written global memory has seen ---------------------------------------------------------
struct GlobalAccess {
  uint32_t clock = 0;  // 0: never
  uint32_t block = 0;  // linear index
  uint32_t site = 0;   // pack()
  uint16_t agent = 0;
  bool atomic = false;
};

// Two, for the reason given at SharedByte.
using GlobalReaders = std::array<GlobalAccess, 2>;

// Histories of the granules of an aligned page. A page starts with granules as large as its first access and is split
// when a smaller one comes.
constexpr size_t kGlobalPageBytes = 4096;
struct GlobalPage {
  size_t granule = 0;
  std::vector<GlobalAccess> writes;
  std::vector<GlobalReaders> reads;  // empty until something is read
};

struct TrackedRange {
  MemoryRange range;
  bool races;    // overlaps a range that the launch may write
  bool scratch;  // overlaps scratch memory
};

// Memory that a launch has declared to start uninitialised; later launches may go on using it.
struct ScratchMemory {
  uintptr_t low;
  std::vector<uint8_t> written;  // by byte
};

// ---- counters.cpp ---------------------------------------------------------------------------------------------------
enum class CountedAccess { kSharedRead, kSharedWrite, kMatrix, kMatrixStore, kCopy, kGlobalRead, kGlobalWrite };

struct Machine {
  Machine() = default;

  std::string kernel;
  LaunchShape shape;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  size_t argument_bytes = 0;
  int threads = 0;         // of a block
  int cluster_blocks = 1;  // that run together

  StackPool stacks;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  MachineContext host;
  ReadyQueue ready;
  Schedule schedule = Schedule::kFifo;
  std::mt19937 random;
  int live = 0;  // threads of the cluster that have not returned
  bool abandoned = false;
  int64_t switches = 0;
  int64_t work_left = 0;  // accesses and switches until the launch counts as running away

  std::vector<Block> blocks;  // of the running cluster, by rank
  std::vector<Warp> warps;    // of block after block
  Engines engines;

  std::vector<CopyQueue> copies;  // by thread
  CopyTiming copy_timing = CopyTiming::kLazy;
  std::mt19937 copy_random;

  bool checking = false;
  bool counters_wanted = false, counting = false;  // in this launch; in this cluster, of its first block
  Image image;
  char* static_shared = nullptr;  // this host thread's copy of the image's thread_local segment
  std::vector<SharedRegion> shared_regions;
  std::vector<int> region_of_variable;  // -1: not in use by this launch
  Clocks clocks;
  std::vector<TrackedRange> ranges;
  size_t last_range = 0;                                   // where the last global access was found
  std::unordered_map<uintptr_t, GlobalPage> global_pages;  // by address / kGlobalPageBytes
  // Blocks ordered by atomics: those that have touched an address. Block::seen_blocks: those thus seen.
  std::unordered_map<uintptr_t, std::set<uint32_t>> released_blocks;
  std::vector<ScratchMemory> scratch;

  Fiber& fiber(int agent) { return fibers[agent]; }
  // Those of the running fiber.
  Block& block() { return blocks[current->context->cluster_rank]; }
  int agent() const { return current->context->agent; }
  int warps_per_block() const { return (threads + 31) / 32; }
  Warp& warp_of(const Fiber& fiber) {
    return warps[fiber.context->cluster_rank * warps_per_block() + fiber.context->warp];
  }
  bool counts(const Fiber& fiber) const { return counting && fiber.context->cluster_rank == 0; }
  // Run others until somebody makes this fiber ready. `state` and `object` are for deadlock reports.
  void block_current(const char* wait, Caller caller, std::string (*state)(const Fiber&) = nullptr,
                     const void* object = nullptr);
  [[noreturn]] void abandon();  // end the launch from within a fiber
};

// Null until the first launch: instrumented static constructors run before that. Never destroyed: host threads may
// outlive static destruction.
extern Machine* the_machine;
inline Machine& machine() { return *the_machine; }

// ---- engines: agents of the clocks beside the threads ---------------------------------------------------------------
constexpr int kWarpgroupThreads = 128;
constexpr int kWarpgroupEngines = kMaxThreads / kWarpgroupThreads;  // wgmma, one for each warpgroup
constexpr int kLoadEngines = 64;   // bulk loads: one for each mbarrier, as far as the number goes
constexpr int kStoreEngines = 16;  // bulk stores: one for each thread that issues any, likewise
constexpr int kFirstLoadEngine = kWarpgroupEngines, kFirstStoreEngine = kFirstLoadEngine + kLoadEngines;
constexpr int kArrivalEngines = 32;  // arrivals at other blocks' mbarriers: one for each warp
constexpr int kFirstArrivalEngine = kFirstStoreEngine + kStoreEngines;
constexpr int kEngines = kFirstArrivalEngine + kArrivalEngines;  // of one block

// ---- reports.cpp ----------------------------------------------------------------------------------------------------
// Records a finding of the running fiber. Source positions in `message` are written as "{0}" for `site` and "{1}" for
// `other`, and resolved after the launch, on the host's stack. One report for each (rule, site, other) of a launch.
void report(const char* rule, const Site& site, const std::string& message, const Site& other = {});
[[noreturn]] void report_and_abandon(const char* rule, const Site& site, const std::string& message);
[[noreturn]] void report_runaway();
void clear_reports();
std::vector<Report> take_reports();
std::string describe(const Fiber& fiber);
std::string describe_agent(int agent);    // "thread 5 (warp 0 lane 5)", or the engine; in a cluster, of which block
std::string describe_thread(int thread);  // the same for a thread of a block, without the block
std::string position(Caller caller);
std::string position(const Site& site);
// A site in 32 bits, for the shadow of shared memory.
uint32_t pack(const Site& site);
Site unpack(uint32_t site);

// ---- collectives.cpp ------------------------------------------------------------------------------------------------
void thread_left(Fiber& fiber);  // a thread returned from the kernel
// The calling lane's arrival at a warp function, with its argument. True for the last lane to arrive: it acts for all
// of them and calls wake(). The others return when it has.
bool meet(unsigned mask, const char* function, void* operand, Caller caller, Rendezvous& complete);
void wake(const Rendezvous& r);

// ---- engines.h: barriers, bulk copies, wgmma
// -------------------------------------------------------------------------
void start_cluster_engines();                    // tma.cpp: nothing is on its way
void check_unfinished_operations(Fiber& fiber);  // tma.cpp: of a thread that returns
void check_unfinished_loads(int rank);           // tma.cpp: of a block that ends
bool land_a_load();                              // tma.cpp: false: none on its way
Mbarrier* find_mbarrier(uint64_t* barrier, const char* instruction, Caller caller,
                        bool remote = false);           // mbarrier.cpp
void complete_bytes(Mbarrier& barrier, int64_t bytes);  // mbarrier.cpp
void wake_waiting(std::vector<Fiber*>& waiting);        // mbarrier.cpp
// How often, at most, a block has gone round a ring of slots, over all launches so far: the fewest phases that threads
// alone have completed of one of its mbarriers, as those are that give slots back. Barriers that wait for bytes, and
// those without a phase, do not count. mbarrier.cpp
int64_t ring_rounds();
void note_ring_rounds();  // of the cluster that has ended
void clear_ring_rounds();
void check_unfinished_wgmma(Fiber& fiber);                                        // wgmma.cpp
void accumulator_access(const void* address, AccessKind kind, const Site& site);  // wgmma.cpp: while in flight

// ---- cluster.cpp ----------------------------------------------------------------------------------------------------
// `agent` touches shared memory of the block of another rank: which must run, and be known to.
void remote_access(int rank, int observer, int agent, uint32_t clock, const Site& site);
void leave_cluster_barrier(const Fiber& fiber);  // its thread has returned
void check_visitors(int rank);                   // of a block that ends: nobody may come later

// ---- async_copies.cpp -----------------------------------------------------------------------------------------------
void check_unfinished_copies(const Fiber& fiber);  // of a thread that returned from the kernel

// ---- counters.cpp ---------------------------------------------------------------------------------------------------
void read_counter_setting();
void start_counting(bool this_cluster);
// An access by the running fiber, while counting.
void count_access(const void* address, size_t bytes, CountedAccess kind, const Site& site);
void count_matrix(const void* const (&rows)[8], CountedAccess kind, const Site& site);
void count_warp(int warp);  // the whole warp has met: what its lanes have accessed so far belongs together

// ---- global_shadow.cpp ----------------------------------------------------------------------------------------------
void prepare_global_memory();  // at the start of a launch
void forget_scratch(const void* data, size_t bytes);
// An access by the running fiber inside a declared range.
void track_global_access(const TrackedRange& tracked, const void* address, size_t bytes, AccessKind kind,
                         const Site& site);

// ---- shared_memory.cpp, global_memory.cpp ---------------------------------------------------------------------------
void prepare_shared_memory();             // at the start of a launch
void start_cluster_memory();              // NaN bytes into all shared memory
void check_cluster_memory();              // stores that no callback saw
bool is_shared(const void* address);      // of any block of the cluster
bool is_own_shared(const void* address);  // of the running fiber's block
int rank_of(const void* address);         // of the block whose dynamic shared memory it is in, or -1
Accessor running_thread();
void shared_access(const void* address, size_t bytes, AccessKind kind, const Accessor& accessor, const Site& site);
void finish_copy(const void* address, size_t bytes);  // of the running fiber: no longer pending
void check_alignment(const void* address, size_t bytes, AccessKind kind, const Site& site);
void global_access(const void* address, size_t bytes, AccessKind kind, const Site& site);
// Any access of the running fiber: local memory passes, the rest goes to one of the two above.
void memory_access(const void* address, size_t bytes, AccessKind kind, bool aligned, const Site& site);
std::string shared_place(const void* address);  // "variable + offset (its bytes)"
// The bytes are nobody's again, as at the start of the cluster.
void forget_shared_bytes(void* address, size_t bytes);

}  // namespace fastconv::emulator
