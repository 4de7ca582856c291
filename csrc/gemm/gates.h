// The functions of a recurrent cell's gates, with the same bits on every machine: only additions, multiplications,
// divisions and selections of float32, each rounded once. The NumPy definition in python/octavo gives the same bits.
//
// exp of -87 to 0: x = n ln 2 + r with n = rint(x / ln 2), |r| <= ln 2 / 2, and 2^n (1 + r + r^2 p(r)), coefficients of
// Cephes' expf (S. Moshier). tanh below 0.625: x + x^3 p(x^2), Cephes' tanhf. Both are within 2 ulp of the true value;
// sigmoid and tanh beyond 0.625 follow from exp of a negative number, so that nothing overflows, and are within 3.
//
// Written for the compiler's vectoriser: no branches, no calls, no conversions.
#pragma once

#include <bit>
#include <cstdint>

namespace octavo::gates {

inline float abs(float x) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x7fffffffu); }

inline float with_sign_of(float magnitude, float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) |
                              (std::bit_cast<std::uint32_t>(x) & 0x80000000u));
}

// exp(-a) for a >= 0 or NaN; a above 87 counts as 87, whose 2^n is still a normal number.
inline float exp_negative(float a) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * kLn2High is exact
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves rint in the low bits of the sum
  const float x = -(a > 87.0f ? 87.0f : a);
  const float shifted = x * kLog2E + kToInteger;
  const float n = shifted - kToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = (p * (r * r) + r) + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127u) << 23);
  return mantissa * power;
}

// 1 / (1 + exp(-x))
inline float sigmoid(float x) {
  const float e = exp_negative(abs(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

inline float tanh(float x) {
  const float a = abs(x);
  const float e = exp_negative(a + a);
  const float far = (1.0f - e) / (1.0f + e);
  const float z = a * a;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const float near = (p * z) * a + a;
  return with_sign_of(a < 0.625f ? near : far, x);
}

}  // namespace octavo::gates
