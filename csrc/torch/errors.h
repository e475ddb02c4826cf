// How a failure leaves C++. A std::invalid_argument is a ValueError in Python by itself; a NotServed has no counterpart
// in the stable ABI, so its message carries a mark that fastconv/functional/errors.py turns into NotImplementedError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "../common/algorithm_table.h"

namespace fastconv::ops {

constexpr const char* kNotServedMark = "[fastconv: not served] ";

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  ((out << parts), ...);
  return out.str();
}

template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void refuse(const Parts&... parts) {
  throw std::invalid_argument(concat(parts...));
}

// Throws std::invalid_argument with the parts as its text. The parts are evaluated in any case: keep them cheap.
template <class... Parts>
inline void require(bool condition, const Parts&... parts) {
  if (__builtin_expect(!condition, 0)) refuse(parts...);
}

}  // namespace fastconv::ops
