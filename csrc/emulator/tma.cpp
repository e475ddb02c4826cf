// TMA: copies of boxes of a tensor, and what they leave to be checked when a thread or a block ends. To the checker a
// load is a write by an engine of its own, which nobody has seen before the mbarrier's phase is over; a store is a read
// by another engine, seen by the thread that waits for its group.
#include <algorithm>
#include <cstring>

#include "device_cluster.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;
constexpr int kChunk = 16;                 // bytes that swizzling keeps together
constexpr uintptr_t kPatternBytes = 1024;  // of the widest swizzle

size_t box_bytes(const TensorMap& map) {
  size_t bytes = map.element_bytes;
  for (int d = 0; d < map.rank; ++d) bytes *= map.box[d];
  return bytes;
}

// Rows of the box along the contiguous dimension: f(row, global address of the row's first element, or null where the
// row lies outside). The address may itself lie outside the tensor, before its row.
template <class F>
void for_each_row(const BulkCopy& copy, F f) {
  const TensorMap& map = copy.map;
  if (map.im2col) {
    size_t pixel = 0;
    for (unsigned char* row : im2col_pixels(copy)) f(pixel++, row);
    return;
  }
  size_t rows = 1;
  for (int d = 1; d < map.rank; ++d) rows *= map.box[d];
  for (size_t row = 0; row < rows; ++row) {
    int64_t offset = int64_t{copy.coordinates[0]} * map.element_bytes;
    bool inside = true;
    size_t rest = row;
    for (int d = 1; d < map.rank; ++d) {
      const int64_t index = copy.coordinates[d] + static_cast<int64_t>(rest % map.box[d]);
      rest /= map.box[d];
      inside = inside && index >= 0 && index < static_cast<int64_t>(map.extent[d]);
      offset += index * static_cast<int64_t>(map.stride[d - 1]);
    }
    f(row, inside ? map.base + offset : nullptr);
  }
}

struct Span {
  size_t first, last;  // bytes of a box's row
};

// The part of a row of the box that lies inside the tensor.
Span inside_row(const BulkCopy& copy) {
  const int64_t start = copy.coordinates[0], extent = static_cast<int64_t>(copy.map.extent[0]);
  const int64_t first = std::clamp<int64_t>(-start, 0, copy.map.box[0]);
  const int64_t last = std::clamp<int64_t>(extent - start, first, copy.map.box[0]);
  return {static_cast<size_t>(first) * copy.map.element_bytes, static_cast<size_t>(last) * copy.map.element_bytes};
}

// Chunks of the box in shared memory: f(byte in the box, pointer).
template <class F>
void for_each_chunk(const BulkCopy& copy, F f) {
  // Not through 32-bit addresses: it may lie in another block than the running fiber's.
  const size_t bytes = box_bytes(copy.map);
  const uintptr_t start = reinterpret_cast<uintptr_t>(copy.shared) % kPatternBytes;
  for (size_t at = 0; at < bytes; at += kChunk) {
    f(at, copy.shared + (swizzled(static_cast<uint32_t>(start + at), copy.map.swizzle_bytes) - start));
  }
}

void check_arguments(const TensorMap* map, const void* shared, int rank, const char* name, Caller caller,
                     bool im2col = false) {
  const Site site{0, caller};
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || map->magic != kTensorMapMagic) {
    report_and_abandon("tensor-map", site, std::string(name) + " at {0}: not a tensor map on a 64-byte boundary");
  }
  if (map->rank != rank) {
    report_and_abandon("tensor-map", site,
                       std::string(name) + " at {0} has " + std::to_string(rank) + " coordinates for a tensor map of " +
                           std::to_string(map->rank) + " dimensions");
  }
  if (im2col != (map->im2col != 0)) {
    report_and_abandon(
        "tensor-map", site,
        std::string(name) + " at {0} is " +
            (im2col ? "an im2col copy, and its tensor map tiled" : "a tiled copy, and its tensor map im2col"));
  }
  if (!is_own_shared(shared)) {
    report_and_abandon("shared-address", site,
                       std::string(name) + " at {0}: not a pointer to shared memory of the block");
  }
  // The hardware takes any multiple of 128; but the swizzle follows address bits, so a tile that starts elsewhere has
  // another pattern than its readers expect.
  const uintptr_t alignment = std::max<uintptr_t>(128, map->swizzle_bytes * 8);
  if (const uintptr_t rest = reinterpret_cast<uintptr_t>(shared) % alignment; rest != 0) {
    report_and_abandon("misaligned-access", site,
                       std::string(name) + " at {0}: the shared address is " + std::to_string(rest) + " modulo " +
                           std::to_string(alignment) + ", with a swizzle of " + std::to_string(map->swizzle_bytes) +
                           " bytes");
  }
}

// Global memory is checked when the copy is issued, while its thread is running.
void check_global(const BulkCopy& copy, AccessKind kind) {
  if (!machine().checking) return;
  const Span span = inside_row(copy);
  if (span.first == span.last) return;
  for_each_row(copy, [&](size_t, unsigned char* row) {
    if (row) global_access(row + span.first, span.last - span.first, kind, Site{0, copy.caller});
  });
}

Accessor engine_accessor(const BulkCopy& copy) {
  return {copy.engine, copy.clock, machine().agent(), 1, Through::kAsynchronous};
}

bool may_land() {
  Machine& m = machine();
  return m.copy_timing == CopyTiming::kEager || (m.copy_timing == CopyTiming::kRandom && m.copy_random() % 3 == 0);
}

// To nearest. Which way ties go is not documented; here to even.
void round_to_tf32(std::vector<unsigned char>& box) {
  for (size_t at = 0; at < box.size(); at += sizeof(uint32_t)) {
    uint32_t bits;
    memcpy(&bits, &box[at], sizeof bits);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    if (finite) {
      bits = (bits + 0xfffu + (bits >> 13 & 1)) & 0xffffe000u;
    } else if (bits & 0x7fffffu) {
      bits |= 0x400000u;  // a NaN stays one without its low bits
    }
    memcpy(&box[at], &bits, sizeof bits);
  }
}

void land(BulkCopy& load) {
  Machine& m = machine();
  const Span span = inside_row(load);
  const size_t row_bytes = size_t{load.map.box[0]} * load.map.element_bytes;
  std::vector<unsigned char> box(box_bytes(load.map), 0);
  for_each_row(load, [&](size_t row, const unsigned char* source) {
    if (source) memcpy(&box[row * row_bytes + span.first], source + span.first, span.last - span.first);
  });
  if (load.map.rounds_to_tf32) round_to_tf32(box);
  for_each_chunk(load, [&](size_t at, unsigned char* chunk) { memcpy(chunk, &box[at], kChunk); });
  const auto found = m.engines.mbarriers.find(load.barrier);
  if (found == m.engines.mbarriers.end()) return;  // invalidated meanwhile: nobody will know
  if (m.checking) {
    // Earlier loads to this mbarrier may still be on their way: what is published is the end of the last one before
    // them.
    uint32_t landed = m.clocks.now(load.engine);
    for (const BulkCopy& other : m.engines.loads) {
      if (other.engine == load.engine) landed = std::min(landed, other.clock - 1);
    }
    m.clocks.release_operation(load.engine, landed, found->second.arriving);
  }
  complete_bytes(found->second, static_cast<int64_t>(box.size()));
}

void read_box(BulkCopy& store) {
  if (store.read) return;
  store.read = true;
  store.box.resize(box_bytes(store.map));
  for_each_chunk(store, [&](size_t at, const unsigned char* chunk) { memcpy(&store.box[at], chunk, kChunk); });
}

void write_box(BulkCopy& store) {
  read_box(store);
  if (store.written) return;
  store.written = true;
  const Span span = inside_row(store);
  const size_t row_bytes = size_t{store.map.box[0]} * store.map.element_bytes;
  for_each_row(store, [&](size_t row, unsigned char* target) {
    if (target) memcpy(target + span.first, &store.box[row * row_bytes + span.first], span.last - span.first);
  });
}

BulkGroups& my_stores() {
  Machine& m = machine();
  const int thread = m.agent();
  const auto found = m.engines.stores.find(thread);
  if (found != m.engines.stores.end()) return found->second;
  const int number = m.current->context->cluster_rank * kEngines + kFirstStoreEngine +
                     static_cast<int>(m.engines.stores.size()) % kStoreEngines;
  BulkGroups& groups = m.engines.stores[thread];
  groups.engine = m.clocks.engine(number);
  return groups;
}

// To one block of the cluster. The tensor is read once for all of them.
void start_load(void* shared, const TensorMap* map, uint64_t* barrier, int rank, const int* coordinates, Caller caller,
                const uint16_t* offsets, bool reads_tensor) {
  Machine& m = machine();
  const Mbarrier& b = *find_mbarrier(barrier, "TMA load", caller, true);
  if (m.checking && !b.fenced) {
    report("missing-mbarrier-fence", Site{0, caller},
           "TMA load at {0} reports to the mbarrier initialised at {1}, which no fence.mbarrier_init has followed",
           Site{0, b.initialised});
  }
  BulkCopy load;
  load.map = *map;
  load.shared = static_cast<unsigned char*>(shared);
  std::copy_n(coordinates, rank, load.coordinates);
  load.caller = caller;
  load.thread = m.agent();
  load.engine = b.engine;
  load.clock = m.clocks.begin_operation(b.engine);
  load.barrier = barrier;
  if (offsets) {
    std::copy_n(offsets, rank - 2, load.offsets);
    check_im2col(load);
  }
  if (reads_tensor) check_global(load, AccessKind::kRead);
  if (m.checking) {
    shared_access(shared, box_bytes(*map), AccessKind::kWrite, engine_accessor(load), Site{0, caller});
  }
  memset(shared, kPoison, box_bytes(*map));
  m.engines.loads.push_back(std::move(load));
  if (may_land()) land_a_load();
}

}  // namespace

void tma_load(void* shared, const TensorMap* map, uint64_t* barrier, int rank, const int* coordinates, Caller caller,
              const uint16_t* offsets) {
  check_arguments(map, shared, rank, "TMA load", caller, offsets != nullptr);
  find_mbarrier(barrier, "TMA load", caller);
  start_load(shared, map, barrier, rank, coordinates, caller, offsets, true);
}

void tma_load_multicast(void* shared, const TensorMap* map, uint64_t* barrier, uint16_t ranks, int rank,
                        const int* coordinates, Caller caller, const uint16_t* offsets) {
  Machine& m = machine();
  check_arguments(map, shared, rank, "TMA multicast load", caller, offsets != nullptr);
  if (ranks == 0 || ranks >> m.cluster_blocks != 0) {
    report_and_abandon("cluster-rank", Site{0, caller},
                       "TMA multicast load at {0} to the blocks of mask " + std::to_string(ranks) +
                           " of a cluster of " + std::to_string(m.cluster_blocks));
  }
  bool first = true;
  for (uint32_t to = 0; to < static_cast<uint32_t>(m.cluster_blocks); ++to) {
    if (!(ranks >> to & 1)) continue;
    start_load(map_shared_rank(shared, to, caller), map, static_cast<uint64_t*>(map_shared_rank(barrier, to, caller)),
               rank, coordinates, caller, offsets, first);
    first = false;
  }
}

bool land_a_load() {
  Machine& m = machine();
  std::deque<BulkCopy>& loads = m.engines.loads;
  if (loads.empty()) return false;
  const size_t chosen = m.copy_timing == CopyTiming::kRandom ? m.copy_random() % loads.size() : 0;
  BulkCopy load = std::move(loads[chosen]);
  loads.erase(loads.begin() + static_cast<ptrdiff_t>(chosen));
  land(load);
  return true;
}

void tma_store(const TensorMap* map, const void* shared, int rank, const int* coordinates, Caller caller) {
  Machine& m = machine();
  check_arguments(map, shared, rank, "TMA store", caller);
  BulkGroups& stores = my_stores();
  BulkCopy store;
  store.map = *map;
  store.shared = static_cast<unsigned char*>(const_cast<void*>(shared));
  std::copy_n(coordinates, rank, store.coordinates);
  store.caller = caller;
  store.thread = m.agent();
  store.engine = stores.engine;
  store.clock = m.clocks.begin_operation(stores.engine);
  check_global(store, AccessKind::kWrite);
  if (m.checking) shared_access(shared, box_bytes(*map), AccessKind::kRead, engine_accessor(store), Site{0, caller});
  stores.open.push_back(std::move(store));
}

void bulk_commit_group() {
  BulkGroups& stores = my_stores();
  for (BulkCopy& store : stores.open) {
    if (may_land()) write_box(store);
  }
  stores.committed.push_back(std::move(stores.open));
  stores.open.clear();
}

void bulk_wait_group(int pending, bool read_only) {
  Machine& m = machine();
  BulkGroups& stores = my_stores();
  const size_t groups = stores.committed.size();
  for (size_t i = 0; i + static_cast<size_t>(pending) < groups; ++i) {
    for (BulkCopy& store : stores.committed[i]) {
      read_only ? read_box(store) : write_box(store);
      if (m.checking) m.clocks.acquire_operation(m.agent(), store.engine, store.clock);
    }
  }
  if (read_only) return;
  while (stores.committed.size() > static_cast<size_t>(pending)) stores.committed.pop_front();
}

void start_cluster_engines() {
  Machine& m = machine();
  m.engines = Engines();
  m.engines.warpgroups.resize(static_cast<size_t>(m.cluster_blocks * kWarpgroupEngines));
  m.engines.wgmma_threads.resize(m.fibers.size());
  m.engines.cluster.arrived_in.assign(m.fibers.size(), 0);
  for (int i = 0; i < m.cluster_blocks * kWarpgroupEngines; ++i) {
    const int engine = m.clocks.engine(i / kWarpgroupEngines * kEngines + i % kWarpgroupEngines);
    m.engines.warpgroups[static_cast<size_t>(i)].clock_before_block = m.clocks.now(engine);
  }
}

void check_unfinished_operations(Fiber& fiber) {
  Machine& m = machine();
  check_unfinished_wgmma(fiber);
  const auto found = m.engines.stores.find(fiber.context->agent);
  if (found == m.engines.stores.end()) return;
  BulkGroups& stores = found->second;
  if (m.checking && !stores.open.empty()) {
    report("unfinished-copy", Site{0, stores.open.front().caller},
           "the thread returns from the kernel, but has not committed the TMA store it issued at {0}");
  }
  for (std::vector<BulkCopy>& group : stores.committed) {
    for (BulkCopy& store : group) {
      if (m.checking && !m.clocks.seen(fiber.context->agent, store.engine, store.clock)) {
        report("unfinished-copy", Site{0, store.caller},
               "the thread returns from the kernel while the TMA store that it issued at {0} may still read shared "
               "memory");
      }
      write_box(store);
    }
  }
}

void check_unfinished_loads(int rank) {
  Machine& m = machine();
  for (const BulkCopy& load : m.engines.loads) {
    if (rank_of(load.shared) != rank && m.cluster_blocks > 1) continue;
    Fiber* last = m.current;
    m.current = &m.fiber(load.thread);
    report("unfinished-copy", Site{0, load.caller}, "the block ends while the TMA load issued at {0} is on its way");
    m.current = last;
    return;
  }
}

}  // namespace fastconv::emulator
