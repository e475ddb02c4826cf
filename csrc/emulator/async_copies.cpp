// cp.async. A copy may land at any time between its issue and the wait that covers it, so kernels must be right for
// every choice; FASTCONV_EMULATOR_COPIES makes it: as late as possible (lazy), at once (eager), or anything between
// (rand:SEED). Whatever the choice, to the checker the target is pending until the wait, and what it holds until the
// copy lands is NaN.
#include <cstring>

#include "device_copies.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;

void land(AsyncCopy& copy) {
  if (copy.landed) return;
  copy.landed = true;
  if (copy.source) {
    memcpy(copy.target, copy.source, copy.bytes);
  } else {
    memset(copy.target, 0, copy.bytes);
  }
}

CopyQueue& my_copies() {
  Machine& m = machine();
  return m.copies[m.agent()];
}

// A chance for a copy on its way to arrive.
void time_passes() {
  Machine& m = machine();
  CopyQueue& queue = my_copies();
  if (m.copy_timing == CopyTiming::kRandom && !queue.copies.empty() && m.copy_random() % 2 == 0) {
    land(queue.copies[m.copy_random() % queue.copies.size()]);
  }
}

}  // namespace

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  Machine& m = machine();
  CopyQueue& queue = my_copies();
  const size_t size = static_cast<size_t>(bytes);
  const Site site{m.image.code_offset(__builtin_return_address(0)), {nullptr, 0}};
  if (m.checking) {
    if (valid) {
      check_alignment(global, size, AccessKind::kRead, site);
      global_access(global, size, AccessKind::kRead, site);
    }
    check_alignment(shared, size, AccessKind::kWrite, site);
    if (!is_own_shared(shared)) {
      report_and_abandon("shared-address", site,
                         "asynchronous copy at {0} to an address outside the block's shared memory");
    }
    Accessor copy = running_thread();
    copy.through = Through::kPendingCopy;
    shared_access(shared, size, AccessKind::kWrite, copy, site);
    if (m.counting) count_access(shared, size, CountedAccess::kCopy, site);
  }
  memset(shared, kPoison, size);
  queue.copies.push_back({static_cast<unsigned char*>(shared),
                          valid ? static_cast<const unsigned char*>(global) : nullptr, size, queue.closed_groups,
                          site});
  if (m.copy_timing == CopyTiming::kEager) land(queue.copies.back());
  time_passes();
}

void commit_copies() {
  ++my_copies().closed_groups;
  time_passes();
}

void wait_copies(int pending_groups) {
  Machine& m = machine();
  CopyQueue& queue = my_copies();
  const int64_t finished_groups = queue.closed_groups - pending_groups;
  size_t finished = 0;
  for (; finished < queue.copies.size() && queue.copies[finished].group < finished_groups; ++finished) {
    AsyncCopy& copy = queue.copies[finished];
    land(copy);
    if (m.checking) finish_copy(copy.target, copy.bytes);
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + static_cast<ptrdiff_t>(finished));
  time_passes();
}

void check_unfinished_copies(const Fiber& fiber) {
  Machine& m = machine();
  const CopyQueue& queue = m.copies[fiber.context->agent];
  if (queue.copies.empty()) return;
  report("unfinished-copy", queue.copies.front().site,
         "the thread returns from the kernel, but has not waited for the asynchronous copy it issued at {0}");
}

}  // namespace fastconv::emulator
