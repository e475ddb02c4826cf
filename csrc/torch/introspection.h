// Questions about the kernels, in standard types: what module.cpp gives to Python.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "../common/algorithm_table.h"
#include "errors.h"

namespace fastconv::ops {

// Fields by the names of ConvProblem and GemmCall (N, C, H, W, K, R, S, stride_h ...; M, N, K, batch), plus dtype,
// act, channels_last, bias, scale, residual, transpose_a, transpose_b.
using ProblemFields = std::map<std::string, std::variant<bool, int64_t, std::string>>;

std::vector<std::pair<std::string, std::string>> list_algorithms(const std::string& op, const std::string& backend);
// What a table says of one row for one problem.
struct RowAnswer {
  std::string name;
  Reasons reasons;
  bool preferred = false;  // it can serve, and may be taken unasked
  // Predicted seconds where it can serve and has an opinion: cpu of one image on one thread, cuda of the call, then
  // with what most of them go to and how the row would run it.
  std::optional<double> cost;
  std::string bound, plan;
  bool chosen = false;
  bool measured = false;  // chosen by the measurements of set_measured_orders
};
std::vector<RowAnswer> list_reasons(const std::string& op, const std::string& backend, const ProblemFields& problem);

// A problem as the keys of measurements (measured.h), from the fields of an operator's call or in words; empty where
// none holds it. An order names algorithms, the fastest first.
std::vector<int64_t> key_of_problem(const std::string& op, const std::string& backend, const ProblemFields& problem);
std::map<std::string, std::string> describe_problem_key(const std::vector<int64_t>& key);
void set_measured_orders(const std::map<std::vector<int64_t>, std::vector<std::string>>& orders);
void note_problem_keys(bool wanted);
std::vector<std::vector<int64_t>> noted_problem_keys();

// The constants behind predicted costs (csrc/cpu/cost_model.h) by name, for the instruction set in use: those in force,
// and others (a name that is missing keeps its default).
std::map<std::string, double> cost_constants();
std::map<std::string, double> measure_cost_constants();
void set_cost_constants(const std::map<std::string, double>& constants);

// The algorithm of conv2d that the CPU backend takes for these extents when the caller packs the weights for it, which
// `algo` "winograd" narrows down to one of the two tile sizes. Good while choice_epoch() is the same.
std::string choose_conv2d(const std::vector<int64_t>& input, const std::vector<int64_t>& weight,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                          const std::vector<int64_t>& dilation, int64_t groups, const std::string& dtype,
                          bool channels_last, const std::string& algo);
int64_t choice_epoch();
bool winograd_allowed();
void allow_winograd(bool allowed);

std::string isa_in_use();
std::vector<std::string> available_isas();
void select_isa(const std::string& name);

// Independent FMAs on `threads` threads at once, and a copy between two buffers of `bytes` on all threads (bytes read
// plus bytes written): the machine's limits, in 1e9 operations or bytes a second.
double measure_fma_gflops(int threads);
double measure_copy_gbs(int64_t bytes);

// The largest workspace of one call since the last reset, in bytes.
size_t peak_workspace_bytes();
void reset_peak_workspace_bytes();

}  // namespace fastconv::ops
