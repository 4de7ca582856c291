// Arrays of rows of heads, (..., heads, dim) float32, whose rows may lie apart: queries, keys and values are often
// views of one product. Everything is checked here, in nanoseconds, and what does not fit goes back to the Python
// layer. Included by the files of csrc/bind alone.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bind/result_array.h"

namespace octavo {

namespace py = pybind11;

// An ndarray (no subclass) of aligned, native float32: C-contiguous with three axes or more, or (rows, heads, dim) with
// contiguous heads. Not ok where it is anything else.
struct HeadRows {
  explicit HeadRows(py::handle argument) {
    auto& api = py::detail::npy_api::get();
    if (reinterpret_cast<PyObject*>(Py_TYPE(argument.ptr())) != reinterpret_cast<PyObject*>(api.PyArray_Type_)) return;
    const auto* a = py::detail::array_proxy(argument.ptr());
    if (a->nd < 3 || (a->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0 ||
        !py::array_t<float>::check_(argument)) {
      return;
    }
    heads = a->dimensions[a->nd - 2], dim = a->dimensions[a->nd - 1], rows = 1;
    for (int i = 0; i + 2 < a->nd; ++i) rows *= a->dimensions[i];
    stride = heads * dim, head_stride = dim;
    if ((a->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) == 0) {
      constexpr Py_intptr_t kItem = sizeof(float);
      const Py_intptr_t *s = a->strides, row = s[0], head = s[1];
      if (a->nd != 3 || row < 0 || head < 0 || row % kItem != 0 || head % kItem != 0) return;
      if (dim > 1 && s[2] != kItem) return;
      stride = row / kItem, head_stride = head / kItem;
    }
    data = reinterpret_cast<float*>(a->data);
    array = a;
  }

  bool ok() const { return array != nullptr; }
  bool is_3d() const { return ok() && array->nd == 3; }
  std::int64_t size() const { return rows * heads * dim; }
  // Elements from the first to behind the last.
  std::int64_t extent() const { return size() == 0 ? 0 : (rows - 1) * stride + (heads - 1) * head_stride + dim; }
  bool is_writable() const {
    const bool apart = (heads <= 1 || head_stride >= dim) && (rows <= 1 || stride >= (heads - 1) * head_stride + dim);
    return apart && (array->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
  }
  bool has_shape_of(const HeadRows& other) const {
    if (array->nd != other.array->nd) return false;
    for (int i = 0; i < array->nd; ++i) {
      if (array->dimensions[i] != other.array->dimensions[i]) return false;
    }
    return true;
  }
  bool is_apart_from(const float* first, std::int64_t count) const {
    return data + extent() <= first || first + count <= data;
  }
  // Whether one may be written while the other is read, element for element.
  bool is_same_or_apart(const HeadRows& other) const {
    const bool same = data == other.data && stride == other.stride && head_stride == other.head_stride;
    return same || is_apart_from(other.data, other.extent());
  }

  const py::detail::PyArray_Proxy* array = nullptr;
  float* data = nullptr;
  std::int64_t rows = 0, heads = 0, dim = 0;
  std::int64_t stride = 0, head_stride = 0;  // elements from a row to the next, and from a head to the next
};

// Where a result of x's shape goes: `out`, which may be x itself, or a new array where it is None. Null where out does
// not fit.
inline py::object result_like(const HeadRows& x, py::handle out) {
  if (out.is_none()) return new_result(x.array->nd, x.array->dimensions, py::dtype::of<float>());
  const HeadRows target(out);
  const bool fits = target.ok() && target.is_writable() && target.has_shape_of(x) && target.is_same_or_apart(x);
  return fits ? py::reinterpret_borrow<py::object>(out) : py::object();
}

}  // namespace octavo
