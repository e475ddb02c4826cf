// Shared memory: the __shared__ variables (the image's thread_local segment, see cuda_shim.h) and the dynamic block,
// with a shadow that remembers, byte by byte, who wrote and who read last. From it follow bounds, uninitialised reads,
// races.
#include <cstring>

#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;
// Where 32-bit shared addresses of the own block begin. Both keep a pointer's remainder modulo 1024; dynamic shared
// memory, in which swizzled tiles lie, fits the 18 bits that a matrix descriptor has for an address.
constexpr uint32_t kDynamicWindow = 1 << 10, kStaticWindow = 1 << 18;
// Of each block of a cluster.
alignas(1024) unsigned char dynamic_bytes[kMaxClusterBlocks][kMaxDynamicSharedBytes];

std::string place(const SharedRegion& region, size_t offset) {
  return region.name + " + " + std::to_string(offset) + " (" + std::to_string(region.bytes) + " bytes)";
}

void report_race(const std::string& where, AccessKind kind, const Site& site, const SharedAccess& earlier,
                 bool earlier_wrote) {
  report("shared-race", site,
         std::string(verb(kind)) + " at {0} is not ordered after the " + (earlier_wrote ? "write" : "read") +
             (earlier.site ? " at {1}" : "") + " by " + describe_agent(earlier.agent) + ", " + where,
         unpack(earlier.site));
}

void report_pending(const std::string& where, AccessKind kind, const Site& site, const SharedAccess& copy) {
  report(kind == AccessKind::kWrite ? "pending-copy-overwrite" : "pending-copy-read", site,
         std::string(verb(kind)) + " at {0} of bytes that the asynchronous copy at {1} may still be writing: " +
             describe_agent(copy.agent) + ", which issued it, has not waited for it, " + where,
         unpack(copy.site));
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
  if (offset >= m.image.thread_segment_bytes()) return &m.shared_regions[rank_of(address)];
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

unsigned char* dynamic_shared_memory() { return dynamic_bytes[machine().current->context->cluster_rank]; }

void prepare_shared_memory() {
  Machine& m = machine();
  m.image.load();
  m.static_shared = m.image.thread_segment();
  m.shared_regions.clear();
  m.region_of_variable.assign(m.image.shared_variables().size(), -1);
  for (int rank = 0; rank < m.cluster_blocks; ++rank) {
    const std::string of = m.cluster_blocks > 1 ? " of rank " + std::to_string(rank) : "";
    add_region(dynamic_bytes[rank], m.shape.dynamic_shared_bytes, "dynamic shared memory" + of);
  }
  if (!m.shape.function) return;
  const uint32_t kernel = m.image.code_offset(m.shape.function);
  for (size_t i = 0; i < m.image.shared_variables().size(); ++i) {
    if (m.image.shared_variables()[i].function == kernel) add_variable(static_cast<int>(i));
  }
}

void start_cluster_memory() {
  Machine& m = machine();
  for (SharedRegion& region : m.shared_regions) memset(region.data, kPoison, region.bytes);
  if (m.checking) m.clocks.start_cluster();
}

// A byte that changed though no callback saw a store to it: the compiler left a store uninstrumented, and races there
// would go unseen. (Storing the poison value itself goes unnoticed.)
void check_cluster_memory() {
  Machine& m = machine();
  if (!m.checking) return;
  for (SharedRegion& region : m.shared_regions) {
    for (size_t i = 0; i < region.bytes; ++i) {
      const SharedAccess& write = region.byte(i).write;
      if (region.data[i] == kPoison || m.clocks.of_this_cluster(write.agent, write.clock)) continue;
      report("unseen-store", Site{}, place(region, i) + " was written by a store that the checker could not see");
      break;
    }
  }
}

bool is_shared(const void* address) {
  Machine& m = machine();
  const char* a = static_cast<const char*>(address);
  // Beyond the requested bytes of the dynamic block it is still shared memory, only out of bounds.
  return static_cast<size_t>(a - m.static_shared) < m.image.thread_segment_bytes() || rank_of(address) >= 0;
}

bool is_own_shared(const void* address) {
  const int rank = rank_of(address);
  return is_shared(address) && (rank < 0 || rank == machine().current->context->cluster_rank);
}

int rank_of(const void* address) {
  const size_t offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(dynamic_bytes);
  const size_t rank = offset / kMaxDynamicSharedBytes;
  return rank < static_cast<size_t>(machine().cluster_blocks) ? static_cast<int>(rank) : -1;
}

Accessor running_thread() {
  const Machine& m = machine();
  const int thread = m.agent();
  return {thread, m.clocks.now(thread), thread, 1, Through::kOrdinary};
}

void shared_access(const void* address, size_t bytes, AccessKind kind, const Accessor& accessor, const Site& site) {
  Machine& m = machine();
  const unsigned char* a = static_cast<const unsigned char*>(address);
  const int rank = rank_of(address), observer = accessor.first_thread;
  if (m.cluster_blocks > 1 && rank < 0) {
    report_and_abandon("static-shared-in-cluster", site,
                       std::string(verb(kind)) +
                           " at {0} of a __shared__ variable in a launch with clusters, whose "
                           "blocks the emulator gives dynamic shared memory only");
  }
  if (m.cluster_blocks > 1 && rank != observer / m.threads) {
    remote_access(rank, observer, accessor.agent, accessor.clock, site);
  }
  SharedRegion* region = region_at(a);
  const size_t offset = region ? static_cast<size_t>(a - region->data) : 0;
  if (!region || offset + bytes > region->bytes) {
    report_and_abandon("shared-out-of-bounds", site,
                       std::string(verb(kind)) + " of " + std::to_string(bytes) + " bytes at {0}, " +
                           (region ? place(*region, offset) : "in no __shared__ variable of this kernel"));
  }
  const Clocks& clocks = m.clocks;
  const SharedAccess mine{accessor.clock, pack(site), static_cast<uint16_t>(accessor.agent),
                          kind == AccessKind::kAtomic, accessor.through};
  const bool asynchronous = accessor.through == Through::kAsynchronous;
  const auto by_all = [&](auto known) {
    for (int t = accessor.first_thread; t < accessor.first_thread + accessor.threads; ++t) {
      if (!known(t)) return false;
    }
    return true;
  };
  const auto seen = [&](const SharedAccess& earlier, std::pair<int, uint32_t>& known) {
    const std::pair<int, uint32_t> wanted(earlier.agent, earlier.clock);
    if (wanted == known) return true;
    if (!by_all([&](int t) { return clocks.seen(t, earlier.agent, earlier.clock); })) return false;
    known = wanted;
    return true;
  };
  const auto unordered = [&](const SharedAccess& earlier, std::pair<int, uint32_t>& known) {
    return earlier.clock && !(earlier.atomic && mine.atomic) && !seen(earlier, known);
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
    const bool written = clocks.of_this_cluster(byte.write.agent, byte.write.clock);
    if (written && byte.write.through == Through::kPendingCopy) {
      report_pending(place(*region, at), kind, site, byte.write);
      return;
    }
    if (kind != AccessKind::kWrite && !written) {
      report("uninitialised-shared-read", site,
             std::string(verb(kind)) + " at {0} of bytes that nobody has written in this block, " + place(*region, at));
      return;
    }
    if (written && byte.write.through == Through::kMbarrier) {
      report("mbarrier-access", site,
             std::string(verb(kind)) + " at {0} of an mbarrier, initialised at {1}, which only its own instructions " +
                 "may touch, " + place(*region, at),
             unpack(byte.write.site));
      return;
    }
    if (unordered(byte.write, accessor.known_write)) {
      report_race(place(*region, at), kind, site, byte.write, true);
      return;
    }
    if (asynchronous && written && byte.write.through == Through::kOrdinary &&
        !by_all([&](int t) { return clocks.fenced(t, byte.write.agent, byte.write.clock); })) {
      report("missing-proxy-fence", site,
             std::string("asynchronous ") + verb(kind) + " at {0} of bytes that " + describe_agent(byte.write.agent) +
                 " wrote at {1}, with no fence.proxy.async in between, " + place(*region, at),
             unpack(byte.write.site));
      return;
    }
    if (kind == AccessKind::kRead) {
      SharedAccess* slot = &byte.read[1];
      for (SharedAccess& read : byte.read) {
        if (seen(read, accessor.known_read)) {  // nothing is lost: whoever sees me has seen it
          slot = &read;
          break;
        }
      }
      *slot = mine;
      continue;
    }
    for (const SharedAccess& read : byte.read) {
      if (unordered(read, accessor.known_read)) {
        report_race(place(*region, at), kind, site, read, false);
        return;
      }
    }
    byte.write = mine;
    byte.read[0] = byte.read[1] = SharedAccess();
    if (at % 4 == 3 && at >= offset + 3) whole = true;  // one access has written all four
  }
}

std::string shared_place(const void* address) {
  const SharedRegion* region = region_at(static_cast<const unsigned char*>(address));
  if (!region) return "an address in no __shared__ variable of this kernel";
  return place(*region, static_cast<size_t>(static_cast<const unsigned char*>(address) - region->data));
}

void forget_shared_bytes(void* address, size_t bytes) {
  SharedRegion* region = region_at(static_cast<unsigned char*>(address));
  const size_t offset = static_cast<size_t>(static_cast<unsigned char*>(address) - region->data);
  for (size_t i = offset; i < offset + bytes; ++i) region->byte(i) = SharedByte();
  memset(address, kPoison, bytes);
}

uint32_t shared_address(const void* pointer, Caller caller) {
  const uintptr_t p = reinterpret_cast<uintptr_t>(pointer);
  const uintptr_t dynamic = p - reinterpret_cast<uintptr_t>(dynamic_shared_memory());
  if (dynamic < kMaxDynamicSharedBytes) return static_cast<uint32_t>(kDynamicWindow + dynamic);
  const uintptr_t start = reinterpret_cast<uintptr_t>(machine().static_shared) & ~uintptr_t{1023};
  if (!is_own_shared(pointer)) {
    report_and_abandon("shared-address", Site{0, caller}, "at {0}: not a pointer to shared memory of the block");
  }
  return static_cast<uint32_t>(kStaticWindow + (p - start));
}

unsigned char* shared_pointer(uint32_t address) {
  if (address < kStaticWindow) return dynamic_shared_memory() + (address - kDynamicWindow);
  const uintptr_t start = reinterpret_cast<uintptr_t>(machine().static_shared) & ~uintptr_t{1023};
  return reinterpret_cast<unsigned char*>(start) + (address - kStaticWindow);
}

void finish_copy(const void* address, size_t bytes) {
  Machine& m = machine();
  const unsigned char* a = static_cast<const unsigned char*>(address);
  SharedRegion& region = *region_at(a);
  const int me = m.agent();
  const size_t offset = static_cast<size_t>(a - region.data);
  for (size_t at = offset; at < offset + bytes; ++at) {
    SharedAccess& write = region.byte(at).write;
    if (write.through != Through::kPendingCopy || write.agent != me) continue;  // overwritten meanwhile, and reported
    write.through = Through::kOrdinary;
    write.clock = m.clocks.now(me);
  }
}

}  // namespace fastconv::emulator
