#include "measured.h"

#include <atomic>
#include <mutex>
#include <set>

#include "../cpu/cpu_kernels.h"
#include "errors.h"
#include "tables.h"

namespace fastconv::ops {
namespace {

constexpr const char* kOperators[] = {
    "conv2d", "upsample_conv2d", "conv_transpose2d", "conv2d_input_grad", "conv2d_weight_grad", "gemm"};
enum Layout : int64_t { kNchw, kNhwc, kNn, kNt, kTn, kTt };
constexpr const char* kLayouts[] = {"nchw", "nhwc", "nn", "nt", "tn", "tt"};
constexpr const char* kConvExtents[] = {"N",         "C",          "H",          "W",       "K",          "R",
                                        "S",         "stride_h",   "stride_w",   "pad_top", "pad_bottom", "pad_left",
                                        "pad_right", "dilation_h", "dilation_w", "groups",  "scale_h",    "scale_w"};
constexpr const char* kGemmExtents[] = {"batch", "M", "N", "K"};
constexpr size_t kHead = 4;

int64_t operator_number(const std::string& op) {
  int64_t number = 0;
  for (const char* name : kOperators) {
    if (op == name) return number;
    ++number;
  }
  return -1;
}

// `image` is what the operator reads: x, or dy.
ProblemKey conv_key(const ConvProblem& p, const TensorView& image, DType dtype, Backend backend,
                    const std::string& op) {
  // An image of one channel or one pixel is both.
  const bool last = image.is_nhwc();
  const int64_t number = operator_number(op);
  if (number < 0 || (!last && !image.is_nchw())) return {};
  return {number,
          static_cast<int64_t>(backend),
          static_cast<int64_t>(dtype),
          last ? kNhwc : kNchw,
          p.N,
          p.C,
          p.H,
          p.W,
          p.K,
          p.R,
          p.S,
          p.stride_h,
          p.stride_w,
          p.pad_top,
          p.pad_bottom,
          p.pad_left,
          p.pad_right,
          p.dilation_h,
          p.dilation_w,
          p.groups,
          p.scale_h,
          p.scale_w};
}

using Table = std::map<ProblemKey, std::vector<std::string>>;

std::atomic<bool> loaded{false}, noting{false};
std::mutex mutex;  // of the two below
std::shared_ptr<const Table>& table() {
  static auto* current = new std::shared_ptr<const Table>;
  return *current;
}
std::set<ProblemKey>& noted() {
  static auto* problems = new std::set<ProblemKey>;
  return *problems;
}

}  // namespace

ProblemKey problem_key(const Conv2dCall& call, Backend backend, const std::string& op) {
  return conv_key(call.problem, call.x, call.dtype, backend, op);
}
ProblemKey problem_key(const Conv2dInputGradCall& call, Backend backend, const std::string& op) {
  return conv_key(call.problem, call.dy, call.dtype, backend, op);
}
ProblemKey problem_key(const Conv2dWeightGradCall& call, Backend backend, const std::string& op) {
  return conv_key(call.problem, call.x, call.dtype, backend, op);
}

ProblemKey problem_key(const GemmCall& call, Backend backend, const std::string& op) {
  const bool a_rows = call.a_stride_k == 1 || call.K == 1, b_rows = call.b_stride_n == 1 || call.N == 1;
  const bool a_columns = call.a_stride_m == 1, b_columns = call.b_stride_k == 1;
  if (!(a_rows || a_columns) || !(b_rows || b_columns)) return {};
  const int64_t layout = a_rows ? (b_rows ? kNn : kNt) : (b_rows ? kTn : kTt);
  return {operator_number(op),
          static_cast<int64_t>(backend),
          static_cast<int64_t>(call.dtype),
          layout,
          call.batch,
          call.M,
          call.N,
          call.K};
}

std::map<std::string, std::string> describe_key(const ProblemKey& key) {
  require(key.size() > kHead, "describe_key: expected a key, but got ", key.size(), " numbers");
  std::map<std::string, std::string> fields{{"op", kOperators[key[0]]},
                                            {"backend", backend_name(static_cast<Backend>(key[1]))},
                                            {"dtype", dtype_name(static_cast<DType>(key[2]))},
                                            {"layout", kLayouts[key[3]]}};
  size_t place = kHead;
  if (key[0] == operator_number("gemm")) {
    for (const char* name : kGemmExtents) fields[name] = std::to_string(key.at(place++));
  } else {
    for (const char* name : kConvExtents) fields[name] = std::to_string(key.at(place++));
  }
  return fields;
}

void set_measured(Table wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  loaded.store(!wanted.empty(), std::memory_order_release);
  table() = std::make_shared<const Table>(std::move(wanted));
  cpu::new_choice_epoch();
}

bool has_measured() { return loaded.load(std::memory_order_acquire); }

std::shared_ptr<const std::vector<std::string>> measured_order(const ProblemKey& key) {
  std::shared_ptr<const Table> current;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    current = table();
  }
  if (!current) return nullptr;
  const auto found = current->find(key);
  if (found == current->end()) return nullptr;
  return {current, &found->second};
}

void note_problems(bool wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (wanted) noted().clear();
  noting.store(wanted, std::memory_order_release);
  cpu::new_choice_epoch();  // plans that were made before are made again, call by call
}

bool notes_problems() { return noting.load(std::memory_order_acquire); }

void note_problem(const ProblemKey& key) {
  if (key.empty()) return;
  const std::lock_guard<std::mutex> lock(mutex);
  noted().insert(key);
}

std::vector<ProblemKey> noted_problems() {
  const std::lock_guard<std::mutex> lock(mutex);
  return {noted().begin(), noted().end()};
}

}  // namespace fastconv::ops
