// Rotary position embedding: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin), every product and sum rounded.
#pragma once

#include <cstdint>

namespace octavo {

struct Rope {
  const float* x;  // (rows, heads, dim)
  std::int64_t x_stride, x_head_stride;
  float* y;  // likewise, and may be x
  std::int64_t y_stride, y_head_stride;
  std::int64_t rows, heads, dim;
  const float *cos, *sin;   // (table_rows, pairs); row r of x has row r % table_rows
  std::int64_t table_rows;  // >= 1
  std::int64_t pairs;       // 2 pairs <= dim; the dimensions behind them are copied
  bool interleaved;         // pairs are (0, 1), (2, 3), ...; else (0, pairs), (1, pairs + 1), ...
};

void run_rope(const Rope& task);

}  // namespace octavo
