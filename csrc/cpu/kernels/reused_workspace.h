// Scratch for a call that is a sequence of like tasks: a Workspace gives nothing back before the call returns.
#pragma once

#include "../../common/calls.h"

namespace fastconv::cpu::FASTCONV_ISA {

// For tasks that run one after the other and ask for the same scratch: hands out what the task before had.
class ReusedWorkspace final : public Workspace {
 public:
  explicit ReusedWorkspace(Workspace& source) : source_(source) {}
  void* allocate(size_t bytes) override {
    if (next_ == kPieces) return source_.allocate(bytes);
    Piece& piece = pieces_[next_++];
    if (piece.bytes < bytes) piece = {source_.allocate(bytes), bytes};
    return piece.data;
  }
  void reuse() { next_ = 0; }

 private:
  static constexpr int kPieces = 16;
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  };
  Workspace& source_;
  Piece pieces_[kPieces];
  int next_ = 0;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
