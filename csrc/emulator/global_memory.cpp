// Global memory: only what the launch declared may be touched. Also the sorting of accesses by memory space, and the
// red-zoned buffers of tests.
#include <cstdlib>
#include <cstring>
#include <new>

#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;  // NaN in every floating-point type

std::string count(size_t n, const char* unit) { return std::to_string(n) + " " + unit; }

// How far the address is from the declared buffers, in words.
std::string nearest_range(uintptr_t address) {
  const MemoryRange* best = nullptr;
  size_t best_distance = size_t{1} << 20;  // farther off, a name would mislead
  for (const MemoryRange& range : machine().shape.ranges) {
    const uintptr_t low = reinterpret_cast<uintptr_t>(range.data);
    const size_t distance = address < low ? low - address : address - low;
    if (range.data && distance < best_distance + range.bytes) {
      best = &range;
      best_distance = distance;
    }
  }
  if (!best) return "nowhere near the kernel's buffers";
  const uintptr_t low = reinterpret_cast<uintptr_t>(best->data);
  if (address < low) return count(low - address, "bytes before the start of ") + best->name;
  return "byte " + std::to_string(address - low) + " of " + best->name + ", which has " + count(best->bytes, "bytes");
}

}  // namespace

void global_access(const void* address, size_t bytes, AccessKind kind, const Site& site) {
  Machine& m = machine();
  const uintptr_t low = reinterpret_cast<uintptr_t>(address);
  const std::vector<TrackedRange>& ranges = m.ranges;
  // Buffers may overlap (in-place operations): a read-only declaration does not forbid what another one allows.
  const MemoryRange* read_only = nullptr;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const size_t index = i == 0 ? m.last_range : i <= m.last_range ? i - 1 : i;
    const MemoryRange& range = ranges[index].range;
    const uintptr_t start = reinterpret_cast<uintptr_t>(range.data);
    if (low < start || low + bytes > start + range.bytes) continue;
    if (kind == AccessKind::kRead || range.writable) {
      m.last_range = index;
      if (m.counting) {
        count_access(address, bytes,
                     kind == AccessKind::kRead ? CountedAccess::kGlobalRead : CountedAccess::kGlobalWrite, site);
      }
      if (ranges[index].races || ranges[index].scratch) track_global_access(ranges[index], address, bytes, kind, site);
      return;
    }
    read_only = &range;
  }
  if (read_only) {
    report_and_abandon(
        "read-only-write", site,
        std::string(verb(kind)) + " of " + count(bytes, "bytes") + " at {0} to the input " + read_only->name);
  }
  report_and_abandon("global-out-of-bounds", site,
                     std::string(verb(kind)) + " of " + count(bytes, "bytes") + " at {0}: " + nearest_range(low));
}

void check_alignment(const void* address, size_t bytes, AccessKind kind, const Site& site) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (at % bytes == 0) return;
  report("misaligned-access", site,
         std::string(verb(kind)) + " of " + count(bytes, "bytes") + " at {0} from an address that is " +
             std::to_string(at % bytes) + " modulo " + std::to_string(bytes) +
             (is_shared(address) ? " (shared memory)" : " (global memory)"));
}

void memory_access(const void* address, size_t bytes, AccessKind kind, bool aligned, const Site& site) {
  Machine& m = machine();
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const uintptr_t stack = reinterpret_cast<uintptr_t>(m.stacks.low(m.agent()));
  if (at - stack < StackPool::kStackBytes - StackPool::kGuardBytes) {  // local memory
    if (at - m.current->in_flight_low < m.current->in_flight_high - m.current->in_flight_low) {
      accumulator_access(address, kind, site);
    }
    return;
  }
  if (aligned) check_alignment(address, bytes, kind, site);
  if (is_shared(address)) {
    shared_access(address, bytes, kind, running_thread(), site);
    if (m.counting) {
      count_access(address, bytes, kind == AccessKind::kRead ? CountedAccess::kSharedRead : CountedAccess::kSharedWrite,
                   site);
    }
    return;
  }
  if (at - reinterpret_cast<uintptr_t>(m.argument) < m.argument_bytes && kind == AccessKind::kRead) return;
  // Tables and constants of the library; a kernel has no business writing there.
  if (kind == AccessKind::kRead && m.image.contains(address)) return;
  if (m.stacks.contains(address)) {
    report_and_abandon("foreign-local-memory", site,
                       std::string(verb(kind)) + " at {0} through a pointer to another thread's local memory");
  }
  global_access(address, bytes, kind, site);
}

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  const size_t total = (bytes + 2 * kRedZoneBytes + 255) / 256 * 256;
  memory_ = static_cast<unsigned char*>(aligned_alloc(256, total));
  if (!memory_) throw std::bad_alloc();
  data_ = memory_ + kRedZoneBytes;
  memset(memory_, kPoison, total);
}

DeviceBuffer::~DeviceBuffer() {
  if (the_machine) forget_scratch(data_, bytes_);
  free(memory_);
}

bool DeviceBuffer::intact() const {
  for (size_t i = 0; i < kRedZoneBytes; ++i) {
    if (memory_[i] != kPoison || data_[bytes_ + i] != kPoison) return false;
  }
  return true;
}

}  // namespace fastconv::emulator
