// FASTCONV_SM90("ptx" : outputs : inputs : clobbers): an instruction that Hopper was the first to have. Code for older
// architectures, which no table row sends there, traps instead. For primitives only.
#pragma once

#if __CUDA_ARCH__ >= 900
#define FASTCONV_SM90(...) asm volatile(__VA_ARGS__)
#else
#define FASTCONV_SM90(...) __trap()
#endif
