// A run of time steps of one direction of one recurrent layer. The inputs' products are computed beforehand for all
// steps; each step multiplies the state by the recurrent weights and passes both products through the gates. Below, `a`
// is a row of the inputs' products and `b` a row of the state's, each with its bias. Gates are named and ordered as in
// torch.
//
//   LSTM   i, f, o = sigmoid(a_i + b_i), sigmoid(a_f + b_f), sigmoid(a_o + b_o);  g = tanh(a_g + b_g)
//          c = f * c + i * g;  h = o * tanh(c)                                     columns i f g o
//   GRU    r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z);  n = tanh(a_n + r * b_n)
//          h = (1 - z) * n + z * h                                                 columns r z n
//
// Each float operation rounds once, sigmoid and tanh are those of kernels/functions.h, every row is computed by itself,
// and the product is exact, so the bits depend on nothing else. A row of the state that holds NaN stays NaN.
#pragma once

#include <cstdint>

namespace octavo {

// m rows of `width` contiguous floats at each of the steps.
template <class T>
struct StepRows {
  T* data;
  std::int64_t step_stride, row_stride;  // elements
  T* row(std::int64_t step, std::int64_t i) const { return data + step * step_stride + i * row_stride; }
};

// Refers to the product with the recurrent weights without owning it: (x, m, x_stride, y, y_stride), as a layer's.
class RowProduct {
 public:
  template <class Layer>
  explicit RowProduct(const Layer& layer)
      : layer_(&layer),
        call_([](const void* self, const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                 std::int64_t y_stride) { (*static_cast<const Layer*>(self))(x, m, x_stride, y, y_stride); }) {}
  void operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride) const {
    call_(layer_, x, m, x_stride, y, y_stride);
  }

 private:
  const void* layer_;
  void (*call_)(const void*, const float*, std::int64_t, std::int64_t, float*, std::int64_t);
};

struct RecurrentRun {
  RowProduct product;  // (m, hidden) -> (m, gates * hidden)
  std::int64_t steps, m, hidden;
  StepRows<const float> inputs;  // gates * hidden wide
  const float* h0;               // (m, hidden), contiguous: the state before the first step
  StepRows<float> outputs;       // hidden wide; overlaps nothing else
  bool reverse;                  // from the last step to the first
};

void run_lstm(const RecurrentRun& run, float* c);  // c: (m, hidden), contiguous, updated in place
void run_gru(const RecurrentRun& run);

}  // namespace octavo
