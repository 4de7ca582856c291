// lstm and gru: runs of time steps over layers of either bit width.
#include <cstdint>

#include "bind/bindings.h"
#include "bind/layer_call.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/recurrent.h"

namespace octavo {
namespace {

using FloatArray = py::array_t<float>;

constexpr std::int64_t kItem = sizeof(float);

// (steps, m, width) with contiguous rows.
template <class T>
StepRows<T> step_rows(T* data, const FloatArray& array) {
  require(array.shape(2) <= 1 || array.size() == 0 || array.strides(2) == kItem, "rows must be contiguous");
  require(array.strides(0) % kItem == 0 && array.strides(1) % kItem == 0, "rows must be aligned");
  return {data, array.strides(0) / kItem, array.strides(1) / kItem};
}

void require_state(const FloatArray& state, std::int64_t m, std::int64_t hidden) {
  require(state.ndim() == 2 && state.shape(0) == m && state.shape(1) == hidden, "a state must be (m, hidden)");
  require((state.flags() & py::array::c_style) != 0, "a state must be C-contiguous");
}

template <class Layer>
RecurrentRun make_run(const Layer& layer, std::int64_t gate_count, const FloatArray& inputs, const FloatArray& h0,
                      FloatArray& outputs, bool reverse) {
  require(inputs.ndim() == 3 && outputs.ndim() == 3, "inputs and outputs must be 3-D");
  const std::int64_t steps = inputs.shape(0), m = inputs.shape(1), hidden = layer.k();
  require(layer.n() == gate_count * hidden && inputs.shape(2) == layer.n(), "the layer and the inputs do not fit");
  require(outputs.shape(0) == steps && outputs.shape(1) == m && outputs.shape(2) == hidden,
          "the inputs and the outputs do not fit");
  require_state(h0, m, hidden);
  float* const out = outputs.mutable_data();  // throws where it is read-only
  return {RowProduct(layer),       steps,  m, hidden, step_rows(inputs.data(), inputs), h0.data(),
          step_rows(out, outputs), reverse};
}

double work(const RecurrentRun& run, std::int64_t gate_count) {
  return static_cast<double>(run.steps * run.m) * static_cast<double>(gate_count * run.hidden * run.hidden);
}

template <class Layer>
void lstm(const Layer& layer, const FloatArray& inputs, const FloatArray& h0, FloatArray& c, FloatArray& outputs,
          bool reverse) {
  const RecurrentRun run = make_run(layer, 4, inputs, h0, outputs, reverse);
  require_state(c, run.m, run.hidden);
  float* const state = c.mutable_data();
  if (run.m != 0) without_gil(work(run, 4), [&] { run_lstm(run, state); });
}

template <class Layer>
void gru(const Layer& layer, const FloatArray& inputs, const FloatArray& h0, FloatArray& outputs, bool reverse) {
  const RecurrentRun run = make_run(layer, 3, inputs, h0, outputs, reverse);
  if (run.m != 0) without_gil(work(run, 3), [&] { run_gru(run); });
}

template <class Layer>
void bind_for(py::module_& m) {
  m.def("lstm", &lstm<Layer>, py::arg("layer"), py::arg("inputs").noconvert(), py::arg("h0").noconvert(),
        py::arg("c").noconvert(), py::arg("outputs").noconvert(), py::arg("reverse"));
  m.def("gru", &gru<Layer>, py::arg("layer"), py::arg("inputs").noconvert(), py::arg("h0").noconvert(),
        py::arg("outputs").noconvert(), py::arg("reverse"));
}

}  // namespace

void bind_recurrent(py::module_& m) {
  bind_for<PackedLinear>(m);
  bind_for<PackedLinearInt4>(m);
}

}  // namespace octavo
