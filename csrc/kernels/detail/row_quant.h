// The scalar arithmetic of dynamic row quantization, from a row's range to its parameters; see QuantizeLhs in kernel.h.
// scalar_rows.h and each instruction set's own code find the range and round the row with what is chosen here.
// Included by each kernel file: everything is in an anonymous namespace, so every object has a copy of its own.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/kernel.h"

namespace octavo {
namespace {

struct RowQuant {
  float scale;
  float inverse;  // 0 where every q of the row is the zero point
  std::int32_t zero_point;
  float lo, hi;  // bounds of x * inverse
};

constexpr std::uint32_t kInfinityBits = 0x7f800000u;
constexpr std::uint32_t kNanBits = 0x7fc00000u;

inline float float_from_bits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline std::uint32_t bits_from_float(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// rint for |x| < 2^22, half to even: a sum with 1.5 * 2^23 has no bits left for a fraction.
inline float rint_small(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

// NaN gives lo, so no conversion to integers ever meets one. MAXPS and MINPS in this order do the same.
inline float clamp_float(float x, float lo, float hi) {
  const float raised = x > lo ? x : lo;
  return raised < hi ? raised : hi;
}

inline RowQuant row_quant(float scale, float inverse, std::int32_t zero_point) {
  const float z = static_cast<float>(zero_point);
  return {scale, inverse, zero_point, -128.0f - z, 127.0f - z};
}

inline RowQuant nan_row() { return row_quant(float_from_bits(kNanBits), 0.0f, 0); }

// `max_abs_bits` is the largest bit pattern of |x|: ordered as the values are, with infinity and then NaN on top.
inline RowQuant row_quant_symmetric(std::uint32_t max_abs_bits) {
  if (max_abs_bits >= kInfinityBits) return nan_row();
  const float a = float_from_bits(max_abs_bits);
  if (a < kSmallestRange) return row_quant(1.0f, 0.0f, 0);
  return row_quant(a / 127.0f, 127.0f / a, 0);
}

inline RowQuant row_quant_asymmetric(std::uint32_t max_abs_bits, float lo, float hi) {
  const float range = hi - lo;
  if (max_abs_bits >= kInfinityBits || bits_from_float(range) >= kInfinityBits) return nan_row();
  if (range < kSmallestRange) return row_quant(1.0f, 0.0f, -128);
  const float scale = range / 255.0f;
  const float z = clamp_float(-128.0f - rint_small(lo / scale), -128.0f, 127.0f);
  return row_quant(scale, 255.0f / range, static_cast<std::int32_t>(z));
}

// A row's parameters: the task's fixed ones, or its own from its range: the largest bit pattern of |x|, and for
// asymmetric rows min(x, 0) and max(x, 0).
inline RowQuant choose_from_range(const QuantizeLhs& task, std::uint32_t max_abs_bits, float lo, float hi) {
  if (task.fixed != nullptr) {
    if (max_abs_bits > kInfinityBits) *task.saw_nan = true;
    return {task.fixed->scale, task.fixed->inverse, task.fixed->zero_point, task.fixed->lo, task.fixed->hi};
  }
  return task.asymmetric ? row_quant_asymmetric(max_abs_bits, lo, hi) : row_quant_symmetric(max_abs_bits);
}

// A row whose elements are multiplied as they are read. Code that takes a row of either kind is a template; each
// instruction set loads vectors of both, and `+` and `[]` are those of a pointer.
struct ScaledRow {
  const float* x;
  const float* factor;

  float operator[](std::int64_t i) const { return x[i] * factor[i]; }
  friend ScaledRow operator+(const ScaledRow& row, std::int64_t i) { return {row.x + i, row.factor + i}; }
};

// use(row) with row m of a task: a pointer to floats, or a ScaledRow. Both tasks have src, src_stride, factor and
// rotation.
template <class Task, class Use>
void with_row(const Task& task, std::int64_t m, const Use& use) {
  const float* x = task.src + m * task.src_stride;
  if (task.rotation != nullptr) x = task.rotation->of(x, task.factor);
  if (task.factor == nullptr || task.rotation != nullptr) {
    use(x);
  } else {
    use(ScaledRow{x, task.factor});
  }
}

// Records each row's parameters, which are choose(x), and has put(m, x, parameters) quantize it.
template <class Choose, class Put>
void for_each_row(const QuantizeLhs& task, const Choose& choose, const Put& put) {
  for (std::int64_t m = 0; m < task.rows; ++m) {
    with_row(task, m, [&](const auto& x) {
      const RowQuant rq = choose(x);
      task.scale[m] = rq.scale;
      task.zero_point[m] = rq.zero_point;
      put(m, x, rq);
    });
  }
}

}  // namespace
}  // namespace octavo
