// Results as arrays over the result pool, and the pool's state and bounds.
#include <cstddef>
#include <cstdint>

#include "base/result_pool.h"
#include "bind/bindings.h"
#include "bind/layer_call.h"
#include "bind/result_array.h"

namespace octavo {
namespace {

constexpr const char* kBlockName = "octavo result block";

py::object capsule_of(ResultBlock block) {
  PyObject* capsule = PyCapsule_New(block.get(), kBlockName, [](PyObject* self) {
    const ResultBlock owned(static_cast<AlignedBuffer*>(PyCapsule_GetPointer(self, kBlockName)));
  });
  if (capsule == nullptr) throw py::error_already_set();
  (void)block.release();
  return py::reinterpret_steal<py::object>(capsule);
}

py::object empty_result(std::int64_t rows, std::int64_t cols, const py::dtype& dtype) {
  require(rows >= 0 && cols >= 0, "an array has no negative dimensions");
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(rows), static_cast<Py_intptr_t>(cols)};
  return new_result(2, shape, dtype);
}

py::tuple pool_state() {
  const ResultPoolState state = result_pool_state();
  return py::make_tuple(state.max_bytes, state.idle_bytes, state.idle_blocks);
}

}  // namespace

// NumPy's API directly: py::array's constructor computes and copies strides, which shows in calls of a microsecond.
py::object new_result(int nd, const Py_intptr_t* shape, py::dtype dtype) {
  auto bytes = static_cast<double>(dtype.itemsize());
  for (int i = 0; i < nd; ++i) bytes *= static_cast<double>(shape[i]);
  ResultBlock block;
  if (bytes >= static_cast<double>(kSmallestPooledBytes) && bytes < 0x1p53) {
    block = take_result_block(static_cast<std::size_t>(bytes));
  }
  auto& api = py::detail::npy_api::get();
  using Flags = py::detail::npy_api;
  void* data = block == nullptr ? nullptr : block->as<void>();
  const int flags =
      data == nullptr ? 0 : Flags::NPY_ARRAY_C_CONTIGUOUS_ | Flags::NPY_ARRAY_ALIGNED_ | Flags::NPY_ARRAY_WRITEABLE_;
  PyObject* array =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype.release().ptr(), nd, shape, nullptr, data, flags, nullptr);
  if (array == nullptr) throw py::error_already_set();
  auto result = py::reinterpret_steal<py::object>(array);
  if (data != nullptr && api.PyArray_SetBaseObject_(array, capsule_of(std::move(block)).release().ptr()) != 0) {
    throw py::error_already_set();
  }
  return result;
}

void bind_results(py::module_& m) {
  m.def("empty_result", &empty_result, py::arg("rows"), py::arg("cols"), py::arg("dtype"));
  m.def("result_pool", &pool_state);
  m.def("set_result_pool_bytes", &set_result_pool_bytes, py::arg("max_bytes"));
  m.def("clear_result_pool", &clear_result_pool);
}

}  // namespace octavo
