// Calls of layers: methods of CPython's own kind, in a file that is optimised for speed. pybind11's dispatcher takes a
// third of the time of a small layer.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

#include <cstdint>

#include "bind/gil.h"
#include "bind/layer_call.h"
#include "bind/result_array.h"
#include "gemm/gemm_grouped.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"

namespace octavo {
namespace {

// A new C-contiguous float32 array with the leading dimensions of `x` and `n` columns.
py::object empty_like_rows(const py::detail::PyArray_Proxy* x, std::int64_t n) {
  constexpr int kMaxDims = 64;
  Py_intptr_t shape[kMaxDims];
  for (int i = 0; i + 1 < x->nd; ++i) shape[i] = x->dimensions[i];
  shape[x->nd - 1] = static_cast<Py_intptr_t>(n);
  return new_result(x->nd, shape, py::dtype::of<float>());
}

template <class Layer>
py::object try_call(const Layer& self, py::handle argument) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(argument.ptr())) !=
      reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_)) {
    return py::none();
  }
  const auto* x = py::detail::array_proxy(argument.ptr());
  constexpr int kNeeded = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((x->flags & kNeeded) != kNeeded || x->nd < 1 || x->dimensions[x->nd - 1] != self.k() ||
      !py::array_t<float>::check_(argument)) {
    return py::none();
  }
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x->nd; ++i) rows *= x->dimensions[i];
  py::object y = empty_like_rows(x, self.n());
  const auto* in = reinterpret_cast<const float*>(x->data);
  auto* out = reinterpret_cast<float*>(py::detail::array_proxy(y.ptr())->data);
  without_gil(static_cast<double>(rows) * static_cast<double>(self.n()) * static_cast<double>(self.k()),
              [&] { self(in, rows, self.k(), out, self.n()); });
  return y;
}

// CPython has checked that `self` is such a layer.
template <class Layer>
PyObject* call_method(PyObject* self, PyObject* x) {
  try {
    const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
    const void* const layer = held.value_ptr();
    if (layer == nullptr) throw py::type_error("__init__() must be called first");
    return try_call(*static_cast<const Layer*>(layer), x).release().ptr();
#if defined(__GLIBCXX__)
  } catch (abi::__forced_unwind&) {  // a thread that the interpreter ends as it exits
    throw;
#endif
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

}  // namespace

template <class Layer>
void bind_calls(py::class_<Layer>& layer) {
  static PyMethodDef method{"try_call", &call_method<Layer>, METH_O, "try_call($self, x, /)\n--\n\n"};
  PyObject* const descriptor = PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(layer.ptr()), &method);
  if (descriptor == nullptr) throw py::error_already_set();
  layer.attr("try_call") = py::reinterpret_steal<py::object>(descriptor);
}

template void bind_calls(py::class_<PackedLinear>& layer);
template void bind_calls(py::class_<PackedLinearInt4>& layer);
template void bind_calls(py::class_<PackedLinearGrouped>& layer);

}  // namespace octavo
