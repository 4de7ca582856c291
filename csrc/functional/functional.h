// Functions of elements and rows (kernels/functions.h), on the kernel in use and over threads.
//
// Work is cut by the shape alone and no sum crosses a task, so every number of threads gives the same bits. Each task
// sets the default float environment. Arrays are the caller's: results may be the inputs, element for element.
#pragma once

#include <cstdint>

#include "kernels/functions.h"

namespace octavo {

// y[i] = f(x[i]), contiguous.
void run_elementwise(Elementwise f, const float* x, float* y, std::int64_t count);

// y[i] = silu(gate[i]) * up[i], contiguous.
void run_swiglu(const float* gate, const float* up, float* y, std::int64_t count);

// The same for rows that lie some distance apart (in elements), as the halves of one product do. y is contiguous and
// apart from both.
struct GatedRows {
  const float* gate;
  std::int64_t gate_stride;
  const float* up;
  std::int64_t up_stride;
  float* y;
  std::int64_t rows, cols;  // cols >= 1
};
void run_swiglu(const GatedRows& task);

// kLogSum writes two numbers a row, all others as many as x has.
void run_rowwise(Rowwise f, const RowsTask& task);

}  // namespace octavo
