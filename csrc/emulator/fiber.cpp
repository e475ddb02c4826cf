#include "fiber.h"

#include <sys/mman.h>

#include <new>

namespace fastconv::emulator {

#ifdef FASTCONV_EMULATOR_UCONTEXT

void make_context(MachineContext& context, char* low, char* top, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = low;
  context.state.uc_stack.ss_size = static_cast<size_t>(top - low);
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

void switch_context(MachineContext& from, MachineContext& to) { swapcontext(&from.state, &to.state); }

#else

// Callee-saved registers of the System V ABI go onto the old stack, the new stack's come off it. The floating-point
// control words are left alone: kernels do not change them.
extern "C" __attribute__((visibility("hidden"))) void fastconv_emulator_switch(void** save, void* restore);
asm(R"(
.text
.p2align 4
.hidden fastconv_emulator_switch
.globl fastconv_emulator_switch
.type fastconv_emulator_switch, @function
fastconv_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastconv_emulator_switch, .-fastconv_emulator_switch
)");

void make_context(MachineContext& context, char*, char* top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // the return address of entry(), and the alignment the ABI asks for at a function's entry
  *--stack = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--stack = nullptr;
  context.stack_pointer = stack;
}

void switch_context(MachineContext& from, MachineContext& to) {
  fastconv_emulator_switch(&from.stack_pointer, to.stack_pointer);
}

#endif

void StackPool::reserve(int count) {
  if (static_cast<size_t>(count) <= count_) return;
  void* memory =
      mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (memory_) munmap(memory_, count_ * kStackBytes);
  memory_ = static_cast<char*>(memory);
  count_ = static_cast<size_t>(count);
  for (int i = 0; i < count; ++i) mprotect(memory_ + i * kStackBytes, kGuardBytes, PROT_NONE);
}

}  // namespace fastconv::emulator
