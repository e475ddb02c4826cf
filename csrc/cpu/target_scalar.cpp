// The kernels compiled for any CPU. The build adds this file's flags; see buildtools/sources.py.
#define FASTCONV_ISA scalar
#include "simd/scalar.h"

#include "kernels/table.h"
