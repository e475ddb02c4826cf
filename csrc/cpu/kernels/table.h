// Fills the function table of one instruction set. Included by target_<isa>.cpp after its simd/<isa>.h; a new kernel is
// an include and a line here.
#pragma once

#include "../cpu_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {

static Kernels make_table() {
  Kernels k{};
  k.isa = kIsaName;
  k.vector_bytes = kVectorBytes;
  return k;
}

extern const Kernels kTable;
const Kernels kTable = make_table();

}  // namespace fastconv::cpu::FASTCONV_ISA
