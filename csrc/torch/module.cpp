// The Python module fastconv._C: importing it registers the operators (registration.cpp), and it answers questions
// about them. Nothing here takes a tensor, and nothing of torch is included: see torch_tasks in buildtools/sources.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "introspection.h"
#include "tf32.h"
#include "threads.h"

namespace py = pybind11;

namespace fastconv::ops {
void define_plan_classes(py::module_& m);  // plan_module.cpp
void define_watch(py::module_& m);         // watch_module.cpp
}  // namespace fastconv::ops

namespace {

// The settings as torch's own documentation names them: an attribute read takes about a microsecond.
bool tf32_setting(fastconv::ops::Fp32Use use) {
  const py::gil_scoped_acquire gil;
  const py::object backends = py::module_::import("torch").attr("backends");
  const py::object owner = use == fastconv::ops::Fp32Use::kMatmul ? backends.attr("cuda").attr("matmul")
                                                                  : backends.attr("cudnn").attr("conv");
  return owner.attr("fp32_precision").cast<std::string>() == "tf32";
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  using namespace fastconv;
  ops::install_thread_pool();
  ops::tf32_allowed = tf32_setting;
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const NotServed& error) {
      PyErr_SetString(PyExc_NotImplementedError, error.what());
    }
  });
  m.doc() = "Operators of fastconv, and questions about them";
  m.attr("NOT_SERVED_MARK") = ops::kNotServedMark;
  m.def("algorithms", &ops::list_algorithms, py::arg("op"), py::arg("backend"),
        "(name, summary) of every algorithm, in order of preference");
  m.def("reasons", &ops::list_reasons, py::arg("op"), py::arg("backend"), py::arg("problem"),
        "what the table says of every algorithm for a problem");
  py::class_<ops::RowAnswer>(m, "RowAnswer")
      .def_readonly("name", &ops::RowAnswer::name)
      .def_readonly("reasons", &ops::RowAnswer::reasons)
      .def_readonly("preferred", &ops::RowAnswer::preferred)
      .def_readonly("cost", &ops::RowAnswer::cost)
      .def_readonly("bound", &ops::RowAnswer::bound)
      .def_readonly("plan", &ops::RowAnswer::plan)
      .def_readonly("measured", &ops::RowAnswer::measured)
      .def_readonly("chosen", &ops::RowAnswer::chosen);
  m.def("choose_conv2d", &ops::choose_conv2d, py::arg("input"), py::arg("weight"), py::arg("stride"),
        py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("dtype"), py::arg("channels_last"),
        py::arg("algo"));
  m.def("key_of_problem", &ops::key_of_problem, py::arg("op"), py::arg("backend"), py::arg("problem"));
  m.def("describe_problem_key", &ops::describe_problem_key, py::arg("key"));
  m.def("set_measured_orders", &ops::set_measured_orders, py::arg("orders"));
  m.def("note_problem_keys", &ops::note_problem_keys, py::arg("wanted"));
  m.def("noted_problem_keys", &ops::noted_problem_keys);
  m.def("choice_epoch", &ops::choice_epoch);
  m.def("winograd_allowed", &ops::winograd_allowed);
  m.def("allow_winograd", &ops::allow_winograd, py::arg("allowed"));
  m.def("cost_constants", &ops::cost_constants);
  m.def("measure_cost_constants", &ops::measure_cost_constants, py::call_guard<py::gil_scoped_release>());
  m.def("set_cost_constants", &ops::set_cost_constants, py::arg("constants"));
  m.def(
      "tf32_allowed", [](bool conv) { return ops::tf32_allowed(conv ? ops::Fp32Use::kConv : ops::Fp32Use::kMatmul); },
      py::arg("conv"), "whether torch's settings allow TF32 in convolutions, else in matrix products");
  m.def("isa", &ops::isa_in_use);
  m.def("available_isas", &ops::available_isas);
  m.def("select_isa", &ops::select_isa, py::arg("name"));
  m.def("measure_fma_gflops", &ops::measure_fma_gflops, py::arg("threads"), py::call_guard<py::gil_scoped_release>());
  m.def("measure_copy_gbs", &ops::measure_copy_gbs, py::arg("bytes"), py::call_guard<py::gil_scoped_release>());
  ops::define_plan_classes(m);
  ops::define_watch(m);
  m.def("peak_workspace_bytes", &ops::peak_workspace_bytes);
  m.def("reset_peak_workspace_bytes", &ops::reset_peak_workspace_bytes);
}
