#include "gemm/recurrent.h"

#include <cstddef>

#include "base/aligned_buffer.h"
#include "base/arch.h"
#include "gemm/registry.h"
#include "kernels/functions.h"

namespace octavo {
namespace {

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
  const auto lstm_row = functions_in_use().lstm_row;
  run_steps(run, 4, [&](std::int64_t i, const float* a, const float* b, const float*, float* h) {
    lstm_row(run.hidden, a, b, c + i * run.hidden, h);
  });
}

void run_gru(const RecurrentRun& run) {
  const auto gru_row = functions_in_use().gru_row;
  run_steps(run, 3, [&](std::int64_t, const float* a, const float* b, const float* before, float* h) {
    gru_row(run.hidden, a, b, before, h);
  });
}

}  // namespace octavo
