// Products of integers of any width: integer_matmul and PackedIntegers.
#include <bit>
#include <cstdint>
#include <memory>

#include "bind/bindings.h"
#include "bind/layer_call.h"
#include "gemm/integers/boolean.h"
#include "gemm/integers/multiply.h"

namespace octavo {
namespace {

using Proxy = py::detail::PyArray_Proxy;

// An array of integers or truth values, aligned and in native byte order: its last two dimensions are a matrix.
struct Operand {
  const Proxy* array;
  char kind;
  std::int32_t elem_bytes;

  std::int64_t dim(int from_last) const { return array->dimensions[array->nd - from_last]; }
  std::int64_t stride(int from_last) const { return array->strides[array->nd - from_last]; }
  IntegerMatrix matrix() const {
    return {{reinterpret_cast<const std::byte*>(array->data), stride(2), stride(1), elem_bytes, kind == 'i'},
            dim(2),
            dim(1)};
  }
};

bool is_operand(char kind, std::int64_t elem_bytes) {
  return kind == 'b' ||
         ((kind == 'i' || kind == 'u') && (elem_bytes == 1 || elem_bytes == 2 || elem_bytes == 4 || elem_bytes == 8));
}

// NumPy writes the machine's own order out ('<' on most) where a type of the other order was turned.
bool is_native(char byteorder) {
  return byteorder == '=' || byteorder == '|' || byteorder == (std::endian::native == std::endian::little ? '<' : '>');
}

Operand operand_of(const py::array& array) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  const py::dtype dtype = array.dtype();
  require(is_operand(dtype.kind(), dtype.itemsize()), "arrays must be of integers or bool");
  require(is_native(dtype.byteorder()), "arrays must be in native byte order");
  require((proxy->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0, "arrays must be aligned");
  return {proxy, dtype.kind(), static_cast<std::int32_t>(dtype.itemsize())};
}

// NumPy gives empty arrays any strides.
bool is_empty(const Operand& out) { return out.dim(1) == 0 || out.dim(2) == 0; }

// Rows have to lie together, one element after the other.
IntegerResult result_of(const Operand& out) {
  require(out.dim(1) <= 1 || out.stride(1) == out.elem_bytes, "rows of out must be contiguous");
  require(out.stride(2) % out.elem_bytes == 0, "rows of out must be aligned");
  return {reinterpret_cast<std::byte*>(out.array->data), out.stride(2) / out.elem_bytes, out.elem_bytes};
}

void multiply(const Operand& a, const Operand& b, const Operand& out) {
  if (is_empty(out)) return;
  const IntegerMatrix lhs = a.matrix(), rhs = b.matrix();
  const IntegerResult dst = result_of(out);
  CallReport report("matmul", lhs.rows, lhs.cols, rhs.cols);
  out.kind == 'b' ? multiply_booleans(lhs, rhs, dst, report) : multiply_integers(lhs, rhs, dst, report);
}

// The `matrices` of a stack, the last stack dimension in one call of the core.
void multiply_stack(const Operand& a, const Operand& b, const Operand& out, std::int64_t matrices) {
  CallReport report("matmul stack", matrices * a.dim(2), a.dim(1), b.dim(1));
  const int stack_dims = out.array->nd - 2;
  const int last = stack_dims - 1;
  const std::int64_t inner = out.array->dimensions[last];
  const BatchStrides strides{a.array->strides[last], b.array->strides[last], out.array->strides[last]};
  for (std::int64_t i = 0; i < matrices / inner; ++i) {
    IntegerMatrix lhs = a.matrix(), rhs = b.matrix();
    IntegerResult dst = result_of(out);
    std::int64_t rest = i;
    for (int d = last - 1; d >= 0; --d) {
      const std::int64_t at = rest % out.array->dimensions[d];
      rest /= out.array->dimensions[d];
      lhs.view.data += at * a.array->strides[d];
      rhs.view.data += at * b.array->strides[d];
      dst.data += at * out.array->strides[d];
    }
    if (out.kind != 'b') {
      multiply_integers_batch(lhs, rhs, dst, inner, strides, report);
      continue;
    }
    for (std::int64_t j = 0; j < inner; ++j) {
      multiply_booleans(lhs, rhs, dst, report);
      lhs.view.data += strides.lhs;
      rhs.view.data += strides.rhs;
      dst.data += strides.dst;
    }
  }
}

// a (..., m, k), b (..., k, n) and out (..., m, n): as many dimensions each, the same stack.
void integer_matmul(const py::array& a_array, const py::array& b_array, py::array& out_array) {
  const Operand a = operand_of(a_array), b = operand_of(b_array), out = operand_of(out_array);
  require(a.array->nd >= 2 && a.array->nd == b.array->nd && a.array->nd == out.array->nd,
          "a, b and out must have as many dimensions, at least 2");
  require(out_array.writeable(), "out must be writable");
  require(a.dim(1) == b.dim(2) && out.dim(2) == a.dim(2) && out.dim(1) == b.dim(1), "shapes of a, b and out differ");
  require(out.kind != 'b' || (a.kind == 'b' && b.kind == 'b'), "a result of bool needs operands of bool");
  if (is_empty(out)) return;
  std::int64_t matrices = 1;
  for (int i = 0; i + 2 < out.array->nd; ++i) {
    const auto length = out.array->dimensions[i];
    require(a.array->dimensions[i] == length && b.array->dimensions[i] == length, "stacks of a, b and out differ");
    if (length == 0) return;
    matrices *= length;
  }
  without_gil(static_cast<double>(matrices) * work_of(a.matrix(), b.matrix()),
              [&] { out.array->nd == 2 ? multiply(a, b, out) : multiply_stack(a, b, out, matrices); });
}

// The fast way in: two plain 2-D arrays of one type, aligned and in native byte order, that fit. Anything else gives
// None and is for the Python layer.
py::object try_integer_matmul(py::handle a_object, py::handle b_object) {
  const auto& api = py::detail::npy_api::get();
  const auto* type = reinterpret_cast<PyTypeObject*>(api.PyArray_Type_);
  if (Py_TYPE(a_object.ptr()) != type || Py_TYPE(b_object.ptr()) != type) return py::none();
  const auto* a_proxy = py::detail::array_proxy(a_object.ptr());
  const auto* b_proxy = py::detail::array_proxy(b_object.ptr());
  const auto* descr = py::detail::array_descriptor_proxy(a_proxy->descr);
  if (a_proxy->descr != b_proxy->descr || a_proxy->nd != 2 || b_proxy->nd != 2 ||
      a_proxy->dimensions[1] != b_proxy->dimensions[0]) {
    return py::none();
  }
  constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(a_proxy->descr);
  const auto elem_bytes = static_cast<std::int32_t>(dtype.itemsize());
  if (!is_operand(descr->kind, elem_bytes) || !is_native(descr->byteorder) ||
      (a_proxy->flags & b_proxy->flags & kAligned) == 0) {
    return py::none();
  }
  const Operand a{a_proxy, descr->kind, elem_bytes}, b{b_proxy, descr->kind, elem_bytes};
  const Py_intptr_t shape[] = {a_proxy->dimensions[0], b_proxy->dimensions[1]};
  py::object y = new_result(2, shape, dtype);
  const Operand out{py::detail::array_proxy(y.ptr()), descr->kind, elem_bytes};
  without_gil(work_of(a.matrix(), b.matrix()), [&] { multiply(a, b, out); });
  return y;
}

// Holds the array that it refers to.
class PackedIntegerArray {
 public:
  explicit PackedIntegerArray(py::array array) : array_(std::move(array)) {
    const IntegerMatrix matrix = matrix_of(array_);
    without_gil(static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols),
                [&] { packed_ = std::make_unique<PackedIntegers>(matrix); });
  }

  std::size_t size_bytes() const { return packed_->size_bytes(); }
  void multiply(const py::array& a_array, py::array& out_array) {
    const Operand a = operand_of(a_array), out = operand_of(out_array);
    require(a.array->nd == 2 && out.array->nd == 2, "a and out must be 2-D");
    require(out_array.writeable() && out.kind != 'b', "out must be writable integers");
    const IntegerMatrix lhs = a.matrix(), &rhs = packed_->matrix();
    require(lhs.cols == rhs.rows && out.dim(2) == lhs.rows && out.dim(1) == rhs.cols, "shapes of a, b and out differ");
    if (is_empty(out)) return;
    const IntegerResult dst = result_of(out);
    without_gil(work_of(lhs, rhs), [&] { packed_->multiply(lhs, dst); });
  }

 private:
  static IntegerMatrix matrix_of(const py::array& array) {
    require(array.ndim() == 2, "b must be 2-D");
    return operand_of(array).matrix();
  }

  py::array array_;
  std::unique_ptr<PackedIntegers> packed_;
};

}  // namespace

void bind_integers(py::module_& m) {
  const auto metaclass = py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type));
  py::class_<PackedIntegerArray>(m, "PackedIntegers", metaclass, py::is_final())
      .def(py::init<py::array>(), py::arg("b"))
      .def_property_readonly("nbytes", &PackedIntegerArray::size_bytes)
      .def("multiply", &PackedIntegerArray::multiply, py::arg("a"), py::arg("out"));
  m.def("integer_matmul", &integer_matmul, py::arg("a"), py::arg("b"), py::arg("out"));
  m.def("try_integer_matmul", &try_integer_matmul, py::arg("a"), py::arg("b"), py::pos_only());
}

}  // namespace octavo
