// Algorithms in the order of their measured times, for problems of a table that the user has loaded
// (fastconv/tuning.py): asked before the tables' own choice. Without a table: one atomic read a call. Beside it, what
// the autotuner needs of a network: the problems that its calls have.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../common/algorithm_table.h"

namespace fastconv::ops {

enum class Backend;  // tables.h

// operator, backend, element type, layout, extents: what a measurement holds for. Not the epilogue, which costs every
// algorithm about the same. Empty: tensors whose layout has no name.
using ProblemKey = std::vector<int64_t>;

ProblemKey problem_key(const Conv2dCall& call, Backend backend, const std::string& op);
ProblemKey problem_key(const Conv2dInputGradCall& call, Backend backend, const std::string& op);
ProblemKey problem_key(const Conv2dWeightGradCall& call, Backend backend, const std::string& op);
ProblemKey problem_key(const GemmCall& call, Backend backend, const std::string& op);
template <class Call>
ProblemKey problem_key(const Call&, Backend, const std::string&) {
  return {};  // blocks are not tuned
}

// "op", "backend", "dtype", "layout" as numbers' names, and the extents' numbers.
std::map<std::string, std::string> describe_key(const ProblemKey& key);

// Replaces the table; an empty one removes it. Choices that were kept are made anew.
void set_measured(std::map<ProblemKey, std::vector<std::string>> table);
bool has_measured();
// Fastest first; null where the table has nothing on the problem.
std::shared_ptr<const std::vector<std::string>> measured_order(const ProblemKey& key);

// Collects the problems of all calls until it is switched off; what was collected.
void note_problems(bool wanted);
bool notes_problems();
void note_problem(const ProblemKey& key);
std::vector<ProblemKey> noted_problems();

// The row that measurements decide for, else null.
template <class Call>
const Algorithm<Call>* measured_choice(const AlgorithmTable<Call>& table, const Call& call, Backend backend,
                                       const std::string& op) {
  if (!has_measured()) return nullptr;
  const auto names = measured_order(problem_key(call, backend, op));
  return names ? first_allowed(table, call, *names) : nullptr;
}

}  // namespace fastconv::ops
