// Plain arrays of float32, the fast path of functions that are called on small arrays: everything is checked here, in
// nanoseconds, and what is not plain goes back to the Python layer. Included by the files of csrc/bind alone.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>

#include "bind/result_array.h"

namespace octavo {

namespace py = pybind11;

// An ndarray (no subclass) of aligned, C-contiguous, native float32; not ok where it is anything else.
class PlainFloats {
 public:
  explicit PlainFloats(py::handle argument) {
    auto& api = py::detail::npy_api::get();
    if (reinterpret_cast<PyObject*>(Py_TYPE(argument.ptr())) !=
        reinterpret_cast<PyObject*>(api.PyArray_Type_)) return;
    const auto* array = py::detail::array_proxy(argument.ptr());
    constexpr int kNeeded = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array->flags & kNeeded) == kNeeded && py::array_t<float>::check_(argument)) array_ = array;
  }

  bool ok() const { return array_ != nullptr; }
  int ndim() const { return array_->nd; }
  const Py_intptr_t* shape() const { return array_->dimensions; }
  float* data() const { return reinterpret_cast<float*>(array_->data); }
  bool is_writable() const { return (array_->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0; }

  std::int64_t size() const {
    std::int64_t n = 1;
    for (int i = 0; i < ndim(); ++i) n *= shape()[i];
    return n;
  }
  // Of the last axis; 0 where there is none.
  std::int64_t cols() const { return ndim() == 0 ? 0 : static_cast<std::int64_t>(shape()[ndim() - 1]); }
  bool has_shape_of(const PlainFloats& other) const {
    return ndim() == other.ndim() && std::equal(shape(), shape() + ndim(), other.shape());
  }
  // Whether they share memory without being the same memory: writing one would then change what is still to be read.
  bool is_tangled_with(const PlainFloats& other) const {
    const float *a = data(), *b = other.data();
    const bool overlap = a < b + other.size() && b < a + size();
    return overlap && !(a == b && size() == other.size());
  }

 private:
  const py::detail::PyArray_Proxy* array_ = nullptr;
};

// An ndarray (no subclass) of aligned, native float32 with two axes, whose rows are contiguous and may lie apart; not ok
// where it is anything else, or has no elements.
struct FloatRows {
  explicit FloatRows(py::handle argument) {
    auto& api = py::detail::npy_api::get();
    if (reinterpret_cast<PyObject*>(Py_TYPE(argument.ptr())) != reinterpret_cast<PyObject*>(api.PyArray_Type_)) return;
    const auto* a = py::detail::array_proxy(argument.ptr());
    constexpr Py_intptr_t kItem = sizeof(float);
    if (a->nd != 2 || (a->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0 ||
        !py::array_t<float>::check_(argument)) {
      return;
    }
    rows = a->dimensions[0], cols = a->dimensions[1], stride = a->strides[0] / kItem;
    const bool fits = a->strides[0] % kItem == 0 && (cols == 1 || a->strides[1] == kItem);
    if (fits && rows > 0 && cols > 0) data = reinterpret_cast<const float*>(a->data);
  }

  bool ok() const { return data != nullptr; }

  const float* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;
};

// Where a result of x's shape goes: `out`, or a new array where it is None. Null where out is not plain.
class PlainResult {
 public:
  PlainResult(const PlainFloats& x, py::handle out) : target_(py::none()) {
    if (out.is_none()) {
      array_ = new_result(x.ndim(), x.shape(), py::dtype::of<float>());
      data_ = reinterpret_cast<float*>(py::detail::array_proxy(array_.ptr())->data);
      return;
    }
    target_ = PlainFloats(out);
    if (!target_.ok() || !target_.is_writable() || !target_.has_shape_of(x) || target_.is_tangled_with(x)) return;
    array_ = py::reinterpret_borrow<py::object>(out);
    data_ = target_.data();
  }

  bool ok() const { return data_ != nullptr; }
  float* data() const { return data_; }
  // Whether writing the result would change another operand that is still to be read.
  bool spares(const PlainFloats& operand) const { return !target_.ok() || !target_.is_tangled_with(operand); }
  bool is_apart_from(const PlainFloats& operand) const {
    return !target_.ok() || (!target_.is_tangled_with(operand) && target_.data() != operand.data());
  }
  py::object array() { return std::move(array_); }

 private:
  PlainFloats target_;
  py::object array_;
  float* data_ = nullptr;
};

}  // namespace octavo
