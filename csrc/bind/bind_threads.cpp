// Numbers of threads, for Python and as C functions: threadpoolctl finds a library by its file and calls these.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <exception>

#include "base/cpus.h"
#include "base/thread_pool.h"
#include "bind/bindings.h"

#if defined(_WIN32)
#define OCTAVO_EXPORTED extern "C" __declspec(dllexport)
#else
#define OCTAVO_EXPORTED extern "C" __attribute__((visibility("default")))
#endif

OCTAVO_EXPORTED int octavo_get_num_threads() {
  try {
    return octavo::num_threads();
  } catch (const std::exception&) {  // OCTAVO_NUM_THREADS is wrong, which octavo itself reports
    return octavo::available_cpus();
  }
}

OCTAVO_EXPORTED void octavo_set_num_threads(int n) {
  if (n >= 1) octavo::set_num_threads(std::min(n, octavo::kMaxThreads));
}

OCTAVO_EXPORTED const char* octavo_version() { return OCTAVO_VERSION; }

namespace octavo {

namespace py = pybind11;

void bind_threads(py::module_& m) {
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", &num_threads);
  m.def("available_cpus", &available_cpus);
}

}  // namespace octavo
