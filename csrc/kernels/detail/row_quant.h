// The scalar arithmetic of dynamic row quantization, from a row's range to its parameters; see QuantizeLhs in kernel.h.
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

// rint for |x| < 2^22, half to even: adding 1.5 * 2^23 leaves no bits behind the point.
inline float rint_small(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

inline float clamp_float(float x, float lo, float hi) { return x < lo ? lo : (x > hi ? hi : x); }

inline RowQuant nan_row() { return {float_from_bits(kNanBits), 0.0f, 0}; }

// `max_abs_bits` is the largest bit pattern of |x|: ordered as the values are, with infinity and then NaN on top.
inline RowQuant row_quant_symmetric(std::uint32_t max_abs_bits) {
  if (max_abs_bits >= kInfinityBits) return nan_row();
  const float a = float_from_bits(max_abs_bits);
  if (a < kSmallestRange) return {1.0f, 0.0f, 0};
  return {a / 127.0f, 127.0f / a, 0};
}

inline RowQuant row_quant_asymmetric(std::uint32_t max_abs_bits, float lo, float hi) {
  const float range = hi - lo;
  if (max_abs_bits >= kInfinityBits || bits_from_float(range) >= kInfinityBits) return nan_row();
  if (range < kSmallestRange) return {1.0f, 0.0f, -128};
  const float scale = range / 255.0f;
  const float z = clamp_float(-128.0f - rint_small(lo / scale), -128.0f, 127.0f);
  return {scale, 255.0f / range, static_cast<std::int32_t>(z)};
}

}  // namespace
}  // namespace octavo
