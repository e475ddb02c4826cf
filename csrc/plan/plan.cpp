#include "plan.h"

#include <stdexcept>

namespace fastconv::plan {

namespace {

// An arena for the duration of a run.
class Lease {
 public:
  explicit Lease(ArenaPool& pool) : pool_(pool), arena_(pool.take()) {}
  ~Lease() {
    arena_->scratch.reset();  // a kernel may have thrown
    pool_.give_back(std::move(arena_));
  }
  Arena* operator->() const { return arena_.get(); }

 private:
  ArenaPool& pool_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace

Plan::Plan(std::vector<std::unique_ptr<Node>> nodes, size_t arena_bytes, size_t inputs, size_t outputs,
           std::shared_ptr<ArenaPool> pool)
    : nodes_(std::move(nodes)), arena_bytes_(arena_bytes), inputs_(inputs), outputs_(outputs), pool_(std::move(pool)) {
  pool_->enter(arena_bytes_);
}

Plan::~Plan() { pool_->leave(arena_bytes_); }

void Plan::run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) const {
  if (inputs.size() != inputs_ || outputs.size() != outputs_) {
    throw std::invalid_argument("plan: expected " + std::to_string(inputs_) + " inputs and " +
                                std::to_string(outputs_) + " outputs, but got " + std::to_string(inputs.size()) +
                                " and " + std::to_string(outputs.size()));
  }
  const Lease arena(*pool_);
  std::vector<char*> bases{arena->block.data()};
  bases.reserve(1 + inputs.size() + outputs.size());
  for (const uintptr_t address : inputs) bases.push_back(reinterpret_cast<char*>(address));
  for (const uintptr_t address : outputs) bases.push_back(reinterpret_cast<char*>(address));
  const CallContext context{&arena->scratch, nullptr};
  for (const auto& node : nodes_) {
    node->run(bases.data(), context);
    arena->scratch.reset();
  }
}

}  // namespace fastconv::plan
