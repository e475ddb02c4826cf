// What lets one header serve the host compiler, nvcc and the emulator.
#pragma once

#if defined(__CUDACC__)
#define FC_HOST_DEVICE __host__ __device__
#define FC_INLINE __forceinline__
#else
#define FC_HOST_DEVICE
#define FC_INLINE inline __attribute__((always_inline))
#endif
