// The bfloat16 kernels compiled for AMX tiles. The build adds this file's flags where the compiler knows them;
// elsewhere the table stays empty, and the instruction set counts as not there.
#define FASTCONV_ISA amx
#include "cpu_kernels.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include "simd/amx.h"
#include "simd/avx512.h"

#include "kernels/bf16_calls.h"
#endif

namespace fastconv::cpu::FASTCONV_ISA {

// A constant expression: no code of this translation unit may run while the library loads.
extern const Bf16Kernels kTable;
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
constexpr Bf16Kernels kTable = bf16::make_table();
#else
constexpr Bf16Kernels kTable{};
#endif

}  // namespace fastconv::cpu::FASTCONV_ISA
