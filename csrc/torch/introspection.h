// Questions about the kernels, in standard types: what module.cpp gives to Python.
#pragma once

#include <map>
#include <string>
#include <tuple>
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
std::vector<std::tuple<std::string, std::vector<std::string>, bool>> list_reasons(const std::string& op,
                                                                                  const std::string& backend,
                                                                                  const ProblemFields& problem);

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
