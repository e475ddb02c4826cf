#include "introspection.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "../cpu/algorithms.h"
#include "../cpu/cost_model.h"
#include "../cpu/cpu_kernels.h"
#include "conv_geometry.h"
#include "epilogue_args.h"
#include "tables.h"

namespace fastconv::ops {

namespace {

using Clock = std::chrono::steady_clock;

// No kernel runs on these: an address that is not null says "present". Aligned as an allocator's are.
void* present() {
  alignas(256) static char something;
  return &something;
}

class Fields {
 public:
  explicit Fields(const ProblemFields& fields) : fields_(fields) {}

  int64_t integer(const char* name, int64_t otherwise) const {
    const auto found = fields_.find(name);
    if (found == fields_.end()) return otherwise;
    if (const bool* flag = std::get_if<bool>(&found->second)) return *flag;
    const int64_t* value = std::get_if<int64_t>(&found->second);
    require(value != nullptr, "explain: expected ", name, " to be an integer");
    return *value;
  }
  bool flag(const char* name, bool otherwise = false) const { return integer(name, otherwise) != 0; }
  std::string text(const char* name, const char* otherwise) const {
    const auto found = fields_.find(name);
    if (found == fields_.end()) return otherwise;
    const std::string* value = std::get_if<std::string>(&found->second);
    require(value != nullptr, "explain: expected ", name, " to be a string");
    return *value;
  }

 private:
  const ProblemFields& fields_;
};

DType dtype_field(const Fields& fields) {
  const std::string name = fields.text("dtype", "float32");
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw std::invalid_argument(
      concat("explain: expected dtype to be one of float32, float64, float16, bfloat16, but got '", name, "'"));
}

TensorView dense_view(int64_t n, int64_t c, int64_t h, int64_t w, DType dtype, bool channels_last) {
  TensorView view{present(), dtype, {n, c, h, w}, {c * h * w, h * w, w, 1}};
  if (channels_last) view.stride[1] = 1, view.stride[2] = w * c, view.stride[3] = c;
  return view;
}

EpilogueArgs epilogue_fields(const Fields& fields, const TensorView& y) {
  EpilogueArgs args;
  if (fields.flag("bias")) args.bias = present();
  if (fields.flag("scale")) args.scale = present();
  if (fields.flag("shift")) args.shift = present();
  if (fields.flag("residual")) args.residual = y;
  args.act = activation_named(fields.text("act", "identity"), "explain");
  return args;
}

ConvProblem problem_fields(const Fields& f, bool upsample) {
  const Ints stride{f.integer("stride_h", 1), f.integer("stride_w", 1)};
  const Ints padding{f.integer("pad_top", 0), f.integer("pad_bottom", 0), f.integer("pad_left", 0),
                     f.integer("pad_right", 0)};
  const Ints dilation{f.integer("dilation_h", 1), f.integer("dilation_w", 1)};
  const int64_t groups = f.integer("groups", 1), C = f.integer("C", 1);
  require(groups > 0 && C % groups == 0, "explain: expected groups to divide the ", C, " channels, but got ", groups);
  const int64_t scale_h = upsample ? f.integer("scale_h", 2) : 1, scale_w = upsample ? f.integer("scale_w", 2) : 1;
  return make_problem({f.integer("N", 1), C, f.integer("H", 1), f.integer("W", 1)},
                      {f.integer("K", 1), C / groups, f.integer("R", 1), f.integer("S", 1)},
                      {stride, padding, dilation, groups}, "explain", scale_h, scale_w);
}

struct ConvViews {
  ConvProblem problem;
  DType dtype;
  TensorView x, w, y;
};

ConvViews conv_fields(const Fields& fields, bool upsample) {
  ConvViews v;
  v.problem = problem_fields(fields, upsample);
  v.dtype = dtype_field(fields);
  const ConvProblem& p = v.problem;
  const bool last = fields.flag("channels_last");
  v.x = dense_view(p.N, p.C, p.H, p.W, v.dtype, last);
  v.y = dense_view(p.N, p.K, p.P, p.Q, v.dtype, last);
  v.w = dense_view(p.K, p.channels_per_group(), p.R, p.S, v.dtype, fields.flag("weight_channels_last"));
  return v;
}

// C channels, `hidden` ones under the window, K filters at the end; `act` follows every stage but the last.
class BlockFields {
 public:
  explicit BlockFields(const Fields& fields)
      : dtype(dtype_field(fields)),
        last_(fields.flag("channels_last")),
        bias_(fields.flag("bias")),
        act_(activation_named(fields.text("act", "identity"), "explain")) {
    ProblemFields window{{"C", fields.integer("hidden", fields.integer("C", 1))}};
    for (const char* name : {"N", "H", "W", "R", "S", "stride_h", "stride_w", "pad_top", "pad_bottom", "pad_left",
                             "pad_right", "dilation_h", "dilation_w"}) {
      window[name] = fields.integer(name, std::strncmp(name, "pad", 3) == 0 ? 0 : 1);
    }
    window["K"] = window["groups"] = window["C"];
    filter = stage(problem_fields(Fields(window), false), act_);
    const ConvProblem& p = filter.problem;
    expand = stage(pointwise(fields.integer("C", 1), p.C, p.H, p.W), act_);
    project = stage(pointwise(p.K, fields.integer("K", 1), p.P, p.Q), Activation::kIdentity);
    y = view(p.N, project.problem.K, p.P, p.Q);
    if (fields.flag("residual")) project.epilogue.residual = y;
  }
  TensorView view(int64_t n, int64_t c, int64_t h, int64_t w) const { return dense_view(n, c, h, w, dtype, last_); }
  TensorView input_of(const ConvStage& s) const { return view(s.problem.N, s.problem.C, s.problem.H, s.problem.W); }

  DType dtype;
  ConvStage expand, filter, project;
  TensorView y;

 private:
  ConvProblem pointwise(int64_t channels, int64_t filters, int64_t h, int64_t w) const {
    const ProblemFields p{{"N", filter.problem.N}, {"C", channels}, {"K", filters}, {"H", h}, {"W", w}};
    return problem_fields(Fields(p), false);
  }
  ConvStage stage(const ConvProblem& p, Activation act) const {
    ConvStage s;
    s.problem = p, s.w = dense_view(p.K, p.channels_per_group(), p.R, p.S, dtype, false);
    s.epilogue.act = act;
    if (bias_) s.epilogue.bias = present();
    return s;
  }
  bool last_, bias_;
  Activation act_;
};
// "128 x 256 tiles in clusters of 2, 3 parts of the reduction"
std::string plan_text(const Prediction& p) {
  if (p.tile_m == 0) return "";
  std::string text = concat(p.tile_m, " x ", p.tile_n, " tiles");
  if (p.cluster > 1) text += concat(" in clusters of ", p.cluster);
  if (p.parts > 1) text += concat(", ", p.parts, " parts of the reduction");
  return text;
}

template <class Call>
std::vector<RowAnswer> ask(const AlgorithmTable<Call>& table, const Call& call, Backend backend,
                           const std::string& op) {
  std::vector<RowAnswer> rows;
  const Algorithm<Call>* measured = measured_choice(table, call, backend, op);
  const Algorithm<Call>* chosen = measured ? measured : choose_algorithm(table, call);
  for (const Algorithm<Call>& algorithm : table) {
    RowAnswer row;
    row.name = algorithm.name;
    row.reasons = algorithm.reasons_against(call);
    const bool able = row.reasons.empty();
    row.preferred = able && (!algorithm.preferred || algorithm.preferred(call));
    if (able && algorithm.predict) {
      const Prediction p = algorithm.predict(call);
      if (p.seconds > 0) row.cost = p.seconds, row.bound = p.bound, row.plan = plan_text(p);
    } else if (able && algorithm.cost) {
      row.cost = algorithm.cost(call);
    }
    row.chosen = &algorithm == chosen;
    row.measured = row.chosen && measured != nullptr;
    rows.push_back(std::move(row));
  }
  return rows;
}

template <class Call>
std::vector<std::pair<std::string, std::string>> names(const AlgorithmTable<Call>& table) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Algorithm<Call>& algorithm : table) rows.emplace_back(algorithm.name, algorithm.summary);
  return rows;
}

// `others` have algorithms, but no problem in terms of fields.
[[noreturn]] void unknown(const std::string& op, const char* others = "") {
  throw std::invalid_argument(concat("fastconv: expected op to be one of conv2d, conv2d_stats, upsample_conv2d, ",
                                     "conv_transpose2d, conv2d_input_grad, conv2d_weight_grad, gemm, ",
                                     "inverted_residual, depthwise_pointwise", others, ", but got '", op, "'"));
}

// `visit(table, call)` for the problem of an operator's call.
template <class Visit>
auto with_call(const std::string& op, Backend b, const ProblemFields& problem, Visit&& visit) {
  const Fields fields(problem);
  if (op == "conv2d" || op == "upsample_conv2d" || op == "conv2d_stats") {
    const ConvViews v = conv_fields(fields, op == "upsample_conv2d");
    Conv2dCall call;
    call.problem = v.problem, call.dtype = v.dtype;
    call.x = v.x, call.w = v.w, call.y = v.y;
    call.epilogue = epilogue_fields(fields, v.y);
    if (op == "conv2d_stats") {
      Conv2dStatsCall with_stats;
      with_stats.conv = call, with_stats.mean = with_stats.var = present();
      return visit(algorithms<Conv2dStatsCall>(b), with_stats);
    }
    if (op == "conv2d" && b == Backend::kCpu) call.packed_w = present(), call.packed_format = PackedFormat::kUndecided;
    return visit(op == "conv2d" ? algorithms<Conv2dCall>(b) : upsample_algorithms(b), call);
  }
  if (op == "conv2d_input_grad" || op == "conv_transpose2d") {
    const ConvViews v = conv_fields(fields, false);
    Conv2dInputGradCall call;
    call.problem = v.problem, call.dtype = v.dtype;
    call.dy = v.y, call.w = v.w, call.dx = v.x;
    call.epilogue = epilogue_fields(fields, v.x);
    return visit(algorithms<Conv2dInputGradCall>(b), call);
  }
  if (op == "conv2d_weight_grad") {
    const ConvViews v = conv_fields(fields, false);
    Conv2dWeightGradCall call;
    call.problem = v.problem, call.dtype = v.dtype;
    call.dy = v.y, call.x = v.x, call.dw = v.w;
    return visit(algorithms<Conv2dWeightGradCall>(b), call);
  }
  if (op == "inverted_residual") {
    const BlockFields f(fields);
    const InvertedResidualCall call{f.dtype, f.input_of(f.expand), f.y, f.expand, f.filter, f.project};
    return visit(algorithms<InvertedResidualCall>(b), call);
  }
  if (op == "depthwise_pointwise") {
    const BlockFields f(fields);
    const DepthwisePointwiseCall call{f.dtype, f.input_of(f.filter), f.y, f.filter, f.project};
    return visit(algorithms<DepthwisePointwiseCall>(b), call);
  }
  if (op != "gemm") unknown(op);
  GemmCall call;
  call.dtype = dtype_field(fields);
  call.batch = fields.integer("batch", 1);
  call.M = fields.integer("M", 1), call.N = fields.integer("N", 1), call.K = fields.integer("K", 1);
  require_ints({call.batch, call.M, call.N, call.K}, 4, 0, "explain", "M, N, K, batch");
  const bool ta = fields.flag("transpose_a"), tb = fields.flag("transpose_b");
  call.a = call.b = present(), call.d = present();
  call.a_stride_m = ta ? 1 : call.K, call.a_stride_k = ta ? call.M : 1;
  call.b_stride_k = tb ? 1 : call.N, call.b_stride_n = tb ? call.K : 1;
  call.d_stride_m = call.N;
  call.a_stride_batch = call.M * call.K, call.b_stride_batch = call.K * call.N, call.d_stride_batch = call.M * call.N;
  call.epilogue = epilogue_fields(fields, {present(), call.dtype, {call.batch, call.N, call.M, 1}, {0, 1, call.N, 0}});
  return visit(algorithms<GemmCall>(b), call);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> list_algorithms(const std::string& op, const std::string& backend) {
  const Backend b = backend_named(backend);
  if (op == "conv2d") return names(algorithms<Conv2dCall>(b));
  if (op == "conv2d_stats") return names(algorithms<Conv2dStatsCall>(b));
  if (op == "upsample_conv2d") return names(upsample_algorithms(b));
  if (op == "conv2d_input_grad" || op == "conv_transpose2d") return names(algorithms<Conv2dInputGradCall>(b));
  if (op == "conv2d_weight_grad") return names(algorithms<Conv2dWeightGradCall>(b));
  if (op == "gemm") return names(algorithms<GemmCall>(b));
  if (op == "inverted_residual") return names(algorithms<InvertedResidualCall>(b));
  if (op == "depthwise_pointwise") return names(algorithms<DepthwisePointwiseCall>(b));
  if (op == "conv_max_pool") return names(algorithms<ConvMaxPoolCall>(b));
  unknown(op, ", conv_max_pool");
}

std::vector<RowAnswer> list_reasons(const std::string& op, const std::string& backend, const ProblemFields& problem) {
  const Backend b = backend_named(backend);
  return with_call(op, b, problem, [&](const auto& table, const auto& call) { return ask(table, call, b, op); });
}

std::vector<int64_t> key_of_problem(const std::string& op, const std::string& backend, const ProblemFields& problem) {
  const Backend b = backend_named(backend);
  return with_call(op, b, problem, [&](const auto&, const auto& call) { return problem_key(call, b, op); });
}

std::map<std::string, std::string> describe_problem_key(const std::vector<int64_t>& key) { return describe_key(key); }
void set_measured_orders(const std::map<std::vector<int64_t>, std::vector<std::string>>& orders) {
  set_measured(orders);
}
void note_problem_keys(bool wanted) { note_problems(wanted); }
std::vector<std::vector<int64_t>> noted_problem_keys() { return noted_problems(); }

std::string choose_conv2d(const Ints& input, const Ints& weight, const Ints& stride, const Ints& padding,
                          const Ints& dilation, int64_t groups, const std::string& dtype, bool channels_last,
                          const std::string& algo) {
  Conv2dCall call;
  call.problem = make_problem(input, weight, {stride, padding, dilation, groups}, "choose_conv2d");
  call.dtype = dtype_field(Fields({{"dtype", dtype}}));
  const ConvProblem& p = call.problem;
  // Predictions are of one layout for all: what it costs is nearly the same, and a choice can be kept by extents alone.
  // Measurements have theirs.
  call.x = dense_view(p.N, p.C, p.H, p.W, call.dtype, channels_last);
  call.y = dense_view(p.N, p.K, p.P, p.Q, call.dtype, true);
  call.w = dense_view(p.K, p.channels_per_group(), p.R, p.S, call.dtype, true);
  call.packed_w = present(), call.packed_format = PackedFormat::kUndecided;
  if (algo == "winograd") {
    const bool larger = cpu::cost_of_winograd_4x4(call) < cpu::cost_of_winograd_2x2(call);
    return larger ? "winograd_4x4" : "winograd_2x2";
  }
  const Algorithm<Conv2dCall>* chosen = measured_choice(cpu::conv2d_algorithms(), call, Backend::kCpu, "conv2d");
  if (!chosen) chosen = choose_algorithm(cpu::conv2d_algorithms(), call);
  return chosen ? chosen->name : "";
}

int64_t choice_epoch() { return cpu::choice_epoch(); }
bool winograd_allowed() { return cpu::winograd_allowed(); }
void allow_winograd(bool allowed) { cpu::allow_winograd(allowed); }

static std::map<std::string, double> by_name(const cpu::Machine& machine) {
  std::map<std::string, double> constants;
  for (const auto& [name, member] : cpu::kMachineFields) constants[name] = machine.*member;
  return constants;
}

std::map<std::string, double> cost_constants() { return by_name(cpu::machine()); }
std::map<std::string, double> measure_cost_constants() { return by_name(cpu::measure_machine()); }

void set_cost_constants(const std::map<std::string, double>& constants) {
  cpu::Machine machine = cpu::default_machine(cpu::kernels());
  std::string names;
  size_t known = 0;
  for (const auto& [name, member] : cpu::kMachineFields) {
    names += (names.empty() ? "" : ", ") + std::string(name);
    const auto found = constants.find(name);
    if (found == constants.end()) continue;
    require(found->second > 0, "set_cost_constants: expected ", name, " to be positive, but got ", found->second);
    machine.*member = found->second;
    ++known;
  }
  require(known == constants.size(), "set_cost_constants: expected names out of ", names);
  cpu::set_machine(machine);
}

std::string isa_in_use() { return cpu::kernels().isa; }

std::vector<std::string> available_isas() {
  int count = 0;
  const cpu::Kernels* const* tables = cpu::available_kernels(&count);
  std::vector<std::string> isas;
  for (int i = 0; i < count; ++i) isas.emplace_back(tables[i]->isa);
  return isas;
}

void select_isa(const std::string& name) { cpu::select_isa(name.c_str()); }

double measure_fma_gflops(int threads) {
  const auto burst = cpu::kernels().fma_burst;
  if (!burst) throw NotServed("measure_fma_gflops: no kernel in this build");
  require(threads >= 1, "measure_fma_gflops: expected threads to be at least 1, but got ", threads);
  const int64_t iterations = 2'000'000;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<double> flops(threads);
    const auto start = Clock::now();
    cpu::parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) flops[t] = burst(iterations);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    double total = 0;
    for (const double f : flops) total += f;
    best = std::max(best, total / seconds * 1e-9);
  }
  return best;
}

double measure_copy_gbs(int64_t bytes) {
  require(bytes >= 1 << 16, "measure_copy_gbs: expected bytes to be at least 65536, but got ", bytes);
  const std::unique_ptr<char[]> from(new char[bytes]), to(new char[bytes]);
  std::memset(from.get(), 1, bytes);
  std::memset(to.get(), 2, bytes);
  double best = 0;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = Clock::now();
    cpu::parallel_for(bytes >> 16, 1, [&](int64_t begin, int64_t end) {
      std::memcpy(to.get() + (begin << 16), from.get() + (begin << 16), (end - begin) << 16);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2.0 * static_cast<double>(bytes >> 16 << 16) / seconds * 1e-9);
  }
  return best;
}

}  // namespace fastconv::ops
