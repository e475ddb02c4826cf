// The kernels compiled for AVX-512 (F, BW, DQ, VL). The build adds this file's flags; see buildtools/sources.py.
#define FASTCONV_ISA avx512
#include "simd/avx512.h"

#include "kernels/table.h"
