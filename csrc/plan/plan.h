// A network, or a stretch of one, for one set of shapes: a flat list of kernel calls whose pointers are filled in at
// each run from a few base addresses (the arena, the inputs, the outputs).
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "../common/algorithm_table.h"
#include "arena.h"

namespace fastconv::plan {

// A kernel call with every pointer of a tensor left open.
class Node {
 public:
  // The pointer `at` bytes into the call is bases[base] + offset.
  struct Patch {
    size_t at;
    int base;
    int64_t offset;
  };

  virtual ~Node() = default;
  virtual void run(char* const* bases, const CallContext& context) const = 0;
  // What speaks against the algorithm for the call as it is where these bases place it.
  virtual Reasons reasons_against(char* const* bases) const = 0;
  virtual char* call() = 0;

  std::string op, algorithm;
  std::vector<Patch> patches;
  std::vector<std::unique_ptr<char[]>> vectors;  // what the call's pointers to short vectors point to
};

template <class Call>
class CallNode final : public Node {
 public:
  using Run = void (*)(const Call&, const CallContext&);
  using Check = Reasons (*)(const Call&);

  // `check` null: serves whatever it is given.
  CallNode(const Call& call, Run run, Check check) : call_(call), run_(run), check_(check) {}

  void run(char* const* bases, const CallContext& context) const override { run_(placed(bases), context); }
  Reasons reasons_against(char* const* bases) const override { return check_ ? check_(placed(bases)) : Reasons{}; }
  char* call() override { return reinterpret_cast<char*>(&call_); }

 private:
  Call placed(char* const* bases) const {
    Call call = call_;
    for (const Patch& patch : patches) {
      char* const address = bases[patch.base] + patch.offset;
      __builtin_memcpy(reinterpret_cast<char*>(&call) + patch.at, &address, sizeof address);
    }
    return call;
  }

  Call call_;
  const Run run_;
  const Check check_;
};

// Where and with what memory a plan of a GPU's kernels runs: the caller's, since a GPU's allocator is torch's.
struct DeviceRun {
  void* stream = nullptr;
  char* arena = nullptr;
  char* scratch = nullptr;  // of one kernel call at a time
  size_t scratch_bytes = 0;
};

class Plan {
 public:
  // `pool` null: it only runs on a device.
  Plan(std::vector<std::unique_ptr<Node>> nodes, std::vector<std::shared_ptr<void>> kept, size_t arena_bytes,
       size_t inputs, size_t outputs, std::shared_ptr<ArenaPool> pool);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Addresses of the inputs, which are not written to, and of the outputs. Safe from several threads at once.
  void run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) const;

  // Runs the calls from number `first` on. Returns the number of calls, or that of the first one for which the scratch
  // does not do: then scratch_bytes() has grown to what it asked for, and the run goes on from there.
  size_t run_on(const DeviceRun& device, size_t first, const std::vector<uintptr_t>& inputs,
                const std::vector<uintptr_t>& outputs) const;
  size_t scratch_bytes() const { return scratch_bytes_.load(std::memory_order_relaxed); }

  // Why a call cannot run where its tensors were placed; empty: all can. Bases are taken to be aligned.
  std::string refusal() const;

  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  size_t arena_bytes() const { return arena_bytes_; }

 private:
  std::vector<char*> bases(char* arena, const std::vector<uintptr_t>& inputs,
                           const std::vector<uintptr_t>& outputs) const;

  const std::vector<std::unique_ptr<Node>> nodes_;
  const std::vector<std::shared_ptr<void>> kept_;  // tensors that calls point to
  const size_t arena_bytes_, inputs_, outputs_;
  mutable std::atomic<size_t> scratch_bytes_{0};  // the most that a call has asked for
  const std::shared_ptr<ArenaPool> pool_;
};

}  // namespace fastconv::plan
