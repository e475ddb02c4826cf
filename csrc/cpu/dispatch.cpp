// Chooses the instruction set: the best that the CPU has, unless FASTCONV_CPU_ISA names another. One row per ISA.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "../common/algorithm_table.h"
#include "cpu_kernels.h"

namespace fastconv::cpu {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kTable;
}
namespace avx2 {
extern const Kernels kTable;
}
#endif
namespace scalar {
extern const Kernels kTable;
}

namespace {

struct IsaRow {
  const Kernels* table;
  bool (*supported)();
};

const IsaRow kRows[] = {
#if defined(__x86_64__)
    {&avx512::kTable,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
    {&avx2::kTable,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }},
#endif
    {&scalar::kTable, [] { return true; }},
};
constexpr int kRowCount = sizeof(kRows) / sizeof(kRows[0]);

const Kernels* find(const std::string& name) {
  std::string names;
  for (const IsaRow& row : kRows) {
    if (name.empty() ? row.supported() : name == row.table->isa) {
      if (row.supported()) return row.table;
      throw NotServed("FASTCONV_CPU_ISA: this CPU does not have " + name);
    }
    names += (names.empty() ? "" : ", ") + std::string(row.table->isa);
  }
  throw std::invalid_argument("FASTCONV_CPU_ISA: expected one of " + names + ", but got '" + name + "'");
}

std::atomic<const Kernels*> current{nullptr};

void run_serially(int64_t size, int64_t, RangeFunction body, void* context) { body(context, 0, size); }

}  // namespace

const Kernels& kernels() {
  const Kernels* table = current.load(std::memory_order_acquire);
  if (!table) {
    const char* wanted = std::getenv("FASTCONV_CPU_ISA");
    table = find(wanted ? wanted : "");
    current.store(table, std::memory_order_release);
  }
  return *table;
}

const Kernels* const* available_kernels(int* count) {
  static const Kernels* tables[kRowCount];
  static const int found = [] {
    int n = 0;
    for (const IsaRow& row : kRows)
      if (row.supported()) tables[n++] = row.table;
    return n;
  }();
  *count = found;
  return tables;
}

void select_isa(const char* name) {
  current.store(find(name), std::memory_order_release);
  new_choice_epoch();
}

namespace {

std::atomic<int64_t> epoch{0};

std::atomic<bool>& winograd_flag() {
  static std::atomic<bool> flag{[] {
    const char* wanted = std::getenv("FASTCONV_WINOGRAD");
    const std::string text = wanted ? wanted : "";
    if (text.empty() || text == "0" || text == "1") return text != "0";
    throw std::invalid_argument("FASTCONV_WINOGRAD: expected 0 or 1, but got '" + text + "'");
  }()};
  return flag;
}

}  // namespace

bool winograd_allowed() { return winograd_flag().load(std::memory_order_relaxed); }

void allow_winograd(bool allowed) {
  winograd_flag().store(allowed, std::memory_order_relaxed);
  new_choice_epoch();
}

int64_t choice_epoch() { return epoch.load(std::memory_order_acquire); }
void new_choice_epoch() { epoch.fetch_add(1, std::memory_order_acq_rel); }

ThreadPool& thread_pool() {
  static ThreadPool pool{run_serially, [] { return 1; }};
  return pool;
}

}  // namespace fastconv::cpu
