// turned_words, turned_awq_words: rows of outputs from the words of other tools.
#include <cstdint>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "bind/layer_call.h"
#include "bind/result_array.h"
#include "quantize/words.h"

namespace octavo {
namespace {

WordGrid grid_of(const py::array& words) {
  require(words.ndim() == 2 && words.dtype().itemsize() == 4, "words must be a 2-D array of 32 bits");
  require(words.size() == 0 || words.shape(1) <= 1 || words.strides(1) == 4, "rows of words must be contiguous");
  return {static_cast<const std::uint8_t*>(words.data()), words.shape(0), words.shape(1), words.strides(0)};
}

template <class Turn>
py::object turned(const WordGrid& from, std::int64_t rows, std::int64_t bytes, const Turn& turn) {
  const Py_intptr_t shape[] = {static_cast<Py_intptr_t>(rows), static_cast<Py_intptr_t>(bytes)};
  py::object result = new_result(2, shape, py::dtype::of<std::uint8_t>());
  auto* const to = static_cast<std::uint8_t*>(py::reinterpret_borrow<py::array>(result).mutable_data());
  const GilReleased released;
  turn(from, to);
  return result;
}

py::object turned_words(const py::array& words) {
  const WordGrid from = grid_of(words);
  return turned(from, from.columns, 4 * from.rows, turn_words);
}

py::object turned_awq_words(const py::array& words) {
  const WordGrid from = grid_of(words);
  return turned(from, 8 * from.columns, (from.rows + 1) / 2, turn_awq_words);
}

}  // namespace

void bind_words(py::module_& m) {
  m.def("turned_words", &turned_words, py::arg("words"));
  m.def("turned_awq_words", &turned_awq_words, py::arg("words"));
}

}  // namespace octavo
