// Quantizing rows in standard C++: row-major int8, for the portable kernels. Included per kernel file; everything is in
// an anonymous namespace.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/row_quant.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

template <class Row>
RowQuant choose_row_quant(const Row& x, const QuantizeLhs& task) {
  std::uint32_t max_abs_bits = 0;
  float lo = 0.0f, hi = 0.0f;
  for (std::int64_t i = 0; i < task.k; ++i) {
    const float v = x[i];
    const std::uint32_t bits = bits_from_float(v) & 0x7fffffffu;
    max_abs_bits = bits > max_abs_bits ? bits : max_abs_bits;
    lo = v < lo ? v : lo;
    hi = v > hi ? v : hi;
  }
  return choose_from_range(task, max_abs_bits, lo, hi);
}

template <class Row>
void quantize_row(const Row& x, std::int64_t k, const RowQuant& rq, std::int8_t* q) {
  if (rq.inverse == 0.0f) {
    std::memset(q, rq.zero_point, static_cast<std::size_t>(k));
    return;
  }
  for (std::int64_t i = 0; i < k; ++i) {
    // Clamped before rounding: the result is the same, and rint_small stays within its bounds.
    const float rounded = rint_small(clamp_float(x[i] * rq.inverse, rq.lo, rq.hi));
    q[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(rounded) + rq.zero_point);
  }
}

// All rows of a task, `stride` bytes apart, with zeros behind k.
inline void quantize_rows(const QuantizeLhs& task, std::int64_t stride) {
  const auto choose = [&](const auto& x) { return choose_row_quant(x, task); };
  for_each_row(task, choose, [&](std::int64_t m, const auto& x, const RowQuant& rq) {
    std::int8_t* q = static_cast<std::int8_t*>(task.dst) + m * stride;
    quantize_row(x, task.k, rq, q);
    std::memset(q + task.k, 0, static_cast<std::size_t>(stride - task.k));
  });
}

}  // namespace
}  // namespace octavo
