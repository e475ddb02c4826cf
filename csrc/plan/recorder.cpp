#include "recorder.h"

#include <stdexcept>

namespace fastconv::plan {

namespace {

template <class T>
T& field_at(Node& node, size_t at) {
  return *reinterpret_cast<T*>(node.call() + at);
}

const Named* holder_of(uintptr_t address, const std::vector<Named>& known) {
  for (const Named& named : known) {
    if (address >= named.address && address < named.address + static_cast<uintptr_t>(named.bytes)) return &named;
  }
  return nullptr;
}

TensorView view_of(const Recorder::Operand& operand) {
  if (operand.sizes.size() != 4 || operand.strides.size() != 4) {
    throw std::invalid_argument("plan: expected operands of four dimensions");
  }
  TensorView view;
  view.dtype = static_cast<DType>(operand.dtype);
  for (size_t d = 0; d < 4; ++d) view.size[d] = operand.sizes[d], view.stride[d] = operand.strides[d];
  return view;
}

}  // namespace

Recorder*& Recorder::current() {
  thread_local Recorder* recorder = nullptr;
  return recorder;
}

void Recorder::begin() {
  forget();
  current() = this;
}

void Recorder::forget() {
  current() = nullptr;
  pending_.clear();
  refusal_.clear();
}

Noted Recorder::describe(const Entry& entry) const {
  Noted noted{entry.node->op, entry.node->algorithm, {}};
  for (const Field& field : entry.fields) {
    Use use{field.value, field.offset, field.writes, {}, {}};
    if (field.movable) {
      const TensorView& view = field_at<TensorView>(*entry.node, field.at);
      use.sizes.assign(view.size, view.size + 4);
      use.strides.assign(view.stride, view.stride + 4);
    }
    noted.uses.push_back(std::move(use));
  }
  return noted;
}

std::pair<std::vector<Noted>, std::string> Recorder::end(const std::vector<Named>& known,
                                                         const std::vector<Named>& weights, int64_t result) {
  current() = nullptr;
  std::vector<Noted> noted;
  bool made = result < 0;
  for (Entry& entry : pending_) {
    for (Field& field : entry.fields) {
      const auto address = reinterpret_cast<uintptr_t>(field_at<void*>(*entry.node, field.at));
      const Named* holder = holder_of(address, known);
      if (!holder) {
        refusal_ = entry.node->op + (field.writes ? " writes to" : " reads") + " memory that is no value of the graph";
        break;
      }
      field.value = holder->value;
      field.offset = static_cast<int64_t>(address - holder->address);
      made = made || (field.writes && field.value == result);
    }
    for (const size_t at : entry.weights) {
      const auto address = reinterpret_cast<uintptr_t>(field_at<void*>(*entry.node, at));
      if (!holder_of(address, weights)) refusal_ = entry.node->op + " reads a weight that was made for this call";
    }
  }
  if (refusal_.empty() && !made) refusal_ = "what it returns was made by torch";
  const std::string refusal = std::move(refusal_);
  if (refusal.empty()) {
    for (Entry& entry : pending_) {
      noted.push_back(describe(entry));
      entries_.push_back(std::move(entry));
    }
  }
  forget();
  return {std::move(noted), refusal};
}

Noted Recorder::combine(const std::string& what, const std::vector<Operand>& operands) {
  CombineCall call;
  const bool copy = what == "copy";
  if (!copy && what != "add" && what != "mul") throw std::invalid_argument("plan: no operation " + what);
  if (operands.size() != (copy ? 2 : 3)) throw std::invalid_argument("plan: wrong number of operands for " + what);
  call.what = copy ? Combine::kCopy : what == "add" ? Combine::kAdd : Combine::kMultiply;
  call.a = view_of(operands[0]);
  if (!copy) call.b = view_of(operands[1]);
  call.y = view_of(operands.back());
  auto node = std::make_unique<CallNode<CombineCall>>(call, target_.combine, nullptr);
  node->op = what;
  node->algorithm = "combine";
  Entry entry{std::move(node), {}, {}};
  const size_t at[] = {offsetof(CombineCall, a), copy ? offsetof(CombineCall, y) : offsetof(CombineCall, b),
                       offsetof(CombineCall, y)};
  for (size_t i = 0; i < operands.size(); ++i) {
    entry.fields.push_back({at[i], i + 1 == operands.size(), true, operands[i].value, operands[i].offset});
  }
  entries_.push_back(std::move(entry));
  return describe(entries_.back());
}

std::shared_ptr<Plan> Recorder::finish(const std::vector<Placement>& values, const std::set<size_t>& left_out,
                                       size_t arena_bytes, size_t inputs, size_t outputs,
                                       std::shared_ptr<ArenaPool> pool) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (!entry.node || left_out.count(i)) continue;
    for (const Field& field : entry.fields) {
      const Placement& placement = values.at(static_cast<size_t>(field.value));
      if (placement.base < 0 || static_cast<size_t>(placement.base) > inputs + outputs) {
        throw std::invalid_argument("plan: a value has no place");
      }
      entry.node->patches.push_back({field.at, placement.base, placement.offset + field.offset});
      if (placement.strides.empty() || !field.movable) continue;
      TensorView& view = field_at<TensorView>(*entry.node, field.at);
      for (size_t d = 0; d < 4; ++d) view.stride[d] = placement.strides.at(d);
    }
    nodes.push_back(std::move(entry.node));
  }
  entries_.clear();
  return std::make_shared<Plan>(std::move(nodes), std::move(kept_), arena_bytes, inputs, outputs,
                                target_.on_host ? std::move(pool) : nullptr);
}

}  // namespace fastconv::plan
