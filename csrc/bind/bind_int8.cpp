// PackedLinear: layers with int8 weights. And products of int8 and uint8 matrices with zero points.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "bind/bindings.h"
#include "bind/epilogue.h"
#include "bind/gil.h"
#include "bind/image_call.h"
#include "bind/layer_call.h"
#include "bind/result_array.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

bool is_byte_array(const py::array& a) {
  return a.dtype().itemsize() == 1 && (a.dtype().kind() == 'i' || a.dtype().kind() == 'u');
}

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

}  // namespace

void bind_int8(py::module_& m) {
  layer_class<PackedLinear>(m, "PackedLinear")
      .def(py::init(&make_linear), py::arg("weight"), py::arg("scale"), py::arg("bias").none(true), py::kw_only(),
           py::arg("asymmetric"), py::arg("relu"), py::arg("input_factor").none(true) = py::none(),
           py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def_static("from_image", &linear_from_image, py::arg("image"), py::kw_only(), py::arg("family"),
                  py::arg("out_features"), py::arg("in_features"), py::arg("bias"), py::arg("asymmetric"),
                  py::arg("relu"), py::arg("borrow"), py::arg("input_factor").none(true) = py::none(),
                  py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def("int_repr", &int_repr)
      .def("int_rows", &int_rows<PackedLinear>, py::arg("outputs"))
      .def("int_columns", &int_columns<PackedLinear>, py::arg("inputs"))
      .def("scale", [](const PackedLinear& self) { return array_from(self.scale(), self.n()); })
      .def("forward_static", &forward_static, py::arg("x"), py::arg("x_scale"), py::arg("x_zero_point"),
           py::arg("x_qmin"), py::arg("x_qmax"), py::arg("out"), py::arg("out_scale"), py::arg("out_zero_point"),
           py::arg("out_qmin"), py::arg("out_qmax"));
  m.def("matmul_integer", &matmul_integer_of, py::arg("a"), py::arg("b"), py::arg("a_zero_point"),
        py::arg("b_zero_point"));
  m.def("max_exact_k", &max_exact_k, py::arg("lhs_wide"), py::arg("rhs_wide"));
}

}  // namespace octavo
