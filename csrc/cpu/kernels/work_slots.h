// Work divided among threads, each with scratch of its own.
#pragma once

#include "../../common/calls.h"
#include "../parallel.h"
#include "runs.h"

namespace fastconv::cpu::FASTCONV_ISA::work {

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Fixed numbers of the work division.
// Bytes (or FMAs / 4) below which a second thread costs more than it gives, about 20 us.
constexpr int64_t kSerialWork = 1 << 16;
constexpr int64_t kScratchBytes = 1 << 18;  // of a thread, a quarter of what the package allows: half of a small L2

// Splits `units` into one contiguous range a thread, each with its own scratch: body(scratch, begin, end).
template <class F>
void run_in_slots(const CallContext& ctx, int64_t units, int64_t work, int64_t scratch_bytes, F&& body) {
  const int64_t threads = thread_pool().threads();
  const int64_t slots = max(1, min(min(threads, units), work / kSerialWork));
  const int64_t bytes = round_up(scratch_bytes, 64);
  char* scratch = bytes ? static_cast<char*>(ctx.workspace->allocate(static_cast<size_t>(slots * bytes))) : nullptr;
  if (slots == 1) return body(static_cast<void*>(scratch), int64_t{0}, units);
  parallel_for(slots, 1, [&](int64_t first, int64_t last) {
    for (int64_t slot = first; slot < last; ++slot) {
      body(static_cast<void*>(scratch + slot * bytes), units * slot / slots, units * (slot + 1) / slots);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA::work
