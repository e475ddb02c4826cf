// What the bytes of written global memory have seen in this launch: races between threads of a block, which its
// barriers order, and between blocks, which nothing orders but atomics. Also which bytes of scratch memory hold a
// value, over launches.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;
constexpr size_t kRememberedScratch = 16;

// Halves the granules of a page, which then carry the same history, until they are at most `bytes` long.
void refine(GlobalPage& page, size_t bytes) {
  const auto split = [](auto& cells) {
    auto finer = cells;
    finer.resize(2 * cells.size());
    for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells[i / 2];
    cells = std::move(finer);
  };
  for (; page.granule > bytes; page.granule /= 2) {
    split(page.writes);
    split(page.reads);
  }
}

std::string describe(const GlobalAccess& access) {
  const dim3& grid = machine().shape.grid;
  return "block (" + std::to_string(access.block % grid.x) + "," + std::to_string(access.block / grid.x % grid.y) +
         "," + std::to_string(access.block / grid.x / grid.y) + ") " +
         describe_thread(access.agent % machine().threads);
}

bool same_cluster(uint32_t block, uint32_t other) {
  const Machine& m = machine();
  if (m.cluster_blocks == 1) return block == other;
  const dim3 &grid = m.shape.grid, &cluster = m.shape.cluster;
  return block % grid.x / cluster.x == other % grid.x / cluster.x &&
         block / grid.x % grid.y / cluster.y == other / grid.x % grid.y / cluster.y &&
         block / grid.x / grid.y / cluster.z == other / grid.x / grid.y / cluster.z;
}

bool ordered(const GlobalAccess& earlier, const GlobalAccess& mine) {
  Machine& m = machine();
  if (!earlier.clock || (earlier.atomic && mine.atomic)) return true;
  if (same_cluster(earlier.block, mine.block) && m.clocks.seen(mine.agent, earlier.agent, earlier.clock)) return true;
  return earlier.block != mine.block && m.block().seen_blocks.count(earlier.block) != 0;
}

void report_race(const MemoryRange& range, size_t offset, AccessKind kind, const Site& site,
                 const GlobalAccess& earlier, bool earlier_wrote) {
  report("global-race", site,
         std::string(verb(kind)) + " at {0} is not ordered after the " + (earlier_wrote ? "write" : "read") +
             " at {1} by " + describe(earlier) + ", " + range.name + " + " + std::to_string(offset),
         unpack(earlier.site));
}

// Atomics on one address order the blocks that use it, as in "the last block adds up": whoever comes later has seen all
// that the earlier ones did before. (Fences, which that takes on a GPU, are not modelled.)
void order_blocks(uintptr_t address, uint32_t block) {
  Machine& m = machine();
  std::set<uint32_t>& released = m.released_blocks[address];
  std::set<uint32_t>& seen = m.block().seen_blocks;
  seen.insert(released.begin(), released.end());
  released.insert(seen.begin(), seen.end());
  released.insert(block);
}

// False after a report.
bool track_page(GlobalPage& page, const MemoryRange& range, uintptr_t low, size_t bytes, AccessKind kind,
                const GlobalAccess& mine, const Site& site) {
  if (page.granule == 0) {
    page.granule = kGlobalPageBytes;
    while (page.granule > bytes || low % page.granule != 0) page.granule /= 2;
    page.writes.resize(kGlobalPageBytes / page.granule);
  }
  size_t piece = page.granule;
  while (piece > bytes || low % piece != 0 || bytes % piece != 0) piece /= 2;
  if (piece < page.granule) refine(page, piece);
  if (kind != AccessKind::kWrite && page.reads.empty()) page.reads.resize(page.writes.size());
  const size_t first = low % kGlobalPageBytes / page.granule, last = first + bytes / page.granule;
  for (size_t i = first; i < last; ++i) {
    GlobalAccess& write = page.writes[i];
    const size_t offset = low + (i - first) * page.granule - reinterpret_cast<uintptr_t>(range.data);
    if (!ordered(write, mine)) {
      report_race(range, offset, kind, site, write, true);
      return false;
    }
    if (kind == AccessKind::kRead) {
      GlobalReaders& readers = page.reads[i];
      readers[ordered(readers[0], mine) ? 0 : 1] = mine;
      continue;
    }
    if (!page.reads.empty()) {
      for (GlobalAccess& read : page.reads[i]) {
        if (!ordered(read, mine)) {
          report_race(range, offset, kind, site, read, false);
          return false;
        }
        read = GlobalAccess();
      }
    }
    write = mine;
  }
  return true;
}

bool overlaps(const ScratchMemory& scratch, uintptr_t low, size_t bytes) {
  return low < scratch.low + scratch.written.size() && low + bytes > scratch.low;
}

// Element by element, of up to four bytes. Memory that no longer holds the poison was freed and filled by somebody
// else, which nobody tells us; and that somebody's data has single bytes of the poison's value, but hardly a whole
// element.
void track_scratch(ScratchMemory& scratch, const MemoryRange& range, uintptr_t low, size_t bytes, AccessKind kind,
                   const Site& site) {
  const uintptr_t end = std::min(low + bytes, scratch.low + scratch.written.size());
  const size_t element = std::min<size_t>(bytes, 4);
  for (uintptr_t at = low; at < end; at += element) {
    bool unwritten = true;
    for (uintptr_t byte = std::max(at, scratch.low); byte < std::min(at + element, end); ++byte) {
      uint8_t& written = scratch.written[byte - scratch.low];
      unwritten = unwritten && !written && *reinterpret_cast<const unsigned char*>(byte) == kPoison;
      if (kind != AccessKind::kRead) written = true;
    }
    if (kind != AccessKind::kWrite && unwritten && at + element > scratch.low) {
      report("uninitialised-global-read", site,
             std::string(verb(kind)) + " at {0} of scratch memory that no kernel has written, " + range.name + " + " +
                 std::to_string(at - reinterpret_cast<uintptr_t>(range.data)));
      return;
    }
  }
}

}  // namespace

void forget_scratch(const void* data, size_t bytes) {
  std::vector<ScratchMemory>& known = machine().scratch;
  const auto stale = [=](const ScratchMemory& s) { return overlaps(s, reinterpret_cast<uintptr_t>(data), bytes); };
  known.erase(std::remove_if(known.begin(), known.end(), stale), known.end());
}

void prepare_global_memory() {
  Machine& m = machine();
  m.last_range = 0;
  m.global_pages.clear();
  m.released_blocks.clear();
  m.ranges.clear();
  for (const MemoryRange& range : m.shape.ranges) m.ranges.push_back({range, false, false});
  if (!m.checking) return;
  const auto overlap = [](const MemoryRange& a, const MemoryRange& b) {
    const auto low = [](const MemoryRange& range) { return reinterpret_cast<uintptr_t>(range.data); };
    return low(a) < low(b) + b.bytes && low(b) < low(a) + a.bytes;
  };
  for (TrackedRange& tracked : m.ranges) {
    const MemoryRange& range = tracked.range;
    for (const MemoryRange& other : m.shape.ranges) tracked.races |= other.writable && overlap(range, other);
    const uintptr_t low = reinterpret_cast<uintptr_t>(range.data);
    if (range.uninitialised) {
      forget_scratch(range.data, range.bytes);
      if (m.scratch.size() == kRememberedScratch) m.scratch.erase(m.scratch.begin());
      m.scratch.push_back({low, std::vector<uint8_t>(range.bytes, 0)});
      memset(const_cast<void*>(range.data), kPoison, range.bytes);
    }
    for (const ScratchMemory& scratch : m.scratch) tracked.scratch |= overlaps(scratch, low, range.bytes);
  }
}

void track_global_access(const TrackedRange& tracked, const void* address, size_t bytes, AccessKind kind,
                         const Site& site) {
  Machine& m = machine();
  const uintptr_t low = reinterpret_cast<uintptr_t>(address);
  if (tracked.scratch) {
    for (ScratchMemory& scratch : m.scratch) track_scratch(scratch, tracked.range, low, bytes, kind, site);
  }
  if (!tracked.races) return;
  const ThreadContext& thread = *m.current->context;
  const dim3& grid = m.shape.grid;
  const uint32_t block = thread.block_index.x + grid.x * (thread.block_index.y + grid.y * thread.block_index.z);
  const GlobalAccess mine{m.clocks.now(thread.agent), block, pack(site), static_cast<uint16_t>(thread.agent),
                          kind == AccessKind::kAtomic};
  if (kind == AccessKind::kAtomic) order_blocks(low, block);
  for (uintptr_t at = low; at < low + bytes;) {
    const uintptr_t end = std::min(low + bytes, at / kGlobalPageBytes * kGlobalPageBytes + kGlobalPageBytes);
    if (!track_page(m.global_pages[at / kGlobalPageBytes], tracked.range, at, end - at, kind, mine, site)) return;
    at = end;
  }
}

}  // namespace fastconv::emulator
