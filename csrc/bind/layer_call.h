// What the bindings of layers share: checks for memory safety, and calls of a layer on arrays. A layer has
// n(), k() and operator()(x, m, x_stride, y, y_stride). Included by the files of csrc/bind alone.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "bind/gil.h"
#include "bind/result_array.h"
#include "gemm/layer.h"

namespace octavo {

namespace py = pybind11;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
using CArray = py::array_t<T, py::array::c_style>;

template <class T>
py::array_t<T> array_from(const T* data, std::int64_t n) {
  return py::array_t<T>(static_cast<py::ssize_t>(n), data);
}

// What k inputs go through, for a layer to copy; it refers to `factors`.
inline InputTransform checked_inputs(const std::optional<CArray<float>>& factors, std::int64_t rotation,
                                     std::int64_t k) {
  require(!factors || (factors->ndim() == 1 && factors->size() == k),
          "input_factor must have one element a column of weight");
  const bool fits = rotation >= kSmallestRotation && rotation <= kLargestRotation && (rotation & (rotation - 1)) == 0 &&
                    k % rotation == 0;
  require(rotation == 0 || fits, "rotation must be a power of two, 16 to 4096, that divides the columns of weight");
  return {factors ? factors->data() : nullptr, rotation};
}

template <class Layer>
std::optional<py::array_t<float>> factors_of(const Layer& self) {
  const float* factors = self.inputs().factors();
  if (factors == nullptr) return std::nullopt;
  return array_from(factors, self.k());
}

// The indices themselves, each of which is below `length`.
inline const std::int64_t* checked(const CArray<std::int64_t>& indices, std::int64_t length) {
  require(indices.ndim() == 1, "indices must be 1-D");
  const std::int64_t* first = indices.data();
  for (py::ssize_t i = 0; i < indices.size(); ++i) require(first[i] >= 0 && first[i] < length, "index out of range");
  return first;
}

// Indices along an axis, or None for all of them.
using Chosen = std::optional<CArray<std::int64_t>>;

inline CArray<std::int64_t> chosen(const Chosen& given, std::int64_t length) {
  if (given) {
    checked(*given, length);
    return *given;
  }
  CArray<std::int64_t> all(length);
  std::iota(all.mutable_data(), all.mutable_data() + length, std::int64_t{0});
  return all;
}

// A new array (count of indices, width), which unpack(indices, count, data) fills. Indices are below `size`.
template <class Unpack>
py::array_t<std::int8_t> unpacked(const CArray<std::int64_t>& indices, std::int64_t size, std::int64_t width,
                                  const Unpack& unpack) {
  const std::int64_t* first = checked(indices, size);
  py::array_t<std::int8_t> q({static_cast<std::int64_t>(indices.size()), width});
  unpack(first, indices.size(), q.mutable_data());
  return q;
}

// The integers of some outputs (count, k), or of some inputs (count, n).
template <class Layer>
py::array_t<std::int8_t> int_rows(const Layer& self, const CArray<std::int64_t>& outputs) {
  return unpacked(outputs, self.n(), self.k(), [&](auto... to) { self.weight().unpack_rows(to...); });
}

template <class Layer>
py::array_t<std::int8_t> int_columns(const Layer& self, const CArray<std::int64_t>& inputs) {
  return unpacked(inputs, self.k(), self.n(), [&](auto... to) { self.weight().unpack_columns(to...); });
}

// try_call(x), the fast path: a plain ndarray of aligned, C-contiguous, native float32 with k columns. Anything else
// gives None; the Python layer then converts it or says what is wrong with it. In calls.cpp.
template <class Layer>
void bind_calls(py::class_<Layer>& layer);

// x (m, k) and out (m, n): float32 with contiguous rows, any distance between rows.
template <class Layer>
void forward(const Layer& self, const py::array_t<float>& x, py::array_t<float>& out) {
  const std::int64_t n = self.n(), k = self.k(), item = sizeof(float);
  require(x.ndim() == 2 && out.ndim() == 2, "x and out must be 2-D");
  require(x.shape(1) == k && out.shape(1) == n && x.shape(0) == out.shape(0), "shapes of x, weight and out differ");
  if (x.shape(0) == 0 || n == 0) return;  // NumPy gives empty arrays any strides
  require(k <= 1 || x.strides(1) == item, "rows of x must be contiguous");
  require(n <= 1 || out.strides(1) == item, "rows of out must be contiguous");
  require(x.strides(0) % item == 0 && out.strides(0) % item == 0, "rows must be aligned");
  const float* in = x.data();
  float* dst = out.mutable_data();
  const std::int64_t m = x.shape(0), x_stride = x.strides(0) / item, out_stride = out.strides(0) / item;
  without_gil(static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
              [&] { self(in, m, x_stride, dst, out_stride); });
}

}  // namespace octavo
