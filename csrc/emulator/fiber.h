// Fibers: a stack and a saved machine context for each CUDA thread. On x86-64 a switch is a few pushes and pops (20 to
// 40 ns); elsewhere, or with FASTCONV_EMULATOR_UCONTEXT defined, it is swapcontext (about 300 ns: a system call).
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(FASTCONV_EMULATOR_UCONTEXT)
#define FASTCONV_EMULATOR_UCONTEXT
#endif
#ifdef FASTCONV_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace fastconv::emulator {

struct MachineContext {
#ifdef FASTCONV_EMULATOR_UCONTEXT
  ucontext_t state;
#else
  void* stack_pointer;
#endif
};

// Prepares `context` so that the first switch to it calls entry(), which must never return, on [low, top).
void make_context(MachineContext& context, char* low, char* top, void (*entry)());
void switch_context(MachineContext& from, MachineContext& to);

// Stacks of equal size, each above a page that cannot be touched, kept for the life of the process.
class StackPool {
 public:
  // Far more than kernels use: g++ gives instrumented code frames that ptxas would keep in registers.
  static constexpr size_t kStackBytes = 256 << 10;
  static constexpr size_t kGuardBytes = 64 << 10;  // at least a page on every Linux

  void reserve(int count);
  char* low(int index) const { return memory_ + index * kStackBytes + kGuardBytes; }
  char* top(int index) const { return memory_ + (index + 1) * kStackBytes; }
  bool contains(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - memory_) < count_ * kStackBytes;
  }

 private:
  char* memory_ = nullptr;
  size_t count_ = 0;
};

}  // namespace fastconv::emulator
