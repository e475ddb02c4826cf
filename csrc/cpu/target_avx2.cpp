// The kernels compiled for AVX2 + FMA + F16C. The build adds this file's flags; see buildtools/sources.py.
#define FASTCONV_ISA avx2
#include "simd/avx2.h"

#include "kernels/table.h"
