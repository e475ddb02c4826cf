// Chains of recorded convolutions as one call of a block, where the block's table prefers a way of its own over running
// the parts.
#include <cstddef>
#include <cstring>

#include "recorder.h"

namespace fastconv::plan {

namespace {

constexpr size_t kX = offsetof(Conv2dCall, x), kY = offsetof(Conv2dCall, y);
constexpr size_t kResidual = offsetof(Conv2dCall, epilogue) + offsetof(EpilogueArgs, residual);

template <class Call>
const Call* call_of(Node& node) {
  auto* const typed = dynamic_cast<CallNode<Call>*>(&node);
  return typed ? reinterpret_cast<const Call*>(typed->call()) : nullptr;
}

// Whether the weights are packed as the blocks' stages want them. On a device they are as the model has them.
bool has_plain_weights(const Node& node, const Conv2dCall& call, bool on_host) {
  if (!on_host) return !call.packed_w;
  if (call.packed_w && call.packed_format != PackedFormat::kPanels) return false;
  for (const char* name : {"depthwise", "pointwise", "implicit_gemm"})
    if (node.algorithm == name) return true;
  return false;
}

ConvStage stage_of(const Conv2dCall& call) { return {call.problem, call.w, call.packed_w, call.epilogue}; }

}  // namespace

template <class Call>
std::optional<Noted> Recorder::replace(const AlgorithmTable<Call>& table, const Call& call, const std::string& op,
                                       const std::vector<size_t>& positions) {
  const Algorithm<Call>* const algorithm = choose_algorithm(table, call);
  if (!algorithm || std::strcmp(algorithm->name, "parts") == 0) return std::nullopt;
  Entry made = enter(call, algorithm->run, op, algorithm->name, algorithm->reasons_against);
  Entry &first = entries_[positions.front()], &last = entries_[positions.back()];
  const auto field = [](const Entry& entry, size_t at) -> const Field& {
    for (const Field& f : entry.fields)
      if (f.at == at) return f;
    throw std::logic_error("plan: a call of a chain lacks a tensor");
  };
  const bool pools = call_of<PoolCall>(*last.node) != nullptr;
  for (Field& f : made.fields) {
    const Field& from = f.at == offsetof(Call, x)   ? field(first, kX)
                        : f.at == offsetof(Call, y) ? field(last, pools ? offsetof(PoolCall, y) : kY)
                                                    : field(last, kResidual);
    f.value = from.value;
    f.offset = from.offset;
  }
  Noted noted = describe(made);
  for (const size_t position : positions) entries_[position] = Entry{};
  entries_[positions.back()] = std::move(made);
  return noted;
}

std::optional<Noted> Recorder::fuse(const std::vector<size_t>& positions) {
  std::vector<const Conv2dCall*> convs;
  const PoolCall* pool = nullptr;
  for (const size_t position : positions) {
    Node* const node = entries_.at(position).node.get();
    if (!node || pool) return std::nullopt;
    if (const auto* conv = call_of<Conv2dCall>(*node)) {
      if (node->op != "conv2d" || !has_plain_weights(*node, *conv, target_.on_host)) return std::nullopt;
      convs.push_back(conv);
    } else {
      pool = node->op == "max_pool2d" ? call_of<PoolCall>(*node) : nullptr;
      if (!pool || pool->indices.present()) return std::nullopt;
    }
  }
  const auto pointwise = [](const Conv2dCall& c) { return c.problem.R * c.problem.S == 1 && c.problem.groups == 1; };
  if (pool && convs.size() == 1) {
    const ConvMaxPoolCall call{convs[0]->dtype, convs[0]->x, pool->y, stage_of(*convs[0]), pool->problem};
    return replace(*target_.conv_max_pool, call, "conv_max_pool", positions);
  }
  if (pool || convs.size() < 2 || !pointwise(*convs.back())) return std::nullopt;
  const Conv2dCall &middle = *convs[convs.size() - 2], &last = *convs.back();
  if (!middle.problem.is_depthwise()) return std::nullopt;
  if (convs.size() == 2) {
    const DepthwisePointwiseCall call{middle.dtype, middle.x, last.y, stage_of(middle), stage_of(last)};
    return replace(*target_.depthwise_pointwise, call, "depthwise_pointwise", positions);
  }
  if (convs.size() != 3 || !pointwise(*convs[0])) return std::nullopt;
  const InvertedResidualCall call{convs[0]->dtype,     convs[0]->x,      last.y,
                                  stage_of(*convs[0]), stage_of(middle), stage_of(last)};
  return replace(*target_.inverted_residual, call, "inverted_residual", positions);
}

}  // namespace fastconv::plan
