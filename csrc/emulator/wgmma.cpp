// wgmma. The four warps of a warpgroup issue the same instructions, each in its own time; an instruction exists once
// all 128 threads have issued it, and is carried out when one of them waits for its group. Its reads of shared memory
// belong to the warpgroup's engine: ordered after what every thread had seen when it was issued, and seen by those
// that wait for it, so that memory released before the wait is a race.
#include <algorithm>
#include <cstring>

#include "../common/dtypes.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr int kRows = 64, kDepthBytes = 32;   // of one instruction
constexpr int kVectorBytes = 16;              // that lie together whatever the layout
constexpr uint32_t kPoisonBits = 0x7fc0dead;  // a NaN that computations do not produce

// A matrix descriptor; PTX ISA, "Shared memory matrix layout". Addresses and offsets in bytes.
struct Descriptor {
  uint32_t start, leading, stride, swizzle_bytes;
  int element_bytes;
  bool mn_major;

  Descriptor(uint64_t bits, int element_bytes_, bool mn_major_)
      : start(field(bits, 0)),
        leading(field(bits, 16)),
        stride(field(bits, 32)),
        element_bytes(element_bytes_),
        mn_major(mn_major_) {
    static constexpr uint32_t kSwizzle[] = {0, 128, 64, 32};
    swizzle_bytes = kSwizzle[bits >> 62];
  }
  static uint32_t field(uint64_t bits, int shift) { return static_cast<uint32_t>(bits >> shift & 0x3fff) << 4; }

  // Of the vector that starts at element `mn` (of M or N), `k`: along K, or along M or N when mn_major.
  uint32_t address(int mn, int k) const {
    const uint32_t group = static_cast<uint32_t>(mn) / 8, row = static_cast<uint32_t>(mn) % 8;
    const uint32_t k_group = static_cast<uint32_t>(k) / 8, k_row = static_cast<uint32_t>(k) % 8;
    uint32_t offset;
    if (!mn_major) {
      const uint32_t vector = static_cast<uint32_t>(k * element_bytes) / kVectorBytes;
      offset = swizzle_bytes ? group * stride + row * swizzle_bytes + vector * kVectorBytes
                             : group * stride + row * kVectorBytes + vector * leading;
    } else if (swizzle_bytes) {
      const uint32_t vectors = swizzle_bytes / 16;  // of a row of the swizzled tile
      offset = group % vectors * 16 + group / vectors * leading + k_row * swizzle_bytes + k_group * stride;
    } else {
      offset = group * stride + k_row * 16 + k_group * leading;
    }
    return swizzled(start + offset, swizzle_bytes);
  }

  // f(mn, k, pointer) for every vector of an operand with `extent` rows (A) or columns (B).
  template <class F>
  void for_each_vector(int extent, F f) const {
    const int vector = kVectorBytes / element_bytes;
    for (int mn = 0; mn < extent; mn += mn_major ? vector : 1) {
      for (int k = 0; k < kDepthBytes / element_bytes; k += mn_major ? 1 : vector) {
        f(mn, k, shared_pointer(address(mn, k)));
      }
    }
  }
};

// Places of thread t's accumulators in the tile: f(accumulator, row, column).
template <class F>
void for_each_accumulator(int t, int columns, F f) {
  const int row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
  for (int i = 0; i < columns / 2; ++i) f(i, row + (i >> 1 & 1) * 8, column + (i >> 2) * 8 + (i & 1));
}

// Its number in the cluster.
int warpgroup_of(const Fiber& fiber) {
  return fiber.context->cluster_rank * kWarpgroupEngines + fiber.context->thread / kWarpgroupThreads;
}
Warpgroup& my_warpgroup() {
  Machine& m = machine();
  return m.engines.warpgroups[static_cast<size_t>(warpgroup_of(*m.current))];
}
WgmmaThread& my_part() {
  Machine& m = machine();
  return m.engines.wgmma_threads[static_cast<size_t>(m.agent())];
}
int engine_of(const Fiber& fiber) {
  return machine().clocks.engine(fiber.context->cluster_rank * kEngines + fiber.context->thread / kWarpgroupThreads);
}

int element_bytes(WgmmaType type) { return type == WgmmaType::kTf32 ? 4 : 2; }

void check_descriptor(const Descriptor& d, const char* operand, const Site& site) {
  // The pattern follows address bits, so tiles start where it does; K may advance within a swizzled row.
  const uint32_t pattern = 8 * d.swizzle_bytes;
  if (pattern == 0 || d.start % pattern < d.swizzle_bytes) return;
  report("wgmma-descriptor", site,
         std::string("wgmma at {0}: operand ") + operand + " starts " + std::to_string(d.start % pattern) +
             " bytes into the " + std::to_string(pattern) + " bytes of its swizzle pattern");
}

// All threads have issued it: the engine's reads begin.
void begin(WgmmaInstruction& instruction) {
  Machine& m = machine();
  if (!m.checking) return;
  const int first = m.agent() - m.current->context->thread % kWarpgroupThreads;
  const int engine = engine_of(*m.current);
  const Accessor reader{engine, m.clocks.begin_operation(engine), first, kWarpgroupThreads, Through::kAsynchronous};
  const Site site{0, instruction.caller};
  const auto check = [&](const char* name, uint64_t bits, bool mn_major, int extent) {
    const Descriptor descriptor(bits, element_bytes(instruction.operation.type), mn_major);
    check_descriptor(descriptor, name, site);
    descriptor.for_each_vector(extent, [&](int, int, const unsigned char* p) {
      shared_access(p, kVectorBytes, AccessKind::kRead, reader, site);
    });
  };
  check("A", instruction.operation.a, instruction.operation.a_mn_major, kRows);
  check("B", instruction.operation.b, instruction.operation.b_mn_major, instruction.operation.columns);
}

void execute(const WgmmaInstruction& instruction) {
  const WgmmaOperation& o = instruction.operation;
  constexpr int kMaxColumns = 256, kMaxDepth = kDepthBytes / 2, kMaxVector = kVectorBytes / 2, kTogether = 8;
  const int bytes = element_bytes(o.type), depth = kDepthBytes / bytes, vector = kVectorBytes / bytes;
  static float a[kRows][kMaxDepth], b[kMaxDepth][kMaxColumns];
  const auto decode = [&](const unsigned char* p, float (&values)[kMaxVector]) {
    for (int i = 0; i < vector; ++i) {
      uint32_t bits = 0;
      memcpy(&bits, p + i * bytes, static_cast<size_t>(bytes));
      values[i] = o.type == WgmmaType::kHalf   ? detail::half_bits_to_float(static_cast<uint16_t>(bits))
                  : o.type == WgmmaType::kTf32 ? detail::bits_float(bits & 0xffffe000u)
                                               : detail::bits_float(bits << 16);
    }
  };
  float values[kMaxVector];
  Descriptor(o.a, bytes, o.a_mn_major).for_each_vector(kRows, [&](int m, int k, const unsigned char* p) {
    decode(p, values);
    for (int i = 0; i < vector; ++i) (o.a_mn_major ? a[m + i][k] : a[m][k + i]) = values[i];
  });
  Descriptor(o.b, bytes, o.b_mn_major).for_each_vector(o.columns, [&](int n, int k, const unsigned char* p) {
    decode(p, values);
    for (int i = 0; i < vector; ++i) (o.b_mn_major ? b[k][n + i] : b[k + i][n]) = values[i];
  });
  float* d = instruction.tile->values.data();
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < o.columns; n += kTogether) {
      float sum[kTogether] = {};
      if (o.accumulate) memcpy(sum, &d[m * o.columns + n], sizeof sum);
      for (int k = 0; k < depth; ++k) {
        for (int j = 0; j < kTogether; ++j) sum[j] += a[m][k] * b[k][n + j];
      }
      memcpy(&d[m * o.columns + n], sum, sizeof sum);
    }
  }
}

void update_window(Fiber& fiber, const WgmmaThread& mine) {
  fiber.in_flight_low = fiber.in_flight_high = 0;
  for (const WgmmaThread::InFlight& entry : mine.in_flight) {
    const uintptr_t low = reinterpret_cast<uintptr_t>(entry.d);
    const uintptr_t high = reinterpret_cast<uintptr_t>(entry.d + entry.tile->columns / 2);
    const bool first = fiber.in_flight_high == 0;
    fiber.in_flight_low = first ? low : std::min(fiber.in_flight_low, low);
    fiber.in_flight_high = std::max(fiber.in_flight_high, high);
  }
}

std::string state(const Fiber& fiber) {
  const size_t warpgroup = static_cast<size_t>(warpgroup_of(fiber));
  const WgmmaInstruction& next = machine().engines.warpgroups[warpgroup].instructions.front();
  return ": " + std::to_string(next.issued) + " of " + std::to_string(kWarpgroupThreads) +
         " threads of the warpgroup have issued the wgmma at " + position(next.caller);
}

}  // namespace

void wgmma_fence() { my_part().fenced = true; }

void wgmma(float* d, const WgmmaOperation& operation, Caller caller) {
  Machine& m = machine();
  Fiber& fiber = *m.current;
  const int thread = fiber.context->thread;
  const Site site{0, caller};
  Warpgroup& group = my_warpgroup();
  WgmmaThread& mine = my_part();
  if (thread / kWarpgroupThreads * kWarpgroupThreads + kWarpgroupThreads > m.threads) {
    report_and_abandon("wgmma-divergent", site, "wgmma at {0}: the thread's warpgroup has less than 128 threads");
  }
  const int64_t number = mine.issued++;
  if (number == group.first + static_cast<int64_t>(group.instructions.size())) {
    group.instructions.push_back({operation, caller, 0, nullptr});
  }
  WgmmaInstruction& instruction = group.instructions[static_cast<size_t>(number - group.first)];
  if (!(instruction.operation == operation)) {
    report_and_abandon("wgmma-divergent", site,
                       "wgmma at {0}: shape or descriptors differ from those that other threads of the warpgroup gave");
  }
  auto entry = std::find_if(mine.in_flight.begin(), mine.in_flight.end(),
                            [&](const WgmmaThread::InFlight& e) { return e.d == d; });
  if (entry == mine.in_flight.end()) {
    if (m.checking && !mine.fenced) {
      report("missing-wgmma-fence", site,
             "wgmma at {0} takes accumulators that ordinary instructions may still be writing: no wgmma.fence has "
             "followed the last wait");
    }
    if (!instruction.tile) {
      instruction.tile = std::make_shared<AccumulatorTile>();
      instruction.tile->columns = operation.columns;
      instruction.tile->values.resize(static_cast<size_t>(kRows * operation.columns));
    }
    mine.in_flight.push_back({d, instruction.tile, number, caller});
    entry = mine.in_flight.end() - 1;
    float* values = instruction.tile->values.data();
    for_each_accumulator(thread % kWarpgroupThreads, operation.columns, [&](int i, int row, int column) {
      values[row * operation.columns + column] = d[i];
      memcpy(&d[i], &kPoisonBits, sizeof kPoisonBits);
    });
    update_window(fiber, mine);
  } else if (!instruction.tile) {
    instruction.tile = entry->tile;
  }
  if (instruction.tile != entry->tile || instruction.tile->columns != operation.columns) {
    report_and_abandon("wgmma-divergent", site,
                       "wgmma at {0}: the accumulators are part of another product that is in flight");
  }
  entry->last = number;
  if (++instruction.issued == kWarpgroupThreads) {
    begin(instruction);
    wake_waiting(group.waiting);
  }
}

void wgmma_commit_group() {
  WgmmaThread& mine = my_part();
  mine.committed.push_back(mine.issued);
}

void wgmma_wait_group(int pending, Caller caller) {
  Machine& m = machine();
  Fiber& fiber = *m.current;
  Warpgroup& group = my_warpgroup();
  WgmmaThread& mine = my_part();
  mine.fenced = false;  // from here on ordinary instructions may touch accumulators again
  if (mine.committed.size() <= static_cast<size_t>(pending)) return;
  const auto last = mine.committed.end() - pending - 1;
  const int64_t end = *last;
  mine.committed.erase(mine.committed.begin(), last + 1);
  while (group.first < end) {
    WgmmaInstruction& next = group.instructions.front();
    if (next.issued < kWarpgroupThreads) {
      group.waiting.push_back(&fiber);
      m.block_current("wgmma.wait_group", caller, state);
      continue;
    }
    execute(next);
    group.instructions.pop_front();
    ++group.first;
  }
  for (size_t i = 0; i < mine.in_flight.size();) {
    const WgmmaThread::InFlight& entry = mine.in_flight[i];
    if (entry.last >= end) {
      ++i;
      continue;
    }
    const float* values = entry.tile->values.data();
    const int columns = entry.tile->columns;
    for_each_accumulator(fiber.context->thread % kWarpgroupThreads, columns,
                         [&](int a, int row, int column) { entry.d[a] = values[row * columns + column]; });
    mine.in_flight.erase(mine.in_flight.begin() + static_cast<ptrdiff_t>(i));
  }
  update_window(fiber, mine);
  if (m.checking) {
    const int engine = engine_of(fiber);
    // One operation of the engine for each instruction.
    m.clocks.acquire_operation(m.agent(), engine, group.clock_before_block + static_cast<uint32_t>(end));
  }
}

void check_unfinished_wgmma(Fiber& fiber) {
  Machine& m = machine();
  const WgmmaThread& mine = m.engines.wgmma_threads[static_cast<size_t>(fiber.context->agent)];
  if (!m.checking || mine.in_flight.empty()) return;
  report("unfinished-wgmma", Site{0, mine.in_flight.front().caller},
         "the thread returns from the kernel, but has not waited for the wgmma it issued at {0}");
}

void accumulator_access(const void* address, AccessKind kind, const Site& site) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  for (const WgmmaThread::InFlight& entry : my_part().in_flight) {
    const uintptr_t low = reinterpret_cast<uintptr_t>(entry.d);
    if (at - low >= sizeof(float) * static_cast<size_t>(entry.tile->columns / 2)) continue;
    report(
        "accumulator-in-flight", site,
        std::string(verb(kind)) + " at {0} of accumulators that the wgmma at {1} has taken and no wait has given back",
        Site{0, entry.caller});
    return;
  }
}

}  // namespace fastconv::emulator
