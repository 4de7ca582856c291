// a * b + c of float32 numbers, rounded once, for CPUs without an instruction for it.
//
// In float64: the product of two float32 numbers is exact there, TwoSum gives the error of the addition, and where there
// is one the sum is made odd before it is rounded to float32, which then cannot tie falsely. std::fma would be right too
// where the library has it right; not all have.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {
namespace {

inline float exact_fma(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)  // the architecture has an instruction that is always there
  return __builtin_fmaf(a, b, c);
#else
  const double product = static_cast<double>(a) * b, sum = product + c;
  const double part = sum - product, error = (product - (sum - part)) + (c - part);
  std::int64_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  constexpr std::int64_t kExponent = 0x7ff0000000000000;
  if (error != 0.0 && (bits & 1) == 0 && (bits & kExponent) != kExponent) {
    bits += (error > 0.0) == (sum > 0.0) ? 1 : -1;
  }
  double odd;
  std::memcpy(&odd, &bits, sizeof odd);
  return static_cast<float>(odd);
#endif
}

}  // namespace
}  // namespace octavo
