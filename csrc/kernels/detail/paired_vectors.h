// Two registers of V side by side, as one vector: each operation is done on both before the next one.
//
// The functions of kernels/detail/float_functions.h are chains of about 20 dependent operations. An out-of-order core
// works on the next registers meanwhile only as far as its scheduler sees ahead (64 operations on Zen 3), which is about
// one chain. With two chains that alternate it has work for every cycle. The bits are those of V.
#pragma once

#include <cstdint>

namespace octavo {
namespace {

template <class V>
struct Paired {
  struct Float {
    typename V::Float a, b;
    friend Float operator+(Float x, Float y) { return {x.a + y.a, x.b + y.b}; }
    friend Float operator-(Float x, Float y) { return {x.a - y.a, x.b - y.b}; }
    friend Float operator*(Float x, Float y) { return {x.a * y.a, x.b * y.b}; }
    friend Float operator/(Float x, Float y) { return {x.a / y.a, x.b / y.b}; }
  };
  struct Int {
    typename V::Int a, b;
  };
  struct Mask {
    typename V::Mask a, b;
  };
  static constexpr int kLanes = 2 * V::kLanes;
  static constexpr int kVecs = V::kVecs / 2;

  static Float set1(float v) { return {V::set1(v), V::set1(v)}; }
  static Float load(const float* at) { return {V::load(at), V::load(at + V::kLanes)}; }
  static void store(float* at, Float v) {
    V::store(at, v.a);
    V::store(at + V::kLanes, v.b);
  }
  static Float load_some(const float* at, std::int64_t count, float fill) {
    const bool reaches = count > V::kLanes;
    return {V::load_some(at, count, fill),
            reaches ? V::load_some(at + V::kLanes, count - V::kLanes, fill) : V::set1(fill)};
  }
  static void store_some(float* at, Float v, std::int64_t count) {
    V::store_some(at, v.a, count);
    if (count > V::kLanes) V::store_some(at + V::kLanes, v.b, count - V::kLanes);
  }

  static Float fma(Float x, Float y, Float z) { return {V::fma(x.a, y.a, z.a), V::fma(x.b, y.b, z.b)}; }
  static Float fnma(Float x, Float y, Float z) { return {V::fnma(x.a, y.a, z.a), V::fnma(x.b, y.b, z.b)}; }
  static Float sqrt(Float x) { return {V::sqrt(x.a), V::sqrt(x.b)}; }
  static Float abs(Float x) { return {V::abs(x.a), V::abs(x.b)}; }
  static Float minus_abs(Float x) { return {V::minus_abs(x.a), V::minus_abs(x.b)}; }
  static Float negate(Float x) { return {V::negate(x.a), V::negate(x.b)}; }
  static Float with_sign_of(Float magnitude, Float x) {
    return {V::with_sign_of(magnitude.a, x.a), V::with_sign_of(magnitude.b, x.b)};
  }
  static Float min(Float x, Float y) { return {V::min(x.a, y.a), V::min(x.b, y.b)}; }
  static Float max(Float x, Float y) { return {V::max(x.a, y.a), V::max(x.b, y.b)}; }

  static Mask less(Float x, Float y) { return {V::less(x.a, y.a), V::less(x.b, y.b)}; }
  static Mask has_sign(Float x) { return {V::has_sign(x.a), V::has_sign(x.b)}; }
  static Mask odd_bit(Int x, int bit) { return {V::odd_bit(x.a, bit), V::odd_bit(x.b, bit)}; }
  static bool all(Mask m) { return V::all(m.a) && V::all(m.b); }
  static Float select(Mask m, Float yes, Float no) {
    return {V::select(m.a, yes.a, no.a), V::select(m.b, yes.b, no.b)};
  }

  static Int bits(Float x) { return {V::bits(x.a), V::bits(x.b)}; }
  static Float from_bits(Int x) { return {V::from_bits(x.a), V::from_bits(x.b)}; }
  static Int set1_int(std::int32_t v) { return {V::set1_int(v), V::set1_int(v)}; }
  static Int add(Int x, Int y) { return {V::add(x.a, y.a), V::add(x.b, y.b)}; }
  static Int subtract(Int x, Int y) { return {V::subtract(x.a, y.a), V::subtract(x.b, y.b)}; }
  template <int kBits>
  static Int shift_left(Int x) {
    return {V::template shift_left<kBits>(x.a), V::template shift_left<kBits>(x.b)};
  }
  template <int kBits>
  static Int shift_right(Int x) {
    return {V::template shift_right<kBits>(x.a), V::template shift_right<kBits>(x.b)};
  }
  template <int kBits>
  static Int shift_right_signed(Int x) {
    return {V::template shift_right_signed<kBits>(x.a), V::template shift_right_signed<kBits>(x.b)};
  }
  static Float to_float(Int x) { return {V::to_float(x.a), V::to_float(x.b)}; }

  static float sum(const Float (&v)[kVecs]) {
    typename V::Float each[V::kVecs];
    separate(v, each);
    return V::sum(each);
  }
  static float largest(const Float (&v)[kVecs]) {
    typename V::Float each[V::kVecs];
    separate(v, each);
    return V::largest(each);
  }

 private:
  static void separate(const Float (&v)[kVecs], typename V::Float (&each)[V::kVecs]) {
    for (int i = 0; i < kVecs; ++i) {
      each[2 * i] = v[i].a;
      each[2 * i + 1] = v[i].b;
    }
  }
};

}  // namespace
}  // namespace octavo
