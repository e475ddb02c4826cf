// Whether what a conversion was made from is still what it was: entries of dictionaries by identity, tensors by version
// and address. A forward asks before it uses weights that were made beforehand, so a network of 400 modules and 600
// tensors must answer in microseconds, with its objects out of the near caches: hence not in Python.
//
// A Watch owns no object: the modules it points into may own it, and Python's collector sees no cycles through C++.
// Whoever makes it keeps what its methods return, and the tensors, as long as the Watch.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <vector>

namespace py = pybind11;

namespace fastconv::ops {

namespace {

// Up to 3.12 Python numbers every change of a dictionary: one number to read instead of all entries.
#if PY_VERSION_HEX < 0x030D0000
constexpr bool kCounted = true;
uint64_t changes_of(PyObject* table) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // in 3.12, which still counts
  return reinterpret_cast<PyDictObject*>(table)->ma_version_tag;
#pragma GCC diagnostic pop
}
#else
constexpr bool kCounted = false;
uint64_t changes_of(PyObject*) { return 0; }
#endif

PyObject* entry(PyObject* table, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(table, key);
  if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// Some entries of a dictionary, missing ones included.
struct Entries {
  PyObject* table;
  uint64_t changes;
  std::vector<py::str> keys;
  std::vector<PyObject*> values;

  bool unchanged() {
    const uint64_t now = changes_of(table);
    if (kCounted && now == changes) return true;
    for (size_t i = 0; i < keys.size(); ++i)
      if (entry(table, keys[i].ptr()) != values[i]) return false;
    changes = now;  // something else in it is new
    return true;
  }
};

// All values of a dictionary in order. Of subclasses, which may have an order of their own, the number of changes says
// too little.
struct Values {
  PyObject* table;
  bool counted;
  uint64_t changes;
  std::vector<PyObject*> values;

  bool unchanged() {
    if (values.empty()) return PyDict_GET_SIZE(table) == 0;
    const uint64_t now = changes_of(table);
    if (counted && now == changes) return true;
    size_t i = 0;
    for (const auto& value : py::handle(table).attr("values")()) {
      if (i == values.size() || value.ptr() != values[i]) return false;
      ++i;
    }
    if (i != values.size()) return false;
    changes = now;
    return true;
  }
};

class Watch {
 public:
  py::list entries(const py::dict& table, const py::iterable& keys) {
    Entries added{table.ptr(), changes_of(table.ptr()), {}, {}};
    py::list kept;
    for (const auto& key : keys) {
      PyObject* value = entry(added.table, key.ptr());
      added.keys.push_back(py::reinterpret_borrow<py::str>(key));
      added.values.push_back(value);
      if (value != nullptr) kept.append(value);
    }
    kept.append(table);
    entries_.push_back(std::move(added));
    return kept;
  }

  py::list values(const py::dict& table) {
    Values added{table.ptr(), kCounted && PyDict_CheckExact(table.ptr()), changes_of(table.ptr()), {}};
    py::list kept(table.attr("values")());
    for (const auto& value : kept) added.values.push_back(value.ptr());
    kept.append(table);
    values_.push_back(std::move(added));
    return kept;
  }

  void tensor(const py::object& tensor, bool versioned) {
    tensors_.push_back({tensor.ptr(), reinterpret_cast<const char*>(number(tensor.attr("_cdata"))), storage_of(tensor),
                        versioned ? number(tensor.attr("_version")) : 0, number(tensor.attr("data_ptr")()), versioned});
  }

  bool unchanged() {
    const auto same = [](auto& table) { return table.unchanged(); };
    if (!std::all_of(entries_.begin(), entries_.end(), same)) return false;
    if (!std::all_of(values_.begin(), values_.end(), same)) return false;
    for (size_t i = 0; i < std::min(kAhead, tensors_.size()); ++i) tensors_[i].fetch();
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (i + kAhead < tensors_.size()) tensors_[i + kAhead].fetch();
      if (!holds(tensors_[i])) return false;
    }
    return true;
  }

 private:
  // A forward has thrown the tensors out of the caches; fetched this many ahead, they are not waited for one by one.
  static constexpr size_t kAhead = 12;

  struct Tensor {
    PyObject* object;
    const char *implementation, *storage;  // where torch keeps its parts: hints only
    unsigned long long version, address;
    bool versioned;

    void fetch() const {
      for (const char* part : {reinterpret_cast<const char*>(object), implementation, storage})
        for (int line = 0; line < 3; ++line) __builtin_prefetch(part + 64 * line);
    }
  };

  static const char* storage_of(const py::object& tensor) {
    try {
      return reinterpret_cast<const char*>(number(tensor.attr("untyped_storage")().attr("_cdata")));
    } catch (py::error_already_set&) {
      return nullptr;  // of its own kind, and slower to ask
    }
  }

  static unsigned long long number(const py::object& object) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(object.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    return value;
  }

  bool holds(const Tensor& tensor) const {
    if (tensor.versioned && number(py::handle(tensor.object).attr(version_)) != tensor.version) return false;
    PyObject* address = PyObject_VectorcallMethod(data_ptr_.ptr(), std::array{tensor.object}.data(), 1, nullptr);
    if (address == nullptr) throw py::error_already_set();
    return number(py::reinterpret_steal<py::object>(address)) == tensor.address;
  }

  const py::str version_{"_version"}, data_ptr_{"data_ptr"};
  std::vector<Entries> entries_;
  std::vector<Values> values_;
  std::vector<Tensor> tensors_;
};

}  // namespace

void define_watch(py::module_& m) {
  py::class_<Watch>(m, "Watch")
      .def(py::init<>())
      .def("entries", &Watch::entries, py::arg("table"), py::arg("keys"),
           "these entries of a dictionary, by identity; missing ones must stay so")
      .def("values", &Watch::values, py::arg("table"), "all values of a dictionary, by identity and in order")
      .def("tensor", &Watch::tensor, py::arg("tensor"), py::arg("versioned"),
           "a tensor's address, and its version where it has one")
      .def("unchanged", &Watch::unchanged);
}

}  // namespace fastconv::ops
