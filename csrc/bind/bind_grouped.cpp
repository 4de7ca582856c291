// PackedLinearGrouped: layers with grouped codes. Python has checked values and combinations; what is checked here is
// what memory safety and exact sums need.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bind/bindings.h"
#include "bind/epilogue.h"
#include "bind/image_call.h"
#include "bind/layer_call.h"
#include "gemm/gemm_grouped.h"

namespace octavo {
namespace {

bool is_type(const py::array& a, const char* name) { return a.dtype().equal(py::dtype(name)); }

void require_contiguous(const py::array& a) {
  require((a.flags() & py::array::c_style) != 0, "arrays must be C-contiguous");
}

const std::uint8_t* bytes_of(const py::array& a, std::int64_t size, const char* message) {
  require(is_type(a, "i1") || is_type(a, "u1"), "integers must be int8 or uint8");
  require_contiguous(a);
  require(a.size() == size, message);
  return static_cast<const std::uint8_t*>(a.data());
}

const std::byte* floats_of(const py::array& a, std::int64_t size, bool half) {
  require(is_type(a, half ? "e" : "f"), "scale and minimum must both be float32 or both float16");
  require_contiguous(a);
  require(a.size() == size, "scale and minimum must have one element a row and group, or a row and 256 columns");
  return static_cast<const std::byte*>(a.data());
}

// Codes of more bits than they are said to have would spill into their neighbours. Zero points take a byte each.
void require_bits(const std::uint8_t* values, std::int64_t count, bool is_signed, int bits, int beyond) {
  const int raise = is_signed ? 1 << (bits - 1) : 0, most = (1 << bits) - 1 + beyond;
  require(std::all_of(values, values + count, [&](int v) { return ((v + raise) & 0xff) <= most; }),
          "codes and zero points must have the bits that are given");
}

struct Arrays {
  py::array codes, scale;
  std::optional<py::array> zero_point, minimum, group_scale, group_minimum;
};

void require_form(const GroupedWeightForm& form, bool group_minimum) {
  const std::int64_t group_k = form.group_k;
  require(form.bits == 4 || form.bits == 5 || form.bits == 6 || form.bits == 8, "bits must be 4, 5, 6 or 8");
  require(group_k == 0 || group_k == 16 || group_k == 32 || group_k == 64 || group_k == 128 || group_k == 256,
          "group_k must be 16, 32, 64, 128, 256 or 0 for one group");
  require(group_k == 0 || form.k % group_k == 0, "group_k must divide the columns");
  require(!form.two_level || (group_k != 0 && group_k < kSuperK && form.k % kSuperK == 0),
          "two levels need short groups in 256");
  require(!group_minimum || (form.two_level && form.minimum), "group_minimum needs group_scale and minimum");
  require(!form.two_level || form.minimum == group_minimum, "minima of two levels come together");
  require(!form.zero_point || (!form.two_level && !form.minimum), "zero points stand beside scales of one level alone");
}

GroupedWeightForm form_of(const Arrays& a, std::int64_t group_k, std::int32_t bits) {
  require(a.codes.ndim() == 2, "codes must be 2-D");
  const GroupedWeightForm form{.n = a.codes.shape(0),
                               .k = a.codes.shape(1),
                               .group_k = group_k,
                               .bits = bits,
                               .is_signed = is_type(a.codes, "i1"),
                               .half = is_type(a.scale, "e"),
                               .zero_point = a.zero_point.has_value(),
                               .minimum = a.minimum.has_value(),
                               .two_level = a.group_scale.has_value(),
                               .signed_scale = a.group_scale && is_type(*a.group_scale, "i1")};
  require_form(form, a.group_minimum.has_value());
  return form;
}

GroupedView view_of(const Arrays& a, const GroupedWeightForm& form) {
  const std::int64_t groups = form.n * (form.group_k == 0 ? 1 : form.k / form.group_k);
  const std::int64_t floats = form.two_level ? form.n * (form.k / kSuperK) : groups;
  const char* const per_group = "integers must have one element a row and group";
  GroupedView view{};
  view.n = form.n;
  view.k = form.k;
  view.group_k = form.group_k;
  view.bits = form.bits;
  view.is_signed = form.is_signed;
  view.codes = bytes_of(a.codes, form.n * form.k, "codes must be 2-D");
  view.half = form.half;
  view.scale = floats_of(a.scale, floats, form.half);
  if (a.minimum) view.minimum = floats_of(*a.minimum, floats, form.half);
  if (a.zero_point) view.zero_point = bytes_of(*a.zero_point, groups, per_group);
  require(!a.zero_point || is_type(*a.zero_point, "i1") == form.is_signed, "zero_point must have the codes' type");
  if (a.group_scale) view.group_scale = bytes_of(*a.group_scale, groups, per_group);
  if (a.group_minimum) view.group_minimum = bytes_of(*a.group_minimum, groups, per_group);
  view.signed_scale = form.signed_scale;
  if (form.bits < 8) {
    require_bits(view.codes, form.n * form.k, form.is_signed, form.bits, 0);
    // Unsigned zero points of four bits go up to 16.
    const int beyond = form.bits == 4 && !form.is_signed ? 1 : 0;
    if (a.zero_point) require_bits(view.zero_point, groups, form.is_signed, form.bits, beyond);
  }
  return view;
}

GroupedActivations activations_of(const std::string& activation, std::int64_t group_k, const GroupedWeightForm& form) {
  require(activation == "symmetric" || activation == "asymmetric" || activation == "int16", "unknown activation");
  const bool whole_groups = form.group_k != 0 && group_k % form.group_k == 0;
  require(group_k == 0 || (group_k > 0 && group_k <= kSuperK && activation == "symmetric" && whole_groups &&
                           (!form.two_level || group_k == kSuperK)),
          "activations in groups do not fit the weights");
  const bool asymmetric = activation == "asymmetric";
  require(std::min(form.k, form.group_k == 0 ? form.k : form.group_k) <=
              max_exact_grouped_k(form.bits, form.is_signed, form.zero_point, asymmetric),
          "a group has too many columns for exact int32 sums");
  return {activation == "int16", asymmetric, group_k};
}

PackedLinearGrouped make_linear(const py::array& codes, const py::array& scale, std::optional<py::array> zero_point,
                                std::optional<py::array> minimum, std::optional<py::array> group_scale,
                                std::optional<py::array> group_minimum, const std::optional<CArray<float>>& bias,
                                std::int64_t group_k, std::int32_t bits, const std::string& activation,
                                std::int64_t activation_group, bool relu,
                                const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                                const std::optional<std::string>& epilogue) {
  const Arrays arrays{
      codes, scale, std::move(zero_point), std::move(minimum), std::move(group_scale), std::move(group_minimum)};
  const GroupedWeightForm form = form_of(arrays, group_k, bits);
  const GroupedView view = view_of(arrays, form);
  const GroupedActivations activations = activations_of(activation, activation_group, form);
  require(!bias || bias->size() == form.n, "bias must have one element a row of codes");
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, form.k);
  const GilReleased released;
  return PackedLinearGrouped(view, bias ? bias->data() : nullptr, {activations, relu, function}, inputs);
}

// Arrays are given by the names of their types, empty for what was not there.
py::object linear_from_image(const py::array& image, std::int64_t n, std::int64_t k, const std::string& codes,
                             const std::string& scale, const std::string& zero_point, const std::string& minimum,
                             const std::string& group_scale, const std::string& group_minimum, bool bias,
                             std::int64_t group_k, std::int32_t bits, const std::string& activation,
                             std::int64_t activation_group, bool relu, bool borrow,
                             const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                             const std::optional<std::string>& epilogue) {
  require_sizes(n, k);
  const GroupedWeightForm form{.n = n,
                               .k = k,
                               .group_k = group_k,
                               .bits = bits,
                               .is_signed = codes == "int8",
                               .half = scale == "float16",
                               .zero_point = !zero_point.empty(),
                               .minimum = !minimum.empty(),
                               .two_level = !group_scale.empty(),
                               .signed_scale = group_scale == "int8"};
  require_form(form, !group_minimum.empty());
  const GroupedLayerOptions options{activations_of(activation, activation_group, form), relu, function_named(epilogue)};
  const InputTransform inputs = checked_inputs(input_factor, rotation, k);
  const PanelShape own = own_family().shape;  // panels of grouped codes are those of every family
  return from_image(
      image, PackedLinearGrouped::image_bytes(form, bias, options), own, borrow,
      [&](Image memory, PanelShape) { return PackedLinearGrouped(std::move(memory), form, bias, options, inputs); });
}

py::array empty_codes(const PackedLinearGrouped& self, std::int64_t rows, std::int64_t cols) {
  return py::array(py::dtype(self.weight().is_signed() ? "i1" : "u1"), std::vector<std::int64_t>{rows, cols});
}

std::uint8_t* bytes_in(py::array& a) { return static_cast<std::uint8_t*>(a.mutable_data()); }

py::array codes_of(const PackedLinearGrouped& self) {
  py::array codes = empty_codes(self, self.n(), self.k());
  self.weight().unpack(bytes_in(codes));
  return codes;
}

py::array some_codes(const PackedLinearGrouped& self, const CArray<std::int64_t>& indices, bool rows) {
  const std::int64_t* const first = checked(indices, rows ? self.n() : self.k());
  py::array codes = empty_codes(self, indices.size(), rows ? self.k() : self.n());
  if (rows) {
    self.weight().unpack_rows(first, indices.size(), bytes_in(codes));
  } else {
    self.weight().unpack_columns(first, indices.size(), bytes_in(codes));
  }
  return codes;
}

std::span<const std::int64_t> span_of(const CArray<std::int64_t>& indices) {
  return {indices.data(), static_cast<std::size_t>(indices.size())};
}

std::optional<py::array> floats_array(const PackedLinearGrouped& self, bool minimum, const Chosen& some) {
  const GroupedForm& form = self.weight().form();
  if (minimum && !form.has_minimum) return std::nullopt;
  const CArray<std::int64_t> outputs = chosen(some, self.n());
  py::array floats(py::dtype(form.half ? "e" : "f"), std::vector<std::int64_t>{outputs.size(), form.records()});
  self.weight().unpack_floats(span_of(outputs), minimum, static_cast<std::byte*>(floats.mutable_data()));
  return floats;
}

std::optional<py::array> levels_array(const PackedLinearGrouped& self, bool minimum, const Chosen& some) {
  const GroupedForm& form = self.weight().form();
  if (!form.two_level || (minimum && !form.has_minimum)) return std::nullopt;
  const CArray<std::int64_t> outputs = chosen(some, self.n());
  const char* const type = form.signed_scale && !minimum ? "i1" : "u1";
  py::array integers(py::dtype(type), std::vector<std::int64_t>{outputs.size(), form.groups()});
  self.weight().unpack_levels(span_of(outputs), minimum, bytes_in(integers));
  return integers;
}

std::optional<py::array> zero_point_of(const PackedLinearGrouped& self, const Chosen& some) {
  if (!self.weight().form().has_offsets) return std::nullopt;
  const CArray<std::int64_t> outputs = chosen(some, self.n());
  py::array zero_point = empty_codes(self, outputs.size(), self.weight().form().groups());
  self.weight().unpack_zero_point(span_of(outputs), bytes_in(zero_point));
  return zero_point;
}

}  // namespace

void bind_grouped(py::module_& m) {
  using Layer = PackedLinearGrouped;
  const auto of_some = py::arg("outputs") = py::none();
  layer_class<Layer>(m, "PackedLinearGrouped")
      .def(py::init(&make_linear), py::arg("codes"), py::arg("scale"), py::kw_only(), py::arg("zero_point").none(true),
           py::arg("minimum").none(true), py::arg("group_scale").none(true), py::arg("group_minimum").none(true),
           py::arg("bias").none(true), py::arg("group_k"), py::arg("bits"), py::arg("activation"),
           py::arg("activation_group"), py::arg("relu"), py::arg("input_factor").none(true) = py::none(),
           py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def_static("from_image", &linear_from_image, py::arg("image"), py::kw_only(), py::arg("out_features"),
                  py::arg("in_features"), py::arg("codes"), py::arg("scale"), py::arg("zero_point"), py::arg("minimum"),
                  py::arg("group_scale"), py::arg("group_minimum"), py::arg("bias"), py::arg("group_k"),
                  py::arg("bits"), py::arg("activation"), py::arg("activation_group"), py::arg("relu"),
                  py::arg("borrow"), py::arg("input_factor").none(true) = py::none(), py::arg("rotation") = 0,
                  py::arg("epilogue").none(true) = py::none())
      .def("int_repr", &codes_of)
      .def(
          "int_rows",
          [](const Layer& self, const CArray<std::int64_t>& outputs) { return some_codes(self, outputs, true); },
          py::arg("outputs"))
      .def(
          "int_columns",
          [](const Layer& self, const CArray<std::int64_t>& inputs) { return some_codes(self, inputs, false); },
          py::arg("inputs"))
      .def(
          "scale", [](const Layer& self, const Chosen& some) { return *floats_array(self, false, some); }, of_some)
      .def(
          "minimum", [](const Layer& self, const Chosen& some) { return floats_array(self, true, some); }, of_some)
      .def(
          "group_scale", [](const Layer& self, const Chosen& some) { return levels_array(self, false, some); }, of_some)
      .def(
          "group_minimum", [](const Layer& self, const Chosen& some) { return levels_array(self, true, some); },
          of_some)
      .def("zero_point", &zero_point_of, of_some);
  m.def("max_exact_grouped_k", &max_exact_grouped_k, py::arg("bits"), py::arg("is_signed"), py::arg("has_zero_point"),
        py::arg("asymmetric"));
}

}  // namespace octavo
