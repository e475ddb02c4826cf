// What a GPU's memory system would make of the accesses of block 0: wavefronts of shared memory (32 banks of 4 bytes)
// and 32-byte sectors of global memory, each against the fewest that would do.
//
// The threads of a warp run one after the other, so an instruction of the warp has to be put together again: the k-th
// access of every lane at one place in the code, counted from the last point where the whole warp has met, is taken for
// one. Where lanes run a loop a different number of times in between, that pairs accesses that would not meet.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "kernel_list.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr int kBanks = 32, kBankBytes = 4, kSectorBytes = 32;

struct WarpAccess {
  uint32_t active = 0;  // lanes
  size_t bytes = 0;     // each
  uintptr_t address[32] = {};
};

// Accesses at one place in the code since the warp last met, and how many each lane has made.
struct Stream {
  Site site;
  CountedAccess kind;
  std::vector<WarpAccess> accesses;
  size_t made[32] = {};
};

struct Totals {
  int64_t instructions = 0, units = 0, minimum = 0;
};

struct State {
  std::vector<std::map<std::pair<uint64_t, int>, Stream>> streams;  // by warp, then by place and kind
  std::map<std::pair<std::string, std::pair<uint64_t, int>>, std::pair<Site, Totals>> totals;  // by kernel, place, kind
};

State& state() {
  static auto* all = new State;
  return *all;
}

uint64_t place(const Site& site) { return uint64_t{pack(site)}; }

// Accesses of 8 bytes take two passes over half a warp each, those of 16 four; in each pass a bank gives one word.
void count_wavefronts(const WarpAccess& access, Totals& totals) {
  const int lanes = access.bytes > 8 ? 8 : access.bytes > 4 ? 16 : 32;
  for (int first = 0; first < 32; first += lanes) {
    std::vector<uintptr_t> words;
    for (int lane = first; lane < first + lanes; ++lane) {
      if (!(access.active >> lane & 1)) continue;
      const uintptr_t last = (access.address[lane] + access.bytes - 1) / kBankBytes;
      for (uintptr_t word = access.address[lane] / kBankBytes; word <= last; ++word) words.push_back(word);
    }
    if (words.empty()) continue;
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int in_bank[kBanks] = {};
    for (const uintptr_t word : words) ++in_bank[word % kBanks];
    totals.units += *std::max_element(in_bank, in_bank + kBanks);
    ++totals.minimum;
  }
}

void count_sectors(const WarpAccess& access, Totals& totals) {
  std::vector<uintptr_t> sectors, bytes;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(access.active >> lane & 1)) continue;
    for (size_t i = 0; i < access.bytes; ++i) bytes.push_back(access.address[lane] + i);
  }
  std::sort(bytes.begin(), bytes.end());
  bytes.erase(std::unique(bytes.begin(), bytes.end()), bytes.end());
  for (const uintptr_t byte : bytes) {
    if (sectors.empty() || sectors.back() != byte / kSectorBytes) sectors.push_back(byte / kSectorBytes);
  }
  totals.units += static_cast<int64_t>(sectors.size());
  totals.minimum += static_cast<int64_t>((bytes.size() + kSectorBytes - 1) / kSectorBytes);
}

void count(const Site& site, CountedAccess kind, const WarpAccess& access) {
  auto& entry = state().totals[{machine().kernel, {place(site), static_cast<int>(kind)}}];
  entry.first = site;
  ++entry.second.instructions;
  if (kind == CountedAccess::kGlobalRead || kind == CountedAccess::kGlobalWrite) {
    count_sectors(access, entry.second);
  } else {
    count_wavefronts(access, entry.second);
  }
}

void print_at_exit() {
  fputs(counter_table().c_str(), stderr);
  fflush(stderr);
}

}  // namespace

void read_counter_setting() {
  const char* setting = getenv("FASTCONV_EMULATOR_COUNTERS");
  const bool print = setting && strcmp(setting, "print") == 0;
  Machine& m = machine();
  m.counters_wanted = m.checking && setting && *setting && strcmp(setting, "0") != 0;
  static bool registered = false;
  if (print && !registered) atexit(print_at_exit);
  registered |= print;
}

void start_counting(bool this_cluster) {
  Machine& m = machine();
  m.counting = m.counters_wanted && this_cluster;
  if (m.counting) state().streams.assign(m.warps_per_block(), {});
}

void count_access(const void* address, size_t bytes, CountedAccess kind, const Site& site) {
  const ThreadContext& thread = *machine().current->context;
  if (thread.cluster_rank != 0) return;
  Stream& stream = state().streams[thread.warp][{place(site), static_cast<int>(kind)}];
  stream.site = site;
  stream.kind = kind;
  const size_t index = stream.made[thread.lane]++;
  if (index == stream.accesses.size()) stream.accesses.emplace_back();
  WarpAccess& access = stream.accesses[index];
  access.active |= 1u << thread.lane;
  access.bytes = bytes;
  access.address[thread.lane] = reinterpret_cast<uintptr_t>(address);
}

void count_matrix(const void* const (&rows)[8], CountedAccess kind, const Site& site) {
  if (!machine().counts(*machine().current)) return;
  WarpAccess access;
  access.active = 0xff;
  access.bytes = 16;
  for (int i = 0; i < 8; ++i) access.address[i] = reinterpret_cast<uintptr_t>(rows[i]);
  count(site, kind, access);
}

void count_warp(int warp) {
  for (const auto& [key, stream] : state().streams[warp]) {
    for (const WarpAccess& access : stream.accesses) count(stream.site, stream.kind, access);
  }
  state().streams[warp].clear();
}

std::vector<CounterRow> counters() {
  static const char* const kNames[] = {"shared read",    "shared write", "ldmatrix",    "stmatrix",
                                       "cp.async write", "global read",  "global write"};
  std::map<std::pair<std::string, std::pair<std::string, int>>, CounterRow> rows;
  for (const auto& [key, entry] : state().totals) {
    const std::string line = position(entry.first);
    CounterRow& row = rows[{key.first, {line, key.second.second}}];
    row.kernel = key.first;
    row.line = line;
    row.access = kNames[key.second.second];
    row.instructions += entry.second.instructions;
    row.units += entry.second.units;
    row.minimum += entry.second.minimum;
  }
  std::vector<CounterRow> list;
  for (auto& [key, row] : rows) list.push_back(std::move(row));
  return list;
}

std::string counter_table() {
  std::string text;
  char line[512];
  snprintf(line, sizeof line, "%-24s %-15s %12s %12s %12s %6s  %s\n", "kernel", "access", "instructions", "units",
           "minimum", "ratio", "line");
  text += line;
  for (const CounterRow& row : counters()) {
    snprintf(line, sizeof line, "%-24s %-15s %12lld %12lld %12lld %6.2f  %s\n", row.kernel.c_str(), row.access,
             static_cast<long long>(row.instructions), static_cast<long long>(row.units),
             static_cast<long long>(row.minimum), static_cast<double>(row.units) / static_cast<double>(row.minimum),
             row.line.c_str());
    text += line;
  }
  return text;
}

void clear_counters() {
  state().totals.clear();
  clear_ring_rounds();
  clear_runs();
}

}  // namespace fastconv::emulator

// For ctypes. The table as text, cut off where it does not fit; returns the size it needs, the ending zero included.
extern "C" __attribute__((visibility("default"))) size_t fastconv_emulator_counters(char* text, size_t bytes) {
  const std::string table = fastconv::emulator::counter_table();
  if (bytes) snprintf(text, bytes, "%s", table.c_str());
  return table.size() + 1;
}
extern "C" __attribute__((visibility("default"))) int64_t fastconv_emulator_ring_rounds() {
  return fastconv::emulator::ring_rounds();
}
extern "C" __attribute__((visibility("default"))) void fastconv_emulator_clear_counters() {
  fastconv::emulator::clear_counters();
}
