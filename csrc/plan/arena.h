// The memory that plans run in: one block for all activations of a run, laid out beforehand, and the kernels' scratch,
// which is kept from call to call. Concurrent runs take an arena each from a pool.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "../common/calls.h"

namespace fastconv::plan {

// Where each block lies, and how many bytes all of them take: blocks whose spans of steps [first, last] meet do not
// overlap. Largest first, each at the smallest gap that holds it; offsets are multiples of 64 bytes.
struct Block {
  int64_t bytes, first, last;
};
std::pair<std::vector<int64_t>, int64_t> place_blocks(const std::vector<Block>& blocks);

// Bytes aligned to a cache line; large blocks to a page of 2 MiB, which the system is asked for.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);
  char* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* p) const;
  };
  std::unique_ptr<char, Free> data_;
  size_t bytes_ = 0;
};

// Scratch of one kernel call at a time. What a call could not get from the block comes from overflow, and the block
// has grown to that size when the call is over: the second run of a plan allocates nothing.
class Scratch final : public Workspace {
 public:
  void* allocate(size_t bytes) override;
  void reset();
  size_t bytes() const { return block_.bytes(); }

 private:
  Memory block_;
  size_t used_ = 0;    // of the block
  size_t wanted_ = 0;  // by this call
  std::vector<Memory> overflow_;
};

// Scratch in memory that somebody else owns, for one kernel call on a device.
class GivenScratch final : public Workspace {
 public:
  struct TooSmall {
    size_t wanted;
  };

  GivenScratch(char* data, size_t bytes) : data_(data), bytes_(bytes) {}
  // Throws TooSmall, with what the call has asked for so far.
  void* allocate(size_t bytes) override;

 private:
  static constexpr size_t kAlignment = 256;

  char* const data_;
  const size_t bytes_;
  size_t used_ = 0;
};

struct Arena {
  Memory block;
  Scratch scratch;
  size_t bytes() const { return block.bytes() + scratch.bytes(); }
};

// Arenas of all plans of one network: as large as the largest living plan needs, as many as ever ran at once, up to a
// bound.
class ArenaPool {
 public:
  static constexpr size_t kKept = 8;

  // A plan begins and ceases to exist.
  void enter(size_t bytes);
  void leave(size_t bytes);

  std::unique_ptr<Arena> take();
  void give_back(std::unique_ptr<Arena> arena);

  size_t bytes() const;  // of the arenas that wait; those in use count when they are back
  size_t count() const;

 private:
  size_t largest() const { return sizes_.empty() ? 0 : *sizes_.rbegin(); }

  mutable std::mutex mutex_;
  std::multiset<size_t> sizes_;
  std::vector<std::unique_ptr<Arena>> free_;
};

}  // namespace fastconv::plan
