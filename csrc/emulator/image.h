// The executable or shared library that holds this code: where it is mapped, which source line an instruction came
// from, and which __shared__ variables (its thread_local segment) it has. Linux and ELF only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fastconv::emulator {

struct SharedVariable {
  size_t offset, bytes;  // in the thread_local segment
  std::string name;
  // Start of the function it is declared in, as an offset in the image; 0 when that function exists in inlined copies
  // only, as device functions do, or is not known.
  uint32_t function;
};

class Image {
 public:
  // Finds the image; once.
  void load();
  // Start of the calling host thread's copy of the thread_local segment.
  char* thread_segment() const;
  size_t thread_segment_bytes() const { return segment_bytes_; }
  const std::vector<SharedVariable>& shared_variables() const { return variables_; }
  // The number of the variable that holds byte `offset` of the segment, or -1.
  int variable_at(size_t offset) const { return offset < variable_of_byte_.size() ? variable_of_byte_[offset] : -1; }

  bool contains(const void* address) const;  // code and data, not the thread_local segment
  uint32_t code_offset(const void* code) const {
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) - base_);
  }
  // "file.cu:12", followed by " (inlined at other.cu:34)" for inlined code; "library+0x1234" without line numbers.
  std::string source_line(uint32_t code_offset);

 private:
  void read_symbols();

  bool loaded_ = false;
  uintptr_t base_ = 0, low_ = 0, high_ = 0;
  std::string path_;
  size_t segment_bytes_ = 0, anchor_offset_ = 0;
  std::vector<SharedVariable> variables_;
  std::vector<int> variable_of_byte_;
  std::map<uint32_t, std::string> lines_;
};

}  // namespace fastconv::emulator
