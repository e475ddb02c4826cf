// How the libraries of test kernels are called from Python: C functions that give an exception's text.
#pragma once

#include <cstdio>
#include <exception>

#define FASTCONV_EXPORT extern "C" __attribute__((visibility("default")))

// 0, or 1 with what f() has thrown in `error`.
template <class F>
int guarded(char* error, size_t error_bytes, F&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    snprintf(error, error_bytes, "%s", e.what());
    return 1;
  }
}
