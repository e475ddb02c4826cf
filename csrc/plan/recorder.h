// Making a plan by watching: while a recorder is installed on a thread, every kernel call of the torch layer is noted
// with the pointers it has at that moment, and runs as usual. The caller then says which addresses are which values;
// what a call reads from elsewhere (a copy made on the way, say) makes the recording useless, and is said.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/algorithm_table.h"
#include "plan.h"
#include "pointers.h"

namespace fastconv::plan {

// What a call does to a value: a part of it from `offset` bytes on. `view` is empty, or the extents and strides by
// which the call walks it, both of which a caller may exchange for others of the same extents.
struct Use {
  int64_t value = 0, offset = 0;
  bool writes = false;
  std::vector<int64_t> sizes, strides;
};

struct Noted {
  std::string op, algorithm;
  std::vector<Use> uses;
};

// Memory with a name: bytes [address, address + bytes) are value number `value`.
struct Named {
  uintptr_t address = 0;
  int64_t bytes = 0, value = 0;
};

// Where a value lies in the finished plan: base 0 is the arena, then the inputs, then the outputs. `strides` is empty
// where the value keeps those it was recorded with.
struct Placement {
  int base = 0;
  int64_t offset = 0;
  std::vector<int64_t> strides;
};

// The backend whose calls are recorded.
struct Target {
  void (*combine)(const CombineCall&, const CallContext&) = nullptr;
  // Short vectors can be read here, and arenas are the plans' own.
  bool on_host = true;
  // Of blocks, empty where the backend has none.
  const AlgorithmTable<InvertedResidualCall>* inverted_residual = nullptr;
  const AlgorithmTable<DepthwisePointwiseCall>* depthwise_pointwise = nullptr;
  const AlgorithmTable<ConvMaxPoolCall>* conv_max_pool = nullptr;
};

class Recorder {
 public:
  explicit Recorder(const Target& target) : target_(target) {}

  // The one that watches this thread; null most of the time.
  static Recorder*& current();

  void begin();
  // What was noted since begin(), in terms of the values in `known`; weights lie in `weights`. Value `result` (-1:
  // none) must have been written. A text instead says why the calls cannot be planned; then they are forgotten.
  std::pair<std::vector<Noted>, std::string> end(const std::vector<Named>& known, const std::vector<Named>& weights,
                                                 int64_t result);
  void forget();

  // A copy, a sum or a product, given by values and not by watching.
  struct Operand {
    int64_t value = 0, offset = 0;
    int dtype = 0;
    std::vector<int64_t> sizes, strides;
  };
  Noted combine(const std::string& what, const std::vector<Operand>& operands);

  // One call in the place of the last of a chain of recorded ones, whose inner tensors nobody else reads; none where
  // there is no such block, or its parts are preferred. Positions of other calls stay.
  std::optional<Noted> fuse(const std::vector<size_t>& positions);

  size_t size() const { return entries_.size(); }

  // The plan of all calls but those at the positions `left_out`; the recorder is empty then.
  std::shared_ptr<Plan> finish(const std::vector<Placement>& values, const std::set<size_t>& left_out,
                               size_t arena_bytes, size_t inputs, size_t outputs, std::shared_ptr<ArenaPool> pool);

  template <class Call>
  void note(const Call& call, typename CallNode<Call>::Run run, const std::string& op, const char* algorithm,
            typename CallNode<Call>::Check check = nullptr);
  // A call that cannot be recorded makes the recording useless.
  void refuse(std::string why) { refusal_ = std::move(why); }
  bool on_host() const { return target_.on_host; }
  // A tensor that a call being recorded may point to as a vector: on a device it lives as long as the plan.
  template <class Tensor>
  void keep(const Tensor& tensor) {
    if (!target_.on_host) kept_.push_back(std::make_shared<Tensor>(tensor));
  }

 private:
  struct Field {
    size_t at;
    bool writes, movable;
    int64_t value = 0, offset = 0;
  };
  struct Entry {
    std::unique_ptr<Node> node;
    std::vector<Field> fields;
    std::vector<size_t> weights;
  };
  template <class Call>
  class Visitor;

  template <class Call>
  Entry enter(const Call& call, typename CallNode<Call>::Run run, const std::string& op, const char* algorithm,
              typename CallNode<Call>::Check check) const;
  template <class Call>
  std::optional<Noted> replace(const AlgorithmTable<Call>& table, const Call& call, const std::string& op,
                               const std::vector<size_t>& positions);
  Noted describe(const Entry& entry) const;

  const Target target_;
  std::vector<Entry> entries_, pending_;
  std::vector<std::shared_ptr<void>> kept_;
  std::string refusal_;
};

// Collects the fields of a call that was copied into a node, and the vectors while they are there.
template <class Call>
class Recorder::Visitor {
 public:
  Visitor(Entry& entry, Call& call, size_t element, bool on_host)
      : entry_(entry), call_(call), element_(element), on_host_(on_host) {}

  void tensor(TensorView& view, bool writes) { add(&view, view.data, writes, true); }
  void rigid(TensorView& view, bool writes) { add(&view, view.data, writes, false); }
  template <class P>
  void address(P& pointer, bool writes) {
    add(&pointer, pointer, writes, false);
  }
  template <class P>
  void weight(P& pointer) {
    if (pointer) entry_.weights.push_back(place(&pointer));
  }
  template <class P>
  void spare(P& pointer, const void* packed) {
    if (packed) pointer = nullptr;
    weight(pointer);
  }
  void vector(const void*& pointer, int64_t elements) {
    if (!pointer || !on_host_) return;  // on a device: see keep()
    const size_t bytes = static_cast<size_t>(elements) * element_;
    auto copy = std::make_unique<char[]>(bytes);
    __builtin_memcpy(copy.get(), pointer, bytes);
    pointer = copy.get();
    entry_.node->vectors.push_back(std::move(copy));
  }

 private:
  size_t place(const void* field) const {
    return static_cast<size_t>(static_cast<const char*>(field) - reinterpret_cast<const char*>(&call_));
  }
  void add(const void* field, const void* pointer, bool writes, bool movable) {
    if (pointer) entry_.fields.push_back({place(field), writes, movable});
  }

  Entry& entry_;
  Call& call_;
  const size_t element_;
  const bool on_host_;
};

namespace detail {
template <class Call>
DType element_type(const Call& call) {
  return call.dtype;
}
inline DType element_type(const CombineCall& call) { return call.y.dtype; }
}  // namespace detail

template <class Call>
Recorder::Entry Recorder::enter(const Call& call, typename CallNode<Call>::Run run, const std::string& op,
                                const char* algorithm, typename CallNode<Call>::Check check) const {
  auto node = std::make_unique<CallNode<Call>>(call, run, check);
  node->op = op;
  node->algorithm = algorithm;
  Call& copy = *reinterpret_cast<Call*>(node->call());
  Entry entry{std::move(node), {}, {}};
  Visitor<Call> visitor(entry, copy, dtype_size(accumulate_dtype(detail::element_type(call))), target_.on_host);
  PointersOf<Call>::visit(copy, visitor);
  return entry;
}

template <class Call>
void Recorder::note(const Call& call, typename CallNode<Call>::Run run, const std::string& op, const char* algorithm,
                    typename CallNode<Call>::Check check) {
  if constexpr (PointersOf<Call>::kKnown) {
    pending_.push_back(enter(call, run, op, algorithm, check));
  } else {
    refusal_ = op + " has no plan";
  }
}

}  // namespace fastconv::plan
