// Lines about products, on stderr or as records of Python's logging.
#include <pybind11/pybind11.h>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "gemm/verbose.h"

namespace octavo {

namespace py = pybind11;

void hand_over_reports() {
  for (const std::string& line : take_reports()) {
    try {
      py::module_::import("octavo.runtime").attr("_log")(line);
    } catch (py::error_already_set& error) {
      // The product is done, whatever the caller's log handler raises; but Ctrl-C ends a call as ever.
      if (!error.matches(PyExc_Exception)) throw;
      error.discard_as_unraisable("octavo's line about a product");
    }
  }
}

void bind_verbose(py::module_& m) {
  m.def("verbosity", [] { return static_cast<int>(verbosity()); });
  m.def(
      "set_verbosity", [](int level) { set_verbosity(static_cast<Verbosity>(level)); }, py::arg("level"));
}

}  // namespace octavo
