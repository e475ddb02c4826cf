// Network plans for Python: recording kernel calls, and running them again. Addresses are plain numbers; whose memory
// it is, and that it lives long enough, is the caller's affair (fastconv/convert/plan).
#include "plan_target.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace fastconv::ops {

void define_plan_classes(py::module_& m) {
  using namespace fastconv::plan;
  using Ints = std::vector<int64_t>;
  py::class_<ArenaPool, std::shared_ptr<ArenaPool>>(m, "ArenaPool")
      .def(py::init<>())
      .def_property_readonly("bytes", &ArenaPool::bytes)
      .def_property_readonly("count", &ArenaPool::count);
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan")
      .def("run", &Plan::run, py::call_guard<py::gil_scoped_release>())
      .def(
          "run_on",
          [](const Plan& plan, int device, uintptr_t arena, uintptr_t scratch, size_t scratch_bytes, size_t first,
             const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs) {
            DeviceRun memory;
            memory.arena = reinterpret_cast<char*>(arena);
            memory.scratch = reinterpret_cast<char*>(scratch);
            memory.scratch_bytes = scratch_bytes;
            return run_plan_on(plan, device, memory, first, inputs, outputs);
          },
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("scratch_bytes", &Plan::scratch_bytes)
      .def("refusal", &Plan::refusal)
      .def_property_readonly("arena_bytes", &Plan::arena_bytes)
      .def_property_readonly("kernels", [](const Plan& plan) {
        std::vector<std::pair<std::string, std::string>> kernels;
        for (const auto& node : plan.nodes()) kernels.emplace_back(node->op, node->algorithm);
        return kernels;
      });
  py::class_<Use>(m, "Use")
      .def_readonly("value", &Use::value)
      .def_readonly("offset", &Use::offset)
      .def_readonly("writes", &Use::writes)
      .def_readonly("sizes", &Use::sizes)
      .def_readonly("strides", &Use::strides);
  py::class_<Noted>(m, "Noted")
      .def_readonly("op", &Noted::op)
      .def_readonly("algorithm", &Noted::algorithm)
      .def_readonly("uses", &Noted::uses);
  using NamedTuple = std::tuple<uintptr_t, int64_t, int64_t>;
  const auto named = [](const std::vector<NamedTuple>& tuples) {
    std::vector<Named> found;
    for (const auto& [address, bytes, value] : tuples) found.push_back({address, bytes, value});
    return found;
  };
  using OperandTuple = std::tuple<int64_t, int64_t, int, Ints, Ints>;
  using PlacementTuple = std::tuple<int, int64_t, Ints>;
  py::class_<Recorder>(m, "Recorder")
      .def(py::init([](const std::string& backend) { return std::make_unique<Recorder>(plan_target(backend)); }))
      .def("begin", &Recorder::begin)
      .def("forget", &Recorder::forget)
      .def("end",
           [named](Recorder& recorder, const std::vector<NamedTuple>& known, const std::vector<NamedTuple>& weights,
                   int64_t result) { return recorder.end(named(known), named(weights), result); })
      .def("combine",
           [](Recorder& recorder, const std::string& what, const std::vector<OperandTuple>& tuples) {
             std::vector<Recorder::Operand> operands;
             for (const auto& [value, offset, dtype, sizes, strides] : tuples) {
               operands.push_back({value, offset, dtype, sizes, strides});
             }
             return recorder.combine(what, operands);
           })
      .def("finish",
           [](Recorder& recorder, const std::vector<PlacementTuple>& tuples, const std::set<size_t>& left_out,
              size_t arena_bytes, size_t inputs, size_t outputs, std::shared_ptr<ArenaPool> pool) {
             std::vector<Placement> values;
             for (const auto& [base, offset, strides] : tuples) values.push_back({base, offset, strides});
             return recorder.finish(values, left_out, arena_bytes, inputs, outputs, std::move(pool));
           })
      .def("fuse", &Recorder::fuse)
      .def("__len__", &Recorder::size);
  m.def(
      "place_blocks",
      [](const std::vector<std::tuple<int64_t, int64_t, int64_t>>& tuples) {
        std::vector<Block> blocks;
        for (const auto& [bytes, first, last] : tuples) blocks.push_back({bytes, first, last});
        return place_blocks(blocks);
      },
      "offsets of (bytes, first step, last step) in one block of memory, and its size");
}

}  // namespace fastconv::ops
