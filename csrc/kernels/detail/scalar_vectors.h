// Vectors of one float32, in standard C++: see kernels/detail/x86_vectors_avx2.h, which has the same names.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/exact_fma.h"

namespace octavo {
namespace {

struct ScalarVectors {
  using Float = float;
  using Int = std::uint32_t;  // int32 modulo 2^32
  using Mask = bool;
  static constexpr int kLanes = 1;
  static constexpr int kVecs = 16;

  static Float set1(float v) { return v; }
  static Float load(const float* at) { return *at; }
  static void store(float* at, Float v) { *at = v; }
  static Float load_some(const float* at, std::int64_t count, float fill) { return count > 0 ? *at : fill; }
  static void store_some(float* at, Float v, std::int64_t count) {
    if (count > 0) *at = v;
  }

  static Float fma(Float a, Float b, Float c) { return exact_fma(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return exact_fma(-a, b, c); }
  static Float sqrt(Float a) { return __builtin_sqrtf(a); }
  static Float abs(Float a) { return from_bits(bits(a) & 0x7fffffffu); }
  static Float minus_abs(Float a) { return from_bits(bits(a) | 0x80000000u); }
  static Float negate(Float a) { return -a; }
  static Float with_sign_of(Float magnitude, Float a) { return from_bits(bits(magnitude) | (bits(a) & 0x80000000u)); }
  static Float min(Float a, Float b) { return a < b ? a : b; }
  static Float max(Float a, Float b) { return a > b ? a : b; }

  static Mask less(Float a, Float b) { return a < b; }
  static Mask has_sign(Float a) { return (bits(a) >> 31) != 0; }
  static Mask odd_bit(Int a, int bit) { return ((a >> bit) & 1) != 0; }
  static bool all(Mask m) { return m; }
  static Float select(Mask m, Float yes, Float no) { return m ? yes : no; }

  static Int bits(Float a) {
    Int i;
    std::memcpy(&i, &a, sizeof i);
    return i;
  }
  static Float from_bits(Int a) {
    Float f;
    std::memcpy(&f, &a, sizeof f);
    return f;
  }
  static Int set1_int(std::int32_t v) { return static_cast<Int>(v); }
  static Int add(Int a, Int b) { return a + b; }
  static Int subtract(Int a, Int b) { return a - b; }
  template <int kBits>
  static Int shift_left(Int a) {
    return a << kBits;
  }
  template <int kBits>
  static Int shift_right(Int a) {
    return a >> kBits;
  }
  template <int kBits>
  static Int shift_right_signed(Int a) {
    return static_cast<Int>(static_cast<std::int32_t>(a) >> kBits);
  }
  static Float to_float(Int a) { return static_cast<float>(static_cast<std::int32_t>(a)); }

  static float sum(const Float (&v)[kVecs]) {
    float lanes[kVecs];
    for (int i = 0; i < kVecs; ++i) lanes[i] = v[i];
    for (int half = kVecs / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
  static float largest(const Float (&v)[kVecs]) {
    float most = v[0];
    for (int i = 1; i < kVecs; ++i) most = max(most, v[i]);
    return most;
  }
};

}  // namespace
}  // namespace octavo
