// PackedLinearInt4: layers with four-bit weights.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "bind/bindings.h"
#include "bind/epilogue.h"
#include "bind/gil.h"
#include "bind/image_call.h"
#include "bind/layer_call.h"
#include "gemm/gemm_int4.h"

namespace octavo {
namespace {

std::int64_t group_count(std::int64_t k, std::int64_t group_k) {
  if (group_k == 0) return 1;
  return k / group_k + (k % group_k != 0 ? 1 : 0);  // no sum, which a huge group_k would overflow
}

bool all_int4(const CArray<std::int8_t>& values) {
  return std::all_of(values.data(), values.data() + values.size(), [](int v) { return v >= -8 && v <= 7; });
}

PackedLinearInt4 make_linear_int4(const CArray<std::int8_t>& weight, const py::array& scale,
                                  const std::optional<CArray<std::int8_t>>& zero_point,
                                  const std::optional<CArray<float>>& bias, std::int64_t group_k, bool asymmetric,
                                  bool relu, const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                                  const std::optional<std::string>& epilogue) {
  require(weight.ndim() == 2, "weight must be 2-D");
  const std::int64_t n = weight.shape(0), k = weight.shape(1);
  require(group_k >= 0 && group_k % kInt4Half == 0, "group_k must be a multiple of 32, or 0 for one group");
  const bool is_half = scale.dtype().equal(py::dtype("e"));  // native byte order
  require(is_half || py::isinstance<py::array_t<float>>(scale), "scale must be float32 or float16");
  require((scale.flags() & py::array::c_style) != 0, "scale must be C-contiguous");
  require(scale.size() == n * group_count(k, group_k), "scale must have one element a row and group of weight");
  require(!zero_point || zero_point->size() == scale.size(), "zero_point must have as many elements as scale");
  require(!bias || bias->size() == n, "bias must have one element a row of weight");
  require(all_int4(weight) && (!zero_point || all_int4(*zero_point)), "weight and zero_point must be -8 to 7");
  require(std::min(k, group_k == 0 ? k : group_k) <= max_exact_group_k(asymmetric, zero_point.has_value()),
          "a group has too many columns for exact int32 sums");
  const Int4View view{weight.data(),
                      n,
                      k,
                      group_k,
                      is_half ? nullptr : static_cast<const float*>(scale.data()),
                      is_half ? static_cast<const std::uint16_t*>(scale.data()) : nullptr,
                      zero_point ? zero_point->data() : nullptr};
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, k);
  const GilReleased released;
  return PackedLinearInt4(view, bias ? bias->data() : nullptr, {scheme, relu, function}, inputs);
}

struct Int4Image {
  std::int64_t n, k, group_k;
  bool half_scale, zero_point, bias;
};

py::object linear_from_image(const py::array& image, const std::string& family, const Int4Image& of, bool asymmetric,
                             bool relu, bool borrow, const std::optional<CArray<float>>& input_factor,
                             std::int64_t rotation, const std::optional<std::string>& epilogue) {
  require_sizes(of.n, of.k);
  require(of.group_k >= 0 && of.group_k % kInt4Half == 0, "group_k must be a multiple of 32, or 0 for one group");
  require(std::min(of.k, of.group_k == 0 ? of.k : of.group_k) <= max_exact_group_k(asymmetric, of.zero_point),
          "a group has too many columns for exact int32 sums");
  const Int4Form form{of.n, of.k, of.group_k, of.half_scale, of.zero_point, asymmetric};
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const PanelShape panels = family_of(family).shape;
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, of.k);
  return from_image(
      image, PackedLinearInt4::image_bytes(form, of.bias, panels), panels, borrow, [&](Image memory, PanelShape shape) {
        return PackedLinearInt4(std::move(memory), form, of.bias, {scheme, relu, function}, shape, inputs);
      });
}

py::array_t<std::int8_t> int_repr(const PackedLinearInt4& self) {
  py::array_t<std::int8_t> q({self.n(), self.k()});
  self.weight().unpack(q.mutable_data());
  return q;
}

Indices indices(const CArray<std::int64_t>& of) { return {of.data(), of.size()}; }

py::array scale_of(const PackedLinearInt4& self, const Chosen& outputs, const Chosen& groups) {
  const PackedInt4& weight = self.weight();
  const CArray<std::int64_t> n = chosen(outputs, self.n()), g = chosen(groups, weight.group_count());
  const std::vector<std::int64_t> shape{n.size(), g.size()};
  py::array scale(weight.has_half_scale() ? py::dtype("e") : py::dtype::of<float>(), shape);
  weight.unpack_scale(indices(n), indices(g), scale.mutable_data());
  return scale;
}

py::array_t<std::int8_t> zero_point_of(const PackedLinearInt4& self, const Chosen& outputs, const Chosen& groups) {
  const CArray<std::int64_t> n = chosen(outputs, self.n()), g = chosen(groups, self.weight().group_count());
  py::array_t<std::int8_t> zero_point({n.size(), g.size()});
  self.weight().unpack_zero_point(indices(n), indices(g), zero_point.mutable_data());
  return zero_point;
}

}  // namespace

void bind_int4(py::module_& m) {
  layer_class<PackedLinearInt4>(m, "PackedLinearInt4")
      .def(py::init(&make_linear_int4), py::arg("weight"), py::arg("scale"), py::arg("zero_point").none(true),
           py::arg("bias").none(true), py::kw_only(), py::arg("group_k"), py::arg("asymmetric"), py::arg("relu"),
           py::arg("input_factor").none(true) = py::none(), py::arg("rotation") = 0,
           py::arg("epilogue").none(true) = py::none())
      .def_static(
          "from_image",
          [](const py::array& image, const std::string& family, std::int64_t n, std::int64_t k, std::int64_t group_k,
             bool half_scale, bool zero_point, bool bias, bool asymmetric, bool relu, bool borrow,
             const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
             const std::optional<std::string>& epilogue) {
            return linear_from_image(image, family, {n, k, group_k, half_scale, zero_point, bias}, asymmetric, relu,
                                     borrow, input_factor, rotation, epilogue);
          },
          py::arg("image"), py::kw_only(), py::arg("family"), py::arg("out_features"), py::arg("in_features"),
          py::arg("group_k"), py::arg("half_scale"), py::arg("zero_point"), py::arg("bias"), py::arg("asymmetric"),
          py::arg("relu"), py::arg("borrow"), py::arg("input_factor").none(true) = py::none(), py::arg("rotation") = 0,
          py::arg("epilogue").none(true) = py::none())
      .def_property_readonly("symmetric",
                             [](const PackedLinearInt4& self) { return !self.weight().groups().has_offsets; })
      .def("int_repr", &int_repr)
      .def("int_rows", &int_rows<PackedLinearInt4>, py::arg("outputs"))
      .def("int_columns", &int_columns<PackedLinearInt4>, py::arg("inputs"))
      .def("scale", &scale_of, py::arg("outputs") = py::none(), py::arg("groups") = py::none())
      .def("zero_point", &zero_point_of, py::arg("outputs") = py::none(), py::arg("groups") = py::none());
  m.def("max_exact_group_k", &max_exact_group_k, py::arg("lhs_wide"), py::arg("rhs_wide"));
}

}  // namespace octavo
