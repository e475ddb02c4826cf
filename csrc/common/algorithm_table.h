// Algorithms as an ordered list. Of those without a reason against them that are preferred, the first serves the call
// or, where rows predict their cost, the cheapest; a name forces one, or fails with its reasons. Tests, benchmarks,
// `algo=` and `explain` all read the same list. Host only, torch-free.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "calls.h"

namespace fastconv {

using Reasons = std::vector<std::string>;

template <class Call>
struct Algorithm {
  const char* name;
  const char* summary;                      // one line for explain
  Reasons (*reasons_against)(const Call&);  // every reason why it cannot serve; empty: it can
  // Whether to take it unasked; null: always. Asked where nothing speaks against the row; of a row that predicts a cost
  // it is asked first, of any problem, as it is quicker than the texts of reasons.
  bool (*preferred)(const Call&);
  void (*run)(const Call&, const CallContext&);
  // Predicted seconds of one image on one thread; null: no opinion. A function of the extents of one image and of the
  // machine's constants, never of N or the number of threads: an image has the same bits alone and in a batch.
  double (*cost)(const Call&) = nullptr;
};

template <class Call>
using AlgorithmTable = std::vector<Algorithm<Call>>;

// A valid problem that nothing serves, or that the algorithm asked for does not. Becomes NotImplementedError in Python.
struct NotServed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string join_reasons(const Reasons& reasons) {
  std::string text;
  for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
  return text;
}

// The row to take unasked: the first one that can serve and is preferred or, where that one predicts a cost, the
// cheapest of all such rows that do; else the first that can serve; null if none can. Runs at every call: no text is
// made here but the reasons themselves.
template <class Call>
const Algorithm<Call>* choose_algorithm(const AlgorithmTable<Call>& table, const Call& call) {
  const Algorithm<Call>* best = nullptr;
  double best_cost = 0;
  for (const Algorithm<Call>& algorithm : table) {
    if (best && !algorithm.cost) continue;
    const auto preferred = [&] { return !algorithm.preferred || algorithm.preferred(call); };
    if (algorithm.cost && !preferred()) continue;
    if (!algorithm.reasons_against(call).empty()) continue;
    if (!algorithm.cost) {
      if (preferred()) return &algorithm;
      continue;
    }
    const double cost = algorithm.cost(call);
    if (!best || cost < best_cost) best = &algorithm, best_cost = cost;
  }
  if (best) return best;
  for (const Algorithm<Call>& algorithm : table)
    if (algorithm.reasons_against(call).empty()) return &algorithm;
  return nullptr;
}

// `name` empty: choose. Throws NotServed with every candidate's reasons, std::invalid_argument for an unknown name.
template <class Call>
const Algorithm<Call>& select_algorithm(const AlgorithmTable<Call>& table, const Call& call, const std::string& op,
                                        const std::string& name) {
  if (name.empty()) {
    if (const Algorithm<Call>* chosen = choose_algorithm(table, call)) return *chosen;
  }
  std::string report, names;
  for (const Algorithm<Call>& algorithm : table) {
    if (name == algorithm.name || name.empty()) {
      const Reasons reasons = algorithm.reasons_against(call);
      if (reasons.empty()) return algorithm;
      report += "\n  " + std::string(algorithm.name) + ": " + join_reasons(reasons);
    }
    names += (names.empty() ? "" : ", ") + std::string(algorithm.name);
  }
  if (report.empty()) {
    throw std::invalid_argument(op + ": expected algo to be one of " + names + ", but got '" + name + "'");
  }
  throw NotServed(op + ": no algorithm serves this problem:" + report);
}

}  // namespace fastconv
