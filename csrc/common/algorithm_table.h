// Algorithms as an ordered list: the first one with no reason against it serves the call; a name forces one, or fails
// with its reasons. Tests, benchmarks, `algo=` and `explain` all read the same list. Host only, torch-free.
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
  bool (*preferred)(const Call&);           // whether to take it unasked; null: always
  void (*run)(const Call&, const CallContext&);
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

// `name` empty: choose. Throws NotServed with every candidate's reasons, std::invalid_argument for an unknown name.
template <class Call>
const Algorithm<Call>& select_algorithm(const AlgorithmTable<Call>& table, const Call& call, const std::string& op,
                                        const std::string& name) {
  const Algorithm<Call>* fallback = nullptr;
  std::string report, names;
  for (const Algorithm<Call>& algorithm : table) {
    names += (names.empty() ? "" : ", ") + std::string(algorithm.name);
    if (!name.empty() && name != algorithm.name) continue;
    const Reasons reasons = algorithm.reasons_against(call);
    if (!reasons.empty()) {
      report += "\n  " + std::string(algorithm.name) + ": " + join_reasons(reasons);
    } else if (!name.empty() || !algorithm.preferred || algorithm.preferred(call)) {
      return algorithm;
    } else if (!fallback) {
      fallback = &algorithm;
    }
  }
  if (fallback) return *fallback;
  if (report.empty()) {
    throw std::invalid_argument(op + ": expected algo to be one of " + names + ", but got '" + name + "'");
  }
  throw NotServed(op + ": no algorithm serves this problem:" + report);
}

}  // namespace fastconv
