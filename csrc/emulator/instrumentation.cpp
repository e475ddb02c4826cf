// Where the compiler's instrumentation arrives. Kernels are compiled with -fsanitize=thread and -fsanitize=bounds but
// linked without their runtimes: these functions take the calls instead. Outside kernels they do nothing.
#include "machine.h"

namespace fastconv::emulator {
namespace {

// Whether the caller is a kernel. Launchers are instrumented too, and those of other host threads may run meanwhile;
// only kernels run on the stacks of fibers.
inline bool watching() {
  const Machine* m = the_machine;
  return m && m->checking && m->stacks.contains(__builtin_frame_address(0));
}

inline void access(const void* address, size_t bytes, AccessKind kind, bool aligned, void* return_address) {
  if (!watching()) return;
  Machine& m = machine();
  if (--m.work_left < 0) report_runaway();
  memory_access(address, bytes, kind, aligned, Site{m.image.code_offset(return_address), {nullptr, 0}});
}

}  // namespace

// What -fsanitize=bounds passes: the position of the subscript, and the two types, which are of no interest here.
struct BoundsData {
  struct {
    const char* file;
    uint32_t line, column;
  } position;
  const void *array_type, *index_type;
};

}  // namespace fastconv::emulator

using fastconv::emulator::access;
using fastconv::emulator::AccessKind;

#define FASTCONV_TSAN_ACCESS(name, bytes, kind, aligned) \
  void __tsan_##name(void* p) { access(p, bytes, AccessKind::kind, aligned, __builtin_return_address(0)); }
#define FASTCONV_TSAN_SIZE(bytes)                                           \
  FASTCONV_TSAN_ACCESS(read##bytes, bytes, kRead, true)                     \
  FASTCONV_TSAN_ACCESS(write##bytes, bytes, kWrite, true)                   \
  FASTCONV_TSAN_ACCESS(volatile_read##bytes, bytes, kRead, true)            \
  FASTCONV_TSAN_ACCESS(volatile_write##bytes, bytes, kWrite, true)          \
  FASTCONV_TSAN_ACCESS(unaligned_read##bytes, bytes, kRead, false)          \
  FASTCONV_TSAN_ACCESS(unaligned_write##bytes, bytes, kWrite, false)        \
  FASTCONV_TSAN_ACCESS(unaligned_volatile_read##bytes, bytes, kRead, false) \
  FASTCONV_TSAN_ACCESS(unaligned_volatile_write##bytes, bytes, kWrite, false)

extern "C" {
FASTCONV_TSAN_SIZE(1)
FASTCONV_TSAN_SIZE(2)
FASTCONV_TSAN_SIZE(4)
FASTCONV_TSAN_SIZE(8)
FASTCONV_TSAN_SIZE(16)
void __tsan_read_range(void* p, size_t bytes) {
  access(p, bytes, AccessKind::kRead, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  access(p, bytes, AccessKind::kWrite, false, __builtin_return_address(0));
}
// Launchers have function-local statics, whose guards are read atomically.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}

void __ubsan_handle_out_of_bounds(void* data, uintptr_t index) {
  using namespace fastconv::emulator;
  if (!watching()) return;
  const auto& position = static_cast<const BoundsData*>(data)->position;
  report_and_abandon("index-out-of-range", Site{0, {position.file, static_cast<int>(position.line)}},
                     "index " + std::to_string(static_cast<intptr_t>(index)) + " of an array at {0}");
}
void __ubsan_handle_out_of_bounds_abort(void* data, uintptr_t index) { __ubsan_handle_out_of_bounds(data, index); }
}
