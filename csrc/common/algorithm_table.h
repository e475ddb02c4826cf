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

// What a call is expected to take on a GPU, and why. Seconds of 0: there is none to predict it for.
struct Prediction {
  double seconds = 0.0;
  const char* bound = "";  // what most of the time goes to
  // How the row would run it: its tile (0: it has none), blocks that share operands, parts of the reduction.
  int tile_m = 0, tile_n = 0, cluster = 1, parts = 1;
};

template <class Call>
struct Algorithm {
  const char* name;
  const char* summary;                      // one line for explain
  Reasons (*reasons_against)(const Call&);  // every reason why it cannot serve; empty: it can
  // Whether to take it unasked; null: always. Asked where nothing speaks against the row; of a row that predicts a cost
  // it is asked first, of any problem, as it is quicker than the texts of reasons.
  bool (*preferred)(const Call&);
  void (*run)(const Call&, const CallContext&);
  // Predicted seconds, by which preferred rows compete; null: no opinion.
  //   cpu    of one image on one thread: a function of an image's extents and the machine's constants, never of N or
  //          the number of threads. An image has the same bits alone and in a batch.
  //   cuda   of the whole call (csrc/cuda/model.h): a function of all extents, strides and types, and of the GPU's
  //          architecture and number of multiprocessors, as waves of tiles depend on N. The same call has the same bits
  //          on GPUs of one kind; an image may be summed in another order in another batch.
  double (*cost)(const Call&) = nullptr;
  // The same with what it is made of, for explain; where a row's place in the table decides, it predicts without a
  // cost.
  Prediction (*predict)(const Call&) = nullptr;
  // Whether its rounding may be had unasked (tf32, rearranged sums); null: yes. `preferred` implies it; what was
  // measured to be fastest is held to it too.
  bool (*permitted)(const Call&) = nullptr;
};

// A cost out of a prediction.
template <class Call, Prediction (*kPredict)(const Call&)>
double seconds_of(const Call& call) {
  return kPredict(call).seconds;
}

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

// The first of `names` that can serve, and may unasked: for an order that was measured. Null if there is none.
template <class Call>
const Algorithm<Call>* first_allowed(const AlgorithmTable<Call>& table, const Call& call,
                                     const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (const Algorithm<Call>& algorithm : table) {
      if (name != algorithm.name) continue;
      if ((!algorithm.permitted || algorithm.permitted(call)) && algorithm.reasons_against(call).empty()) {
        return &algorithm;
      }
    }
  }
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
