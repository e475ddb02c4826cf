#include "arena.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <numeric>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastconv::plan {

namespace {

constexpr int64_t kAlignment = 64;
constexpr size_t kHugePage = 2 << 20;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

std::pair<std::vector<int64_t>, int64_t> place_blocks(const std::vector<Block>& blocks) {
  std::vector<int64_t> offsets(blocks.size(), 0);
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<size_t> placed;  // by offset
  int64_t total = 0;
  for (const size_t i : order) {
    const Block& block = blocks[i];
    const int64_t bytes = aligned(block.bytes);
    int64_t end = 0, best = -1, best_gap = INT64_MAX;
    for (const size_t j : placed) {
      if (blocks[j].last < block.first || block.last < blocks[j].first) continue;
      const int64_t gap = offsets[j] - end;
      if (gap >= bytes && gap < best_gap) best = end, best_gap = gap;
      end = std::max(end, offsets[j] + aligned(blocks[j].bytes));
    }
    offsets[i] = best >= 0 ? best : end;
    total = std::max(total, offsets[i] + bytes);
    const auto behind = [&](size_t a, size_t b) { return offsets[a] < offsets[b]; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), i, behind), i);
  }
  return {offsets, total};
}

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const bool large = bytes >= 2 * kHugePage;
  const size_t alignment = large ? kHugePage : static_cast<size_t>(kAlignment);
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, whole);
  if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (large) madvise(data, whole, MADV_HUGEPAGE);  // refused: nothing lost
#endif
  data_.reset(static_cast<char*>(data));
}

void Memory::Free::operator()(char* p) const { std::free(p); }

void* Scratch::allocate(size_t bytes) {
  const size_t whole = (std::max<size_t>(bytes, 1) + 63) / 64 * 64;
  wanted_ += whole;
  if (used_ + whole <= block_.bytes()) {
    used_ += whole;
    return block_.data() + used_ - whole;
  }
  overflow_.emplace_back(whole);
  return overflow_.back().data();
}

void Scratch::reset() {
  if (!overflow_.empty()) {
    overflow_.clear();
    block_ = Memory();  // first, so that both never exist at once
    block_ = Memory(wanted_);
  }
  used_ = wanted_ = 0;
}

void* GivenScratch::allocate(size_t bytes) {
  const size_t whole = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ + whole > bytes_) throw TooSmall{used_ + whole};
  used_ += whole;
  return data_ + used_ - whole;
}

void ArenaPool::enter(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sizes_.insert(bytes);
}

void ArenaPool::leave(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sizes_.erase(sizes_.find(bytes));
  if (sizes_.empty()) return free_.clear();
  const size_t most = largest();
  free_.erase(
      std::remove_if(free_.begin(), free_.end(), [&](const auto& arena) { return arena->block.bytes() > most; }),
      free_.end());
}

std::unique_ptr<Arena> ArenaPool::take() {
  std::unique_ptr<Arena> arena;
  size_t wanted;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    wanted = largest();
    if (!free_.empty()) {
      arena = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!arena) arena = std::make_unique<Arena>();
  if (arena->block.bytes() < wanted) {
    arena->block = Memory();
    arena->block = Memory(wanted);
  }
  return arena;
}

void ArenaPool::give_back(std::unique_ptr<Arena> arena) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.size() < kKept && arena->block.bytes() <= largest()) free_.push_back(std::move(arena));
}

size_t ArenaPool::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t sum = 0;
  for (const auto& arena : free_) sum += arena->bytes();
  return sum;
}

size_t ArenaPool::count() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return free_.size();
}

}  // namespace fastconv::plan
