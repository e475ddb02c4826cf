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

Plan::Plan(std::vector<std::unique_ptr<Node>> nodes, std::vector<std::shared_ptr<void>> kept, size_t arena_bytes,
           size_t inputs, size_t outputs, std::shared_ptr<ArenaPool> pool)
    : nodes_(std::move(nodes)),
      kept_(std::move(kept)),
      arena_bytes_(arena_bytes),
      inputs_(inputs),
      outputs_(outputs),
      pool_(std::move(pool)) {
  if (pool_) pool_->enter(arena_bytes_);
}

Plan::~Plan() {
  if (pool_) pool_->leave(arena_bytes_);
}

std::vector<char*> Plan::bases(char* arena, const std::vector<uintptr_t>& inputs,
                               const std::vector<uintptr_t>& outputs) const {
  if (inputs.size() != inputs_ || outputs.size() != outputs_) {
    throw std::invalid_argument("plan: expected " + std::to_string(inputs_) + " inputs and " +
                                std::to_string(outputs_) + " outputs, but got " + std::to_string(inputs.size()) +
                                " and " + std::to_string(outputs.size()));
  }
  std::vector<char*> bases{arena};
  bases.reserve(1 + inputs.size() + outputs.size());
  for (const uintptr_t address : inputs) bases.push_back(reinterpret_cast<char*>(address));
  for (const uintptr_t address : outputs) bases.push_back(reinterpret_cast<char*>(address));
  return bases;
}

void Plan::run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) const {
  if (!pool_) throw std::logic_error("plan: it was made for a device");
  const Lease arena(*pool_);
  const std::vector<char*> bases = this->bases(arena->block.data(), inputs, outputs);
  const CallContext context{&arena->scratch, nullptr};
  for (const auto& node : nodes_) {
    node->run(bases.data(), context);
    arena->scratch.reset();
  }
}

size_t Plan::run_on(const DeviceRun& device, size_t first, const std::vector<uintptr_t>& inputs,
                    const std::vector<uintptr_t>& outputs) const {
  const std::vector<char*> bases = this->bases(device.arena, inputs, outputs);
  for (size_t i = first; i < nodes_.size(); ++i) {
    const Node& node = *nodes_[i];
    GivenScratch scratch(device.scratch, device.scratch_bytes);
    try {
      node.run(bases.data(), {&scratch, device.stream});
    } catch (const GivenScratch::TooSmall& small) {
      size_t seen = scratch_bytes_.load(std::memory_order_relaxed);
      while (small.wanted > seen && !scratch_bytes_.compare_exchange_weak(seen, small.wanted)) {
      }
      return i;
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(node.op + " (" + node.algorithm + ", call " + std::to_string(i) +
                               " of a plan): " + error.what());
    }
  }
  return nodes_.size();
}

std::string Plan::refusal() const {
  std::vector<char*> bases;
  for (size_t i = 0; i < 1 + inputs_ + outputs_; ++i) bases.push_back(reinterpret_cast<char*>((i + 1) << 40));
  for (const auto& node : nodes_) {
    const Reasons reasons = node->reasons_against(bases.data());
    if (!reasons.empty()) return node->op + " (" + node->algorithm + "): " + join_reasons(reasons);
  }
  return "";
}

}  // namespace fastconv::plan
