// Functions of elements and of rows. Each takes plain float32 arrays (plain_floats.h) and a result of the same kind, or
// None for a new one; anything else gives None, and the Python layer converts it or says what is wrong.
#include <cstdint>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "bind/layer_call.h"
#include "bind/plain_floats.h"
#include "functional/functional.h"

namespace octavo {
namespace {

// What an element costs, in multiply-adds of kReleaseGilWork: it takes about a nanosecond.
constexpr double kElementWork = 20;

template <class Work>
void run(std::int64_t elems, const Work& work) {
  without_gil(static_cast<double>(elems) * kElementWork, work);
}

py::object elementwise(int function, py::handle x, py::handle out) {
  require(function >= 0 && function < kElementwiseCount, "no such function");
  const PlainFloats from(x);
  if (!from.ok()) return py::none();
  PlainResult to(from, out);
  if (!to.ok()) return py::none();
  const std::int64_t count = from.size();
  run(count, [&] { run_elementwise(static_cast<Elementwise>(function), from.data(), to.data(), count); });
  return to.array();
}

// Of the halves of one product, where they lie.
py::object swiglu_of_rows(py::handle gate, py::handle up) {
  const FloatRows g(gate), u(up);
  if (!g.ok() || !u.ok() || g.rows != u.rows || g.cols != u.cols) return py::none();
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(g.rows), static_cast<Py_intptr_t>(g.cols)};
  py::object y = new_result(2, shape, py::dtype::of<float>());
  auto* to = reinterpret_cast<float*>(py::detail::array_proxy(y.ptr())->data);
  run(g.rows * g.cols, [&] { run_swiglu({g.data, g.stride, u.data, u.stride, to, g.rows, g.cols}); });
  return y;
}

py::object swiglu(py::handle gate, py::handle up, py::handle out) {
  const PlainFloats g(gate), u(up);
  if (!g.ok() || !u.ok()) return out.is_none() ? swiglu_of_rows(gate, up) : py::none();
  if (!g.has_shape_of(u)) return py::none();
  PlainResult to(g, out);
  if (!to.ok() || !to.spares(u)) return py::none();
  const std::int64_t count = g.size();
  run(count, [&] { run_swiglu(g.data(), u.data(), to.data(), count); });
  return to.array();
}

// softmax and log_softmax over the last axis.
py::object rowwise(int function, py::handle x, py::handle out) {
  require(function == static_cast<int>(Rowwise::kSoftmax) || function == static_cast<int>(Rowwise::kLogSoftmax),
          "no such function");
  const PlainFloats from(x);
  if (!from.ok() || from.ndim() == 0) return py::none();
  PlainResult to(from, out);
  if (!to.ok()) return py::none();
  const std::int64_t cols = from.cols(), size = from.size();
  if (size == 0) return to.array();
  const RowsTask task{from.data(), cols, to.data(), cols, size / cols, cols, nullptr, nullptr, 0};
  run(size, [&] { run_rowwise(static_cast<Rowwise>(function), task); });
  return to.array();
}

// (rows, 2): the maximum of each row, and the logarithm of the sum of exp(x - maximum). x is 2-D.
py::object log_sum(py::handle x) {
  const PlainFloats from(x);
  require(from.ok() && from.ndim() == 2 && from.cols() > 0, "x must be plain, 2-D, with at least one column");
  const std::int64_t rows = from.shape()[0], cols = from.cols();
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(rows), 2};
  py::object y = new_result(2, shape, py::dtype::of<float>());
  auto* to = reinterpret_cast<float*>(py::detail::array_proxy(y.ptr())->data);
  const RowsTask task{from.data(), cols, to, 2, rows, cols, nullptr, nullptr, 0};
  run(from.size(), [&] { run_rowwise(Rowwise::kLogSum, task); });
  return y;
}

// A parameter of a norm: absent, or a plain vector of as many elements as the rows that the result leaves alone.
struct Parameter {
  bool ok;
  const float* data;

  Parameter(py::handle argument, std::int64_t cols, const PlainResult& to) : ok(argument.is_none()), data(nullptr) {
    if (ok) return;
    const PlainFloats vector(argument);
    ok = vector.ok() && vector.ndim() == 1 && vector.cols() == cols && to.is_apart_from(vector);
    if (ok) data = vector.data();
  }
};

py::object norm(Rowwise function, py::handle x, py::handle weight, py::handle bias, double eps, py::handle out) {
  const PlainFloats from(x);
  if (!from.ok() || from.ndim() == 0 || !(eps >= 0) || from.cols() == 0) return py::none();
  PlainResult to(from, out);
  if (!to.ok()) return py::none();
  const std::int64_t cols = from.cols(), size = from.size();
  const Parameter w(weight, cols, to), b(bias, cols, to);
  if (!w.ok || !b.ok) return py::none();
  const RowsTask task{from.data(), cols, to.data(), cols, size / cols, cols, w.data, b.data, static_cast<float>(eps)};
  run(size, [&] { run_rowwise(function, task); });
  return to.array();
}

}  // namespace

void bind_functional(py::module_& m) {
  const auto x = py::arg("x"), out = py::arg("out"), weight = py::arg("weight"), bias = py::arg("bias");
  m.def("elementwise", &elementwise, py::arg("function"), x, out, py::pos_only());
  m.def("swiglu", &swiglu, py::arg("gate"), py::arg("up"), out, py::pos_only());
  m.def("rowwise", &rowwise, py::arg("function"), x, out, py::pos_only());
  m.def("log_sum", &log_sum, x, py::pos_only());
  m.def(
      "rms_norm",
      [](py::handle a, py::handle w, double eps, py::handle to) {
        return norm(Rowwise::kRmsNorm, a, w, py::none(), eps, to);
      },
      x, weight, py::arg("eps"), out, py::pos_only());
  m.def(
      "layer_norm",
      [](py::handle a, py::handle w, py::handle b, double eps, py::handle to) {
        return norm(Rowwise::kLayerNorm, a, w, b, eps, to);
      },
      x, weight, bias, py::arg("eps"), out, py::pos_only());
}

}  // namespace octavo
