// PackedLinearGrouped: layers with grouped codes. Python has checked values and combinations; what is checked here is
// what memory safety and exact sums need.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
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

struct Present {
  bool zero_point, minimum, group_scale, group_minimum;
};

void require_form(std::int64_t k, std::int64_t group_k, std::int32_t bits, const Present& has) {
  require(bits == 4 || bits == 5 || bits == 6 || bits == 8, "bits must be 4, 5, 6 or 8");
  require(group_k == 0 || group_k == 16 || group_k == 32 || group_k == 64 || group_k == 128 || group_k == 256,
          "group_k must be 16, 32, 64, 128, 256 or 0 for one group");
  require(group_k == 0 || k % group_k == 0, "group_k must divide the columns");
  const bool two_level = has.group_scale;
  require(!two_level || (group_k != 0 && group_k < kSuperK && k % kSuperK == 0), "two levels need short groups in 256");
  require(!has.group_minimum || (two_level && has.minimum), "group_minimum needs group_scale and minimum");
  require(!two_level || has.minimum == has.group_minimum, "minima of two levels come together");
  require(!has.zero_point || (!two_level && !has.minimum), "zero points stand beside scales of one level alone");
}

GroupedView view_of(const Arrays& a, std::int64_t group_k, std::int32_t bits) {
  require(a.codes.ndim() == 2, "codes must be 2-D");
  const std::int64_t n = a.codes.shape(0), k = a.codes.shape(1);
  const bool two_level = a.group_scale.has_value();
  require_form(k, group_k, bits,
               {a.zero_point.has_value(), a.minimum.has_value(), two_level, a.group_minimum.has_value()});
  const std::int64_t groups = n * (group_k == 0 ? 1 : k / group_k), floats = two_level ? n * (k / kSuperK) : groups;
  const char* const per_group = "integers must have one element a row and group";
  GroupedView view{};
  view.n = n;
  view.k = k;
  view.group_k = group_k;
  view.bits = bits;
  view.is_signed = is_type(a.codes, "i1");
  view.codes = bytes_of(a.codes, n * k, "codes must be 2-D");
  view.half = is_type(a.scale, "e");
  view.scale = floats_of(a.scale, floats, view.half);
  if (a.minimum) view.minimum = floats_of(*a.minimum, floats, view.half);
  if (a.zero_point) view.zero_point = bytes_of(*a.zero_point, groups, per_group);
  require(!a.zero_point || is_type(*a.zero_point, "i1") == view.is_signed, "zero_point must have the codes' type");
  if (a.group_scale) view.group_scale = bytes_of(*a.group_scale, groups, per_group);
  if (a.group_minimum) view.group_minimum = bytes_of(*a.group_minimum, groups, per_group);
  view.signed_scale = a.group_scale && is_type(*a.group_scale, "i1");
  if (bits < 8) {
    require_bits(view.codes, n * k, view.is_signed, bits, 0);
    // Unsigned zero points of four bits go up to 16.
    if (a.zero_point) require_bits(view.zero_point, groups, view.is_signed, bits, bits == 4 && !view.is_signed ? 1 : 0);
  }
  return view;
}

GroupedActivations activations_of(const std::string& activation, std::int64_t group_k, const GroupedView& view) {
  require(activation == "symmetric" || activation == "asymmetric" || activation == "int16", "unknown activation");
  const bool whole_groups = view.group_k != 0 && group_k % view.group_k == 0;
  require(group_k == 0 || (group_k > 0 && group_k <= kSuperK && activation == "symmetric" && whole_groups &&
                           (view.group_scale == nullptr || group_k == kSuperK)),
          "activations in groups do not fit the weights");
  return {activation == "int16", activation == "asymmetric", group_k};
}

void require_exact(const GroupedView& view, const GroupedActivations& activations) {
  require(std::min(view.k, view.group_k == 0 ? view.k : view.group_k) <=
              max_exact_grouped_k(view.bits, view.is_signed, view.zero_point != nullptr, activations.asymmetric),
          "a group has too many columns for exact int32 sums");
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
  const GroupedView view = view_of(arrays, group_k, bits);
  const GroupedActivations activations = activations_of(activation, activation_group, view);
  require(!bias || bias->size() == view.n, "bias must have one element a row of codes");
  require_exact(view, activations);
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, view.k);
  const GilReleased released;
  return PackedLinearGrouped(view, bias ? bias->data() : nullptr, {activations, relu, function}, inputs);
}

// What an image holds, as make_linear was given it: by the names of the types, and empty for what was not there.
struct GroupedNames {
  std::string codes, scale, zero_point, minimum, group_scale, group_minimum;
};

py::object linear_from_image(const py::array& image, std::int64_t n, std::int64_t k, const GroupedNames& names,
                             bool bias, std::int64_t group_k, std::int32_t bits, const GroupedActivations& activations,
                             bool relu, bool borrow, const std::optional<CArray<float>>& input_factor,
                             std::int64_t rotation, const std::optional<std::string>& epilogue) {
  static constexpr std::uint8_t kThere = 0;  // pointers say only what there is
  const auto there = [](const std::string& name) { return name.empty() ? nullptr : &kThere; };
  GroupedView view{};
  view.n = n;
  view.k = k;
  view.group_k = group_k;
  view.bits = bits;
  view.is_signed = names.codes == "int8";
  view.half = names.scale == "float16";
  view.zero_point = there(names.zero_point);
  view.minimum = reinterpret_cast<const std::byte*>(there(names.minimum));
  view.group_scale = there(names.group_scale);
  view.group_minimum = there(names.group_minimum);
  view.signed_scale = names.group_scale == "int8";
  require_exact(view, activations);
  const LayerFunction function = function_named(epilogue);
  const InputTransform inputs = checked_inputs(input_factor, rotation, view.k);
  const PanelShape own = own_family().shape;  // panels of grouped codes are those of every family
  return from_image(image, PackedLinearGrouped::image_bytes(view, bias, {activations, relu, function}), own, borrow,
                    [&](Image memory, PanelShape) {
                      return PackedLinearGrouped(std::move(memory), view, bias, {activations, relu, function}, inputs);
                    });
}

py::object from_names(const py::array& image, std::int64_t n, std::int64_t k, std::string codes, std::string scale,
                      std::string zero_point, std::string minimum, std::string group_scale, std::string group_minimum,
                      bool bias, std::int64_t group_k, std::int32_t bits, const std::string& activation,
                      std::int64_t activation_group, bool relu, bool borrow,
                      const std::optional<CArray<float>>& input_factor, std::int64_t rotation,
                      const std::optional<std::string>& epilogue) {
  const GroupedNames names{std::move(codes),   std::move(scale),       std::move(zero_point),
                           std::move(minimum), std::move(group_scale), std::move(group_minimum)};
  require_sizes(n, k);
  require_form(
      k, group_k, bits,
      {!names.zero_point.empty(), !names.minimum.empty(), !names.group_scale.empty(), !names.group_minimum.empty()});
  GroupedView view{};
  view.group_k = group_k;
  const std::uint8_t two_level = 0;
  if (!names.group_scale.empty()) view.group_scale = &two_level;
  const GroupedActivations activations = activations_of(activation, activation_group, view);
  return linear_from_image(image, n, k, names, bias, group_k, bits, activations, relu, borrow, input_factor, rotation,
                           epilogue);
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

// Outputs that are asked for, checked; all of them where none are named.
class Outputs {
 public:
  Outputs(const PackedLinearGrouped& self, const std::optional<CArray<std::int64_t>>& some) {
    if (!some) {
      all_.resize(static_cast<std::size_t>(self.n()));
      std::iota(all_.begin(), all_.end(), 0);
      rows_ = all_;
      return;
    }
    require_indices(*some, self.n());
    rows_ = {some->data(), static_cast<std::size_t>(some->size())};
  }
  static void require_indices(const CArray<std::int64_t>& indices, std::int64_t limit) {
    require(indices.ndim() == 1, "indices must be 1-D");
    require(std::all_of(indices.data(), indices.data() + indices.size(),
                        [&](std::int64_t i) { return i >= 0 && i < limit; }),
            "index out of range");
  }
  std::span<const std::int64_t> rows() const { return rows_; }
  std::int64_t count() const { return static_cast<std::int64_t>(rows_.size()); }

 private:
  std::vector<std::int64_t> all_;
  std::span<const std::int64_t> rows_;
};

using SomeOutputs = std::optional<CArray<std::int64_t>>;

py::array some_codes(const PackedLinearGrouped& self, const CArray<std::int64_t>& indices, bool rows) {
  Outputs::require_indices(indices, rows ? self.n() : self.k());
  py::array codes = empty_codes(self, indices.size(), rows ? self.k() : self.n());
  if (rows) {
    self.weight().unpack_rows(indices.data(), indices.size(), bytes_in(codes));
  } else {
    self.weight().unpack_columns(indices.data(), indices.size(), bytes_in(codes));
  }
  return codes;
}

std::optional<py::array> floats_array(const PackedLinearGrouped& self, bool minimum, const SomeOutputs& some) {
  const GroupedForm& form = self.weight().form();
  if (minimum && !form.has_minimum) return std::nullopt;
  const Outputs outputs(self, some);
  py::array floats(py::dtype(form.half ? "e" : "f"), std::vector<std::int64_t>{outputs.count(), form.records()});
  self.weight().unpack_floats(outputs.rows(), minimum, static_cast<std::byte*>(floats.mutable_data()));
  return floats;
}

std::optional<py::array> levels_array(const PackedLinearGrouped& self, bool minimum, const SomeOutputs& some) {
  const GroupedForm& form = self.weight().form();
  if (!form.two_level || (minimum && !form.has_minimum)) return std::nullopt;
  const Outputs outputs(self, some);
  const char* const type = form.signed_scale && !minimum ? "i1" : "u1";
  py::array integers(py::dtype(type), std::vector<std::int64_t>{outputs.count(), form.groups()});
  self.weight().unpack_levels(outputs.rows(), minimum, bytes_in(integers));
  return integers;
}

std::optional<py::array> zero_point_of(const PackedLinearGrouped& self, const SomeOutputs& some) {
  if (!self.weight().form().has_offsets) return std::nullopt;
  const Outputs outputs(self, some);
  py::array zero_point = empty_codes(self, outputs.count(), self.weight().form().groups());
  self.weight().unpack_zero_point(outputs.rows(), bytes_in(zero_point));
  return zero_point;
}

}  // namespace

void bind_grouped(py::module_& m) {
  using Layer = PackedLinearGrouped;
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  const auto of_some = py::arg("outputs") = py::none();
  py::class_<Layer> layer(m, "PackedLinearGrouped", metaclass, py::is_final());
  layer
      .def(py::init(&make_linear), py::arg("codes"), py::arg("scale"), py::kw_only(), py::arg("zero_point").none(true),
           py::arg("minimum").none(true), py::arg("group_scale").none(true), py::arg("group_minimum").none(true),
           py::arg("bias").none(true), py::arg("group_k"), py::arg("bits"), py::arg("activation"),
           py::arg("activation_group"), py::arg("relu"), py::arg("input_factor").none(true) = py::none(),
           py::arg("rotation") = 0, py::arg("epilogue").none(true) = py::none())
      .def_static("from_image", &from_names, py::arg("image"), py::kw_only(), py::arg("out_features"),
                  py::arg("in_features"), py::arg("codes"), py::arg("scale"), py::arg("zero_point"), py::arg("minimum"),
                  py::arg("group_scale"), py::arg("group_minimum"), py::arg("bias"), py::arg("group_k"),
                  py::arg("bits"), py::arg("activation"), py::arg("activation_group"), py::arg("relu"),
                  py::arg("borrow"), py::arg("input_factor").none(true) = py::none(), py::arg("rotation") = 0,
                  py::arg("epilogue").none(true) = py::none())
      .def(
          "image", [](const py::object& self, const std::string&) { return image_view<Layer>(self); },
          py::arg("family"))
      .def_property_readonly("is_borrowed", [](const Layer& self) { return self.image().is_borrowed(); })
      .def_property_readonly("in_features", &Layer::k)
      .def_property_readonly("out_features", &Layer::n)
      .def_property_readonly("nbytes", &Layer::size_bytes)
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
          "scale", [](const Layer& self, const SomeOutputs& some) { return *floats_array(self, false, some); }, of_some)
      .def(
          "minimum", [](const Layer& self, const SomeOutputs& some) { return floats_array(self, true, some); }, of_some)
      .def(
          "group_scale", [](const Layer& self, const SomeOutputs& some) { return levels_array(self, false, some); },
          of_some)
      .def(
          "group_minimum", [](const Layer& self, const SomeOutputs& some) { return levels_array(self, true, some); },
          of_some)
      .def("zero_point", &zero_point_of, of_some)
      .def("bias",
           [](const Layer& self) -> std::optional<py::array_t<float>> {
             if (self.bias() == nullptr) return std::nullopt;
             return array_from(self.bias(), self.n());
           })
      .def("input_factor", &factors_of<Layer>)
      .def("forward", &forward<Layer>, py::arg("x").noconvert(), py::arg("out").noconvert());
  bind_calls(layer);
  m.def("max_exact_grouped_k", &max_exact_grouped_k, py::arg("bits"), py::arg("is_signed"), py::arg("has_zero_point"),
        py::arg("asymmetric"));
}

}  // namespace octavo
