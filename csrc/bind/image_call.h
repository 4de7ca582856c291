// What the bindings of layers share: the members of every format, and images, which give a layer's memory away and make
// a layer of such memory. Included by the files of csrc/bind alone.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "bind/gil.h"
#include "bind/layer_call.h"
#include "gemm/image.h"

namespace octavo {

inline const Family& family_of(const std::string& name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) return family;
  }
  throw std::invalid_argument("unknown family");
}

// Sizes whose padded products do not overflow.
inline void require_sizes(std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kMost = std::int64_t{1} << 46;
  require(n >= 0 && k >= 0 && n <= kMost && k <= kMost && (k == 0 || n <= kMost / k), "shape out of range");
}

// The layer's memory, read-only: it lives as long as the array does.
template <class Layer>
py::array image_view(const py::object& self) {
  const Image& image = self.cast<const Layer&>().image();
  const auto bytes = static_cast<py::ssize_t>(image.size_bytes());
  py::array view(py::dtype::of<std::uint8_t>(), {bytes}, {py::ssize_t{1}}, image.data(), self);
  py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

// That of the layer in the panels of a family. Some layers have the same for all.
template <class Layer>
py::array image_for(const py::object& self, const std::string& family) {
  const PanelShape shape = family_of(family).shape;
  if constexpr (requires(const Layer& layer) { layer.repacked(shape); }) {
    if (shape == own_family().shape) return image_view<Layer>(self);
    const Layer& layer = self.cast<const Layer&>();
    const auto repack = [&] {
      const GilReleased released;
      return layer.repacked(shape);
    };
    return image_view<Layer>(py::cast(repack()));
  } else {
    return image_view<Layer>(self);
  }
}

// The Python class of a layer, with what the layers of all formats have.
template <class Layer>
py::class_<Layer> layer_class(py::module_& m, const char* name) {
  // An ordinary metaclass: pybind11's own one would be the only thing here that a type stub cannot describe.
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<Layer> layer(m, name, metaclass, py::is_final());
  layer.def("image", &image_for<Layer>, py::arg("family"))
      .def_property_readonly("is_borrowed", [](const Layer& self) { return self.image().is_borrowed(); })
      .def_property_readonly("in_features", &Layer::k)
      .def_property_readonly("out_features", &Layer::n)
      .def_property_readonly("nbytes", &Layer::size_bytes)
      .def("bias",
           [](const Layer& self) -> std::optional<py::array_t<float>> {
             if (self.bias() == nullptr) return std::nullopt;
             return array_from(self.bias(), self.n());
           })
      .def("input_factor", &factors_of<Layer>)
      .def("forward", &forward<Layer>, py::arg("x").noconvert(), py::arg("out").noconvert());
  bind_calls(layer);
  return layer;
}

// A layer of the bytes of an image. With `borrow` it computes in place where the memory is aligned; the bytes must not
// change then. make(image, shape) gives the layer that lies in an image. What lies in panels of another family is
// packed anew.
template <class Make>
py::object from_image(const py::array& bytes, std::size_t expected, PanelShape shape, bool borrow, const Make& make) {
  require(bytes.ndim() == 1 && py::isinstance<py::array_t<std::uint8_t>>(bytes), "an image must be 1-D uint8");
  require((bytes.flags() & py::array::c_style) != 0, "an image must be contiguous");
  require(static_cast<std::size_t>(bytes.size()) == expected, "the image does not have the size of such a layer");
  const bool aligned = reinterpret_cast<std::uintptr_t>(bytes.data()) % AlignedBuffer::kAlignment == 0;
  const bool own = shape == own_family().shape;
  auto* const data = const_cast<std::byte*>(static_cast<const std::byte*>(bytes.data()));
  if (borrow && aligned && own && expected != 0) {
    py::object layer = py::cast(make(Image::over(data, expected), shape));
    py::detail::keep_alive_impl(layer, bytes);
    return layer;
  }
  const auto copy = [&] {
    const GilReleased released;
    Image image = Image::zeros(expected);
    if (expected != 0) std::memcpy(image.writable(), data, expected);
    return make(std::move(image), shape);
  };
  auto layer = copy();
  if (own) return py::cast(std::move(layer));
  if constexpr (requires { layer.repacked(shape); }) {
    const auto repack = [&] {
      const GilReleased released;
      return layer.repacked(own_family().shape);
    };
    return py::cast(repack());
  } else {
    return py::cast(std::move(layer));
  }
}

}  // namespace octavo
