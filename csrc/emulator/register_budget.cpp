// setmaxnreg: a block starts with as many registers as its threads are compiled for, and warpgroups give them back and
// take them. The emulator does not know what ptxas chose; it assumes the most that one block on a multiprocessor can
// have.
#include <algorithm>

#include "device_registers.h"
#include "machine.h"

namespace fastconv::emulator {
namespace {

constexpr int kRegistersOfMultiprocessor = 65536, kGranularity = 8, kMaxRegisters = 255;

std::string state(const Fiber& fiber) {
  return ": the block has " + std::to_string(machine().blocks[fiber.context->cluster_rank].registers.free) +
         " registers to spare";
}

}  // namespace

void set_max_registers(int registers, bool increase, Caller caller) {
  Machine& m = machine();
  RegisterBudget& budget = m.block().registers;
  const Site site{0, caller};
  const std::string name = std::string(increase ? "setmaxnreg.inc" : "setmaxnreg.dec") + " at {0}: ";
  if (budget.held.empty()) {
    const int each = std::min(kRegistersOfMultiprocessor / m.threads, kMaxRegisters) / kGranularity * kGranularity;
    budget.held.assign(static_cast<size_t>(m.threads), each);
  }
  if (registers % kGranularity != 0 || registers < 24 || registers > 256) {
    report_and_abandon("register-budget", site,
                       name + std::to_string(registers) + " is not a multiple of 8 between 24 and 256");
  }
  int& mine = budget.held[static_cast<size_t>(m.current->context->thread)];
  if (increase ? registers < mine : registers > mine) {
    report_and_abandon(
        "register-budget", site,
        name + "the thread has " + std::to_string(mine) + " registers and asks for " + std::to_string(registers));
  }
  if (!increase) {
    budget.free += mine - registers;
    mine = registers;
    wake_waiting(budget.waiting);
    return;
  }
  while (registers - mine > budget.free) {
    budget.waiting.push_back(m.current);
    m.block_current("setmaxnreg.inc", caller, state);
  }
  budget.free -= registers - mine;
  mine = registers;
}

}  // namespace fastconv::emulator
