// Shared memory: the __shared__ variables (the image's thread_local segment, see cuda_shim.h) and the dynamic block,
// with a shadow that remembers, byte by byte, who wrote and who read last. From it follow bounds, uninitialised reads,
// races.
#include <cstring>

#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;
alignas(1024) unsigned char dynamic_bytes[kMaxDynamicSharedBytes];

std::string place(const SharedRegion& region, size_t offset) {
  return region.name + " + " + std::to_string(offset) + " (" + std::to_string(region.bytes) + " bytes)";
}

void report_race(const std::string& where, AccessKind kind, const Site& site, const SharedAccess& earlier,
                 bool earlier_wrote) {
  const ThreadContext& other = *machine().fiber(earlier.agent).context;
  report("shared-race", site,
         std::string(verb(kind)) + " at {0} is not ordered after the " + (earlier_wrote ? "write" : "read") +
             (earlier.site ? " at {1}" : "") + " by thread " + std::to_string(other.thread) + " (warp " +
             std::to_string(other.warp) + " lane " + std::to_string(other.lane) + "), " + where,
         Site{earlier.site, {nullptr, 0}});
}

void add_region(unsigned char* data, size_t bytes, const std::string& name) {
  machine().shared_regions.emplace_back(data, bytes, name);
  memset(data, kPoison, bytes);
}

int add_variable(int number) {
  Machine& m = machine();
  const SharedVariable& variable = m.image.shared_variables()[number];
  m.region_of_variable[number] = static_cast<int>(m.shared_regions.size());
  add_region(reinterpret_cast<unsigned char*>(m.static_shared) + variable.offset, variable.bytes, variable.name);
  return m.region_of_variable[number];
}

// The region that holds the address, which is one of shared memory; null when that is no variable, or one of another
// kernel. A device function's variable joins when it is first touched: callbacks come before their access, so it is
// poisoned in time.
SharedRegion* region_at(const unsigned char* address) {
  Machine& m = machine();
  const size_t offset = static_cast<size_t>(address - reinterpret_cast<unsigned char*>(m.static_shared));
  if (offset >= m.image.thread_segment_bytes()) return &m.shared_regions[0];
  const int variable = m.image.variable_at(offset);
  if (variable < 0) return nullptr;
  int region = m.region_of_variable[variable];
  if (region < 0) {
    if (m.shape.function && m.image.shared_variables()[variable].function != 0) return nullptr;
    region = add_variable(variable);
  }
  return &m.shared_regions[region];
}

}  // namespace

unsigned char* dynamic_shared_memory() { return dynamic_bytes; }

void prepare_shared_memory() {
  Machine& m = machine();
  m.image.load();
  m.static_shared = m.image.thread_segment();
  m.shared_regions.clear();
  m.region_of_variable.assign(m.image.shared_variables().size(), -1);
  add_region(dynamic_bytes, m.shape.dynamic_shared_bytes, "dynamic shared memory");
  if (!m.shape.function) return;
  const uint32_t kernel = m.image.code_offset(m.shape.function);
  for (size_t i = 0; i < m.image.shared_variables().size(); ++i) {
    if (m.image.shared_variables()[i].function == kernel) add_variable(static_cast<int>(i));
  }
}

void start_block_memory() {
  Machine& m = machine();
  for (SharedRegion& region : m.shared_regions) memset(region.data, kPoison, region.bytes);
  if (m.checking) m.clocks.start_block();
}

// A byte that changed though no callback saw a store to it: the compiler left a store uninstrumented, and races there
// would go unseen. (Storing the poison value itself goes unnoticed.)
void check_block_memory() {
  Machine& m = machine();
  if (!m.checking) return;
  for (SharedRegion& region : m.shared_regions) {
    for (size_t i = 0; i < region.bytes; ++i) {
      const SharedAccess& write = region.byte(i).write;
      if (region.data[i] == kPoison || m.clocks.of_this_block(write.agent, write.clock)) continue;
      report("unseen-store", Site{}, place(region, i) + " was written by a store that the checker could not see");
      break;
    }
  }
}

bool is_shared(const void* address) {
  Machine& m = machine();
  const char* a = static_cast<const char*>(address);
  // Beyond the requested bytes of the dynamic block it is still shared memory, only out of bounds.
  return static_cast<size_t>(a - m.static_shared) < m.image.thread_segment_bytes() ||
         static_cast<size_t>(a - reinterpret_cast<char*>(dynamic_bytes)) < kMaxDynamicSharedBytes;
}

void shared_access(const void* address, size_t bytes, AccessKind kind, const Site& site) {
  Machine& m = machine();
  const unsigned char* a = static_cast<const unsigned char*>(address);
  SharedRegion* region = region_at(a);
  const size_t offset = region ? static_cast<size_t>(a - region->data) : 0;
  if (!region || offset + bytes > region->bytes) {
    report_and_abandon("shared-out-of-bounds", site,
                       std::string(verb(kind)) + " of " + std::to_string(bytes) + " bytes at {0}, " +
                           (region ? place(*region, offset) : "in no __shared__ variable of this kernel"));
  }
  const int me = m.current->context->thread;
  const Clocks& clocks = m.clocks;
  const SharedAccess mine{clocks.now(me), site.code, static_cast<uint16_t>(me), kind == AccessKind::kAtomic};
  const auto unordered = [&](const SharedAccess& earlier) {
    return earlier.clock && !clocks.seen(me, earlier.agent, earlier.clock) && !(earlier.atomic && mine.atomic);
  };
  const size_t end = offset + bytes;
  for (size_t at = offset, next; at < end; at = next) {
    uint8_t& whole = region->whole[at / 4];
    if (whole && (at % 4 != 0 || at + 4 > end)) {
      for (size_t i = at / 4 * 4 + 1; i % 4 != 0; ++i) region->shadow[i] = region->shadow[i / 4 * 4];
      whole = false;
    }
    next = at + (whole ? 4 : 1);
    SharedByte& byte = region->shadow[at];
    if (kind != AccessKind::kWrite && !clocks.of_this_block(byte.write.agent, byte.write.clock)) {
      report("uninitialised-shared-read", site,
             std::string(verb(kind)) + " at {0} of bytes that nobody has written in this block, " + place(*region, at));
      return;
    }
    if (unordered(byte.write)) {
      report_race(place(*region, at), kind, site, byte.write, true);
      return;
    }
    if (kind == AccessKind::kRead) {
      SharedAccess* slot = &byte.read[1];
      for (SharedAccess& read : byte.read) {
        if (clocks.seen(me, read.agent, read.clock)) {  // nothing is lost: whoever sees me has seen it
          slot = &read;
          break;
        }
      }
      *slot = mine;
      continue;
    }
    for (const SharedAccess& read : byte.read) {
      if (unordered(read)) {
        report_race(place(*region, at), kind, site, read, false);
        return;
      }
    }
    byte.write = mine;
    byte.read[0] = byte.read[1] = SharedAccess();
    if (at % 4 == 3 && at >= offset + 3) whole = true;  // one access has written all four
  }
}

}  // namespace fastconv::emulator
