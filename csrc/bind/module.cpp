// The Python module octavo._core: a table of contents at the bottom, one function above each entry that needs one.
// Here arguments are checked for memory safety alone. The Python layer above checks the rest and explains what is
// wrong.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"
#include "bind/bindings.h"
#include "bind/epilogue.h"
#include "bind/gil.h"
#include "bind/image_call.h"
#include "bind/layer_call.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

bool is_byte_array(const py::array& a) {
  return a.dtype().itemsize() == 1 && (a.dtype().kind() == 'i' || a.dtype().kind() == 'u');
}

// ---- PackedLinear --------------------------------------------------------------------------------------------------

PackedLinear make_linear(const CArray<std::int8_t>& weight, const CArray<float>& scale,
                         const std::optional<CArray<float>>& bias, bool asymmetric, bool relu,
                         const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                         const std::optional<std::string>& epilogue) {
  require(weight.ndim() == 2, "weight must be 2-D");
  const std::int64_t n = weight.shape(0), k = weight.shape(1);
  require(scale.size() == n, "scale must have one element a row of weight");
  require(!bias || bias->size() == n, "bias must have one element a row of weight");
  require(k <= max_exact_k(asymmetric, false), "weight has too many columns for exact int32 sums");
  const RhsView view{reinterpret_cast<const std::uint8_t*>(weight.data()), n, k, k, 1, false};
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, k);
  const GilReleased released;
  return PackedLinear(view, scale.data(), bias ? bias->data() : nullptr, {scheme, relu, function}, inputs);
}

py::object linear_from_image(const py::array& image, const std::string& family, std::int64_t n, std::int64_t k,
                             bool bias, bool asymmetric, bool relu, bool borrow,
                             const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                             const std::optional<std::string>& epilogue) {
  require_sizes(n, k);
  require(k <= max_exact_k(asymmetric, false), "weight has too many columns for exact int32 sums");
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const PanelShape panels = family_of(family).shape;
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, k);
  return from_image(image, PackedLinear::image_bytes(n, k, bias, panels), panels, borrow,
                    [&](Image memory, PanelShape shape) {
                      return PackedLinear(std::move(memory), n, k, bias, {scheme, relu, function}, shape, inputs);
                    });
}

py::array_t<std::int8_t> int_repr(const PackedLinear& self) {
  py::array_t<std::int8_t> q({self.weight().n(), self.weight().k()});
  self.weight().unpack(q.mutable_data());
  return q;
}

// 2-D arrays of float32, int8 or uint8 with contiguous rows, and the parameters that go with them.
PackedLinear::StaticRows static_rows(const py::array& array, std::int64_t width, double scale, std::int32_t zero_point,
                                     std::int32_t qmin, std::int32_t qmax) {
  require(array.ndim() == 2 && array.shape(1) == width, "x must be (m, in_features) and out (m, out_features)");
  const std::int64_t item = array.dtype().itemsize();
  const bool is_float = py::isinstance<py::array_t<float>>(array);
  require(is_float || is_byte_array(array), "x and out must be float32, int8 or uint8");
  require(width <= 1 || array.shape(0) == 0 || array.strides(1) == item, "rows of x and out must be contiguous");
  require(array.strides(0) % item == 0, "rows must be aligned");
  const auto type = is_float                      ? ElementType::kFloat32
                    : array.dtype().kind() == 'u' ? ElementType::kUint8
                                                  : ElementType::kInt8;
  return {const_cast<void*>(array.data()), type,       array.shape(0), array.strides(0) / item,
          static_cast<float>(scale),       zero_point, qmin,           qmax};
}

bool forward_static(const PackedLinear& self, const py::array& x, double x_scale, std::int32_t x_zero_point,
                    std::int32_t x_qmin, std::int32_t x_qmax, py::array& out, double out_scale,
                    std::int32_t out_zero_point, std::int32_t out_qmin, std::int32_t out_qmax) {
  const std::int64_t n = self.weight().n(), k = self.weight().k();
  require(out.writeable(), "out must be writable");
  require(x.shape(0) == out.shape(0), "x and out must have as many rows");
  require(k > 0, "a layer with fixed parameters has at least one input");
  require(x_scale > 0 && out_scale > 0, "scales must be positive");
  require(k <= max_exact_k(true, false), "weight has too many columns for exact int32 sums of asymmetric inputs");
  const bool of_floats = self.inputs().factors() != nullptr || self.inputs().rotation() != 0;
  require(!of_floats || py::isinstance<py::array_t<float>>(x), "factors and rotations are of float32 inputs");
  const auto from = static_rows(x, k, x_scale, x_zero_point, x_qmin, x_qmax);
  const auto to = static_rows(out, n, out_scale, out_zero_point, out_qmin, out_qmax);
  bool ok = true;
  without_gil(static_cast<double>(from.m) * static_cast<double>(n) * static_cast<double>(k),
              [&] { ok = self.forward_static(from, to); });
  return ok;
}

// ---- integer operators ---------------------------------------------------------------------------------------------

using ZeroPointArray = CArray<std::int32_t>;

ZeroPoints zero_points(const ZeroPointArray& array, std::int64_t length, const char* message) {
  require(array.ndim() == 1 && (array.size() == 1 || array.size() == length), message);
  return {array.data(), array.size() == 1};
}

py::array_t<std::int32_t> matmul_integer_of(const py::array& a_any, const py::array& b, const ZeroPointArray& a_zero,
                                            const ZeroPointArray& b_zero) {
  require(a_any.ndim() == 2 && b.ndim() == 2, "a and b must be 2-D");
  require(is_byte_array(a_any) && is_byte_array(b), "a and b must be int8 or uint8");
  require(a_any.shape(1) == b.shape(0), "columns of a and rows of b differ");
  // Rows of a are read as runs of bytes; b is read in any order.
  const bool runs = a_any.shape(1) <= 1 || a_any.strides(1) == 1;
  const py::array a = runs ? a_any : py::array::ensure(a_any, py::array::c_style);
  const std::int64_t m = a.shape(0), k = a.shape(1), n = b.shape(1);
  const LhsView lhs{static_cast<const std::uint8_t*>(a.data()), m, k, a.strides(0), a.dtype().kind() == 'u'};
  const RhsView rhs{
      static_cast<const std::uint8_t*>(b.data()), n, k, b.strides(1), b.strides(0), b.dtype().kind() == 'u'};
  const ZeroPoints za = zero_points(a_zero, m, "a_zero_point must have one element, or one a row of a");
  const ZeroPoints zb = zero_points(b_zero, n, "b_zero_point must have one element, or one a column of b");
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(m), static_cast<Py_intptr_t>(n)};
  py::array_t<std::int32_t> y(new_result(2, shape, py::dtype::of<std::int32_t>()));
  std::int32_t* dst = y.mutable_data();
  without_gil(static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
              [&] { matmul_integer(lhs, rhs, za, zb, dst); });
  return y;
}

// ---- kernels, CPU, threads -----------------------------------------------------------------------------------------

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
}  // namespace octavo

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace octavo;
  m.doc() = "Kernels, packing and threads of octavo. Private: use octavo and octavo.ops.";

  // An ordinary metaclass: pybind11's own one would be the only thing here that a type stub cannot describe.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<PackedLinear> layer(m, "PackedLinear", metaclass, py::is_final());
  layer
      .def(py::init(&make_linear), py::arg("weight"), py::arg("scale"), py::arg("bias").none(true), py::kw_only(),
           py::arg("asymmetric"), py::arg("relu"), py::arg("input_factor").none(true) = py::none(),
           py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def_static("from_image", &linear_from_image, py::arg("image"), py::kw_only(), py::arg("family"),
                  py::arg("out_features"), py::arg("in_features"), py::arg("bias"), py::arg("asymmetric"),
                  py::arg("relu"), py::arg("borrow"), py::arg("input_factor").none(true) = py::none(),
                  py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def("image", &image_for<PackedLinear>, py::arg("family"))
      .def_property_readonly("is_borrowed", [](const PackedLinear& self) { return self.image().is_borrowed(); })
      .def_property_readonly("in_features", [](const PackedLinear& self) { return self.weight().k(); })
      .def_property_readonly("out_features", [](const PackedLinear& self) { return self.weight().n(); })
      .def_property_readonly("nbytes", &PackedLinear::size_bytes)
      .def("int_repr", &int_repr)
      .def("int_rows", &int_rows<PackedLinear>, py::arg("outputs"))
      .def("int_columns", &int_columns<PackedLinear>, py::arg("inputs"))
      .def("scale", [](const PackedLinear& self) { return array_from(self.scale(), self.weight().n()); })
      .def("bias",
           [](const PackedLinear& self) -> std::optional<py::array_t<float>> {
             if (self.bias() == nullptr) return std::nullopt;
             return array_from(self.bias(), self.weight().n());
           })
      .def("input_factor", &factors_of<PackedLinear>)
      .def("forward", &forward<PackedLinear>, py::arg("x").noconvert(), py::arg("out").noconvert())
      .def("forward_static", &forward_static, py::arg("x"), py::arg("x_scale"), py::arg("x_zero_point"),
           py::arg("x_qmin"), py::arg("x_qmax"), py::arg("out"), py::arg("out_scale"), py::arg("out_zero_point"),
           py::arg("out_qmin"), py::arg("out_qmax"));
  bind_calls(layer);

  bind_attention(m);
  bind_fake_quant(m);
  bind_functional(m);
  bind_grouped(m);
  bind_int4(m);
  bind_integers(m);
  bind_recurrent(m);
  bind_results(m);
  bind_threads(m);
  bind_verbose(m);
  bind_words(m);

  m.def("matmul_integer", &matmul_integer_of, py::arg("a"), py::arg("b"), py::arg("a_zero_point"),
        py::arg("b_zero_point"));

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
  m.def("max_exact_k", &max_exact_k, py::arg("lhs_wide"), py::arg("rhs_wide"));
  m.def("build_info", &build_info);
}
