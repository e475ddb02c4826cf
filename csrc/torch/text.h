// A text argument of an operator. torch's own conversion of std::string (up to 2.13) copies the characters into a new
// string that nobody deletes: 48 bytes for each text of each call.
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <string>

namespace fastconv::ops {

struct Text : std::string {
  using std::string::string;
};

}  // namespace fastconv::ops

namespace torch::stable::detail {

template <>
struct ToImpl<fastconv::ops::Text> {
  static fastconv::ops::Text call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    fastconv::ops::Text text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

}  // namespace torch::stable::detail
