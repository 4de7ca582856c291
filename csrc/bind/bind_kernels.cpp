// Kernels, the CPU that they run on, and how this module was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "base/arch.h"
#include "base/caches.h"
#include "bind/bindings.h"
#include "gemm/image.h"
#include "gemm/registry.h"

namespace octavo {

namespace py = pybind11;

namespace {

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernel* kernel : all_kernels()) names.emplace_back(kernel->name);
  return names;
}

const Kernel& require_kernel(const std::string& name) {
  const Kernel* kernel = find_kernel(name);
  if (kernel == nullptr) throw std::invalid_argument("no kernel is named \"" + name + "\"");
  return *kernel;
}

std::optional<std::string> forced_kernel_name() {
  const Kernel* kernel = forced_kernel();
  return kernel == nullptr ? std::nullopt : std::optional<std::string>(kernel->name);
}

py::dict cpu_feature_dict() {
  py::dict features;
  for (const FeatureName& f : known_features()) features[f.name] = (cpu_features() & f.feature) != 0;
  return features;
}

py::dict cache_dict() {
  const CacheSizes& c = cache_sizes();
  return py::dict(py::arg("l1d") = c.l1d_bytes, py::arg("l2") = c.l2_bytes, py::arg("l3") = c.l3_bytes);
}

py::dict build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
  const std::string compiler = "gcc " __VERSION__;
#else
  const std::string compiler = "unknown";
#endif
  return py::dict(py::arg("version") = OCTAVO_VERSION, py::arg("compiler") = compiler);
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("own_family", [] { return std::string(own_family().name); });
  m.def("families", [] {
    std::vector<std::string> names;
    for (const Family& family : kFamilies) names.emplace_back(family.name);
    return names;
  });
  m.def("kernel_names", &kernel_names);
  m.def(
      "missing_features", [](const std::string& kernel) { return missing_features(require_kernel(kernel)); },
      py::arg("kernel"));
  m.def("active_kernel", [] { return std::string(active_kernel().name); });
  m.def("forced_kernel", &forced_kernel_name);
  m.def(
      "force_kernel",
      [](const std::optional<std::string>& name) { force_kernel(name ? &require_kernel(*name) : nullptr); },
      py::arg("name").none(true));
  m.def(
      "min_rows",
      [](const std::string& kernel) {
        const MinRows rows = min_rows(require_kernel(kernel));
        return std::make_tuple(rows.int8, rows.int8_near, rows.int4, rows.grouped);
      },
      py::arg("kernel"));
  m.def(
      "chosen_min_rows", [](const std::string& kernel) { return chosen_min_rows(require_kernel(kernel)); },
      py::arg("kernel"));
  m.def(
      "set_min_rows",
      [](const std::string& kernel, std::optional<std::int64_t> rows) { set_min_rows(require_kernel(kernel), rows); },
      py::arg("kernel"), py::arg("rows").none(true));
  m.def(
      "kernel_for", [](std::int64_t rows) { return std::string(kernel_for(rows).name); }, py::arg("rows"));
  m.def("cpu_features", &cpu_feature_dict);
  m.def("feature_refusal", &feature_refusal);
  m.def("cpu_brand", &cpu_brand);
  m.def("cache_bytes", &cache_dict);
  m.def("build_info", &build_info);
}

}  // namespace octavo
