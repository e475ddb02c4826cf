// Fills the function table of one instruction set. Included by target_<isa>.cpp after its simd/<isa>.h; a new kernel is
// an include and a line here.
#pragma once

#include "../cpu_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr Kernels make_table() {
  Kernels k{};
  k.isa = kIsaName;
  k.vector_bytes = kVectorBytes;
  return k;
}

// A constant expression: no code of this translation unit may run while the library loads, on a CPU without the ISA.
extern const Kernels kTable;
constexpr Kernels kTable = make_table();

}  // namespace fastconv::cpu::FASTCONV_ISA
