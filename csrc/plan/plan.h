// A network, or a stretch of one, for one set of shapes: a flat list of kernel calls whose pointers are filled in at
// each run from a few base addresses (the arena, the inputs, the outputs).
#pragma once

#include <memory>
#include <string>
#include <vector>

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
  virtual char* call() = 0;

  std::string op, algorithm;
  std::vector<Patch> patches;
  std::vector<std::unique_ptr<char[]>> vectors;  // what the call's pointers to short vectors point to
};

template <class Call>
class CallNode final : public Node {
 public:
  using Run = void (*)(const Call&, const CallContext&);

  CallNode(const Call& call, Run run) : call_(call), run_(run) {}

  void run(char* const* bases, const CallContext& context) const override {
    Call call = call_;
    for (const Patch& patch : patches) {
      char* const address = bases[patch.base] + patch.offset;
      __builtin_memcpy(reinterpret_cast<char*>(&call) + patch.at, &address, sizeof address);
    }
    run_(call, context);
  }
  char* call() override { return reinterpret_cast<char*>(&call_); }

 private:
  Call call_;
  const Run run_;
};

class Plan {
 public:
  Plan(std::vector<std::unique_ptr<Node>> nodes, size_t arena_bytes, size_t inputs, size_t outputs,
       std::shared_ptr<ArenaPool> pool);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Addresses of the inputs, which are not written to, and of the outputs. Safe from several threads at once.
  void run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) const;

  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  size_t arena_bytes() const { return arena_bytes_; }

 private:
  const std::vector<std::unique_ptr<Node>> nodes_;
  const size_t arena_bytes_, inputs_, outputs_;
  const std::shared_ptr<ArenaPool> pool_;
};

}  // namespace fastconv::plan
