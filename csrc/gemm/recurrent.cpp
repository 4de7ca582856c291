#include "gemm/recurrent.h"

#include <cstddef>

#include "base/aligned_buffer.h"
#include "base/arch.h"
#include "gemm/gates.h"

namespace octavo {
namespace {

// One row. __restrict tells the vectoriser that the arrays do not overlap.
void lstm_row(std::int64_t hidden, const float* __restrict a, const float* __restrict b, float* __restrict c,
              float* __restrict h) {
  for (std::int64_t j = 0; j < hidden; ++j) {
    const float i = gates::sigmoid(a[j] + b[j]);
    const float f = gates::sigmoid(a[hidden + j] + b[hidden + j]);
    const float g = gates::tanh(a[2 * hidden + j] + b[2 * hidden + j]);
    const float o = gates::sigmoid(a[3 * hidden + j] + b[3 * hidden + j]);
    c[j] = f * c[j] + i * g;
    h[j] = o * gates::tanh(c[j]);
  }
}

void gru_row(std::int64_t hidden, const float* __restrict a, const float* __restrict b, const float* __restrict before,
             float* __restrict h) {
  for (std::int64_t j = 0; j < hidden; ++j) {
    const float r = gates::sigmoid(a[j] + b[j]);
    const float z = gates::sigmoid(a[hidden + j] + b[hidden + j]);
    const float n = gates::tanh(a[2 * hidden + j] + r * b[2 * hidden + j]);
    h[j] = (1.0f - z) * n + z * before[j];
  }
}

// cell(i, a, b, before, after) finishes row i of a step.
template <class Cell>
void run_steps(const RecurrentRun& run, std::int64_t gate_count, const Cell& cell) {
  const std::int64_t width = gate_count * run.hidden;
  const AlignedBuffer buffer(memory_bytes(run.m * width * std::int64_t{sizeof(float)}));
  float* const products = buffer.as<float>();
  const float* before = run.h0;
  std::int64_t before_stride = run.hidden;
  for (std::int64_t s = 0; s < run.steps; ++s) {
    const std::int64_t step = run.reverse ? run.steps - 1 - s : s;
    run.product(before, run.m, before_stride, products, width);
    const DefaultFloatEnvironment environment;
    for (std::int64_t i = 0; i < run.m; ++i) {
      cell(i, run.inputs.row(step, i), products + i * width, before + i * before_stride, run.outputs.row(step, i));
    }
    before = run.outputs.row(step, 0);
    before_stride = run.outputs.row_stride;
  }
}

}  // namespace

void run_lstm(const RecurrentRun& run, float* c) {
  run_steps(run, 4, [&](std::int64_t i, const float* a, const float* b, const float*, float* h) {
    lstm_row(run.hidden, a, b, c + i * run.hidden, h);
  });
}

void run_gru(const RecurrentRun& run) {
  run_steps(run, 3, [&](std::int64_t, const float* a, const float* b, const float* before, float* h) {
    gru_row(run.hidden, a, b, before, h);
  });
}

}  // namespace octavo
