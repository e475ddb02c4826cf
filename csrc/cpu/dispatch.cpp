// Chooses the instruction set: the best that the CPU has, unless FASTCONV_CPU_ISA names another. One row per ISA.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "../common/algorithm_table.h"
#include "cpu_kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastconv::cpu {

#if defined(__x86_64__)
namespace amx {
extern const Bf16Kernels kTable;
}
namespace avx512_bf16 {
extern const Bf16Kernels kTable;
}
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

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && avx512_bf16::kTable.conv2d != nullptr;
}

// The tiles' registers are large: Linux keeps them for a process that has asked.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  static const bool has = has_avx512_bf16() && amx::kTable.conv2d != nullptr && __builtin_cpu_supports("amx-tile") &&
                          __builtin_cpu_supports("amx-bf16") && may_use_tiles();
  return has;
}

// AVX-512's table with bfloat16 kernels added.
Kernels extended(const char* isa, const Bf16Kernels* amx_kernels) {
  Kernels k = avx512::kTable;
  k.isa = isa;
  k.amx = amx_kernels;
  k.avx512_bf16 = &avx512_bf16::kTable;
  return k;
}
const Kernels kAmx = extended("amx", &amx::kTable), kAvx512Bf16 = extended("avx512_bf16", nullptr);
#endif

const IsaRow kRows[] = {
#if defined(__x86_64__)
    {&kAmx, has_amx},
    {&kAvx512Bf16, has_avx512_bf16},
    {&avx512::kTable, has_avx512},
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

void select_isa(const char* name) { current.store(find(name), std::memory_order_release); }

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

void allow_winograd(bool allowed) { winograd_flag().store(allowed, std::memory_order_relaxed); }

int64_t choice_epoch() {
  int64_t row = 0;
  while (row < kRowCount && kRows[row].table != &kernels()) ++row;
  return (epoch.load(std::memory_order_acquire) * (kRowCount + 1) + row) * 2 + winograd_allowed();
}
void new_choice_epoch() { epoch.fetch_add(1, std::memory_order_acq_rel); }

bool fast_bf16_pairs() {
#if defined(__x86_64__)
  static const bool fast = __builtin_cpu_is("amd");
  return fast && kernels().avx512_bf16 != nullptr;
#else
  return false;
#endif
}

const Bf16Kernels* bf16_kernels() {
  const Kernels& table = kernels();
  return table.amx || !fast_bf16_pairs() ? table.amx : table.avx512_bf16;
}

ThreadPool& thread_pool() {
  static ThreadPool pool{run_serially, [] { return 1; }};
  return pool;
}

}  // namespace fastconv::cpu
