// exp, log, erf, tanh, sin, cos and what follows from them, on registers of float32.
//
// V is one of the vectors in kernels/detail (x86_vectors_avx2.h names what it has). Every operation is written out and
// rounded once, fma where fma stands, so that all V give the same bits; octavo._numerics.functions is the same in NumPy.
// The polynomials are fitted by bench/limits/function_coefficients.py, lowest power first; docs/functional.md has the
// errors. There are no branches on values, except for the rare arguments of sin and cos beyond 2^17.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {
namespace {

// c[0] + c[1] x + ... by Horner's rule.
template <class V, int kCount>
inline typename V::Float polynomial(const float (&c)[kCount], typename V::Float x) {
  typename V::Float y = V::set1(c[kCount - 1]);
  for (int i = kCount - 2; i >= 0; --i) y = V::fma(y, x, V::set1(c[i]));
  return y;
}

inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2High = 0.693147180559945309f;
inline constexpr float kLn2Low = static_cast<float>(0.693147180559945309 - static_cast<double>(kLn2High));
inline constexpr float kInfinity = __builtin_inff();

// exp(x) = (mantissa * high) * low, where high and low are powers of two: exact until the last multiplication, which
// rounds once where the result is subnormal. x counts as -125 below it and as 89 above, which give 0 and infinity; a
// caller whose x is within a bound leaves that out.
template <class V>
struct ExpParts {
  typename V::Float mantissa, high, low;
};

// x = n ln 2 + r with n = rint(x / ln 2), |r| <= ln 2 / 2; mantissa = 1 + (r + r^2 q(r)). n + 254 is in the low bits
// of t, because 2^23 is added; its halves are the exponents of high and low. With another bias than 127 these are
// 2^(127 - bias) times smaller.
template <class V, bool kBelow = true, bool kAbove = true, int kBias = 127>
inline ExpParts<V> exp_parts(typename V::Float x) {
  static constexpr float kQ[] = {0.49999994f, 0.166665167f, 0.0416680984f, 0.00836917851f, 0.00138429867f};
  constexpr float kShift = 0x1.8p23f + 2.0f * kBias;
  if constexpr (kBelow) x = V::max(V::set1(-125.0f), x);  // NaN stays
  if constexpr (kAbove) x = V::min(V::set1(89.0f), x);
  const auto t = V::fma(x, V::set1(kLog2E), V::set1(kShift));
  const auto n = t - V::set1(kShift);
  const auto r = V::fnma(n, V::set1(kLn2Low), V::fnma(n, V::set1(kLn2High), x));
  const auto rest = V::fma(polynomial<V>(kQ, r), r * r, r);
  const auto half = V::template shift_right<1>(V::bits(t));
  return {rest + V::set1(1.0f), V::from_bits(V::template shift_left<23>(half)),
          V::from_bits(V::template shift_left<23>(V::subtract(V::bits(t), half)))};
}

template <class V, bool kBelow, bool kAbove>
inline typename V::Float exp_within(typename V::Float x) {
  const ExpParts<V> e = exp_parts<V, kBelow, kAbove>(x);
  return (e.mantissa * e.high) * e.low;
}

struct Exp {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    return exp_within<V, true, true>(x);
  }
};

struct ExpOfNegative {  // x <= 0 or NaN
  template <class V>
  static typename V::Float of(typename V::Float x) {
    return exp_within<V, true, false>(x);
  }
};

// x = 2^k m with sqrt(1/2) <= m < sqrt(2), f = m - 1: log x = k ln 2 + (f + (f^2 (f q(f) - 1/2) + k ln2_low)).
struct Log {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    static constexpr float kQ[] = {0.333333135f,  -0.250001669f, 0.200022221f,  -0.166593716f, 0.142096549f,
                                   -0.125523612f, 0.1208928f,    -0.108270891f, 0.0527413972f};
    const auto is_subnormal = V::less(x, V::set1(0x1p-126f));
    const auto bits = V::bits(V::select(is_subnormal, x * V::set1(0x1p23f), x));
    const auto k = V::template shift_right_signed<23>(V::subtract(bits, V::set1_int(0x3f3504f3)));
    const auto f = V::from_bits(V::subtract(bits, V::template shift_left<23>(k))) - V::set1(1.0f);
    const auto n = V::to_float(k) - V::select(is_subnormal, V::set1(23.0f), V::set1(0.0f));
    const auto inner = V::fma(f, polynomial<V>(kQ, f), V::set1(-0.5f));
    const auto rest = f + V::fma(f * f, inner, n * V::set1(kLn2Low));
    const auto y = V::select(V::less(x, V::set1(kInfinity)), V::fma(n, V::set1(kLn2High), rest), x);
    const auto outside = V::select(V::less(x, V::set1(0.0f)), V::set1(__builtin_nanf("")), V::set1(-kInfinity));
    return V::select(V::less(x, V::set1(0x1p-149f)), outside, y);
  }
};

// |x| < 0.92: x + x q(x^2). Else sign(x) (1 - exp(-(a + a p(a)))) with a = |x|, at most 4, where the result is 1.
struct Erf {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    static constexpr float kQ[] = {0.128379151f,   -0.376124918f,  0.112817682f,
                                   -0.0267644096f, 0.00498955045f, -0.000597108738f};
    static constexpr float kP[] = {0.128677562f,   0.635023594f,     0.106465824f,  -0.0239761453f,
                                   0.00375248166f, -0.000352242729f, 1.4432916e-05f};
    const auto a = V::min(V::set1(4.0f), V::abs(x));
    const auto near = V::fma(polynomial<V>(kQ, a * a), x, x);
    const auto far = V::set1(1.0f) - exp_within<V, false, false>(V::negate(V::fma(polynomial<V>(kP, a), a, a)));
    return V::select(V::less(a, V::set1(0.92f)), near, V::with_sign_of(far, x));
  }
};

// |x| < 0.6: a + a (z q(z)) with z = a^2. Else 1 - 2 / (exp(2 a) + 1). With the sign of x.
struct Tanh {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    static constexpr float kQ[] = {-0.333332986f, 0.133319363f, -0.0537847169f, 0.020798631f, -0.00589798065f};
    const auto a = V::abs(x), z = a * a;
    const auto near = V::fma(polynomial<V>(kQ, z) * z, a, a);
    const auto far = V::set1(1.0f) - V::set1(2.0f) / (exp_within<V, false, true>(a + a) + V::set1(1.0f));
    return V::with_sign_of(V::select(V::less(a, V::set1(0.6f)), near, far), x);
  }
};

// e = exp(-|x|): 1 / (1 + e) for x >= 0, e / (1 + e) for x < 0.
struct Sigmoid {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    const auto e = ExpOfNegative::of<V>(V::minus_abs(x));
    return V::select(V::has_sign(x), e, V::set1(1.0f)) / (V::set1(1.0f) + e);
  }
};

// x sigmoid(z), where z has the sign of x. The smaller power of two comes last, so that the result has full precision
// as long as it is a normal number. x counts as -125 below it: the result is -0 there.
template <class V>
inline typename V::Float times_sigmoid(typename V::Float x, typename V::Float z) {
  const auto one = V::set1(1.0f);
  const ExpParts<V> e = exp_parts<V, true, false>(V::minus_abs(z));
  const auto larger = e.mantissa * e.high;
  const auto is_negative = V::has_sign(z);
  const auto numerator = V::max(V::set1(-125.0f), x) * V::select(is_negative, larger, one);
  return (numerator / (one + larger * e.low)) * V::select(is_negative, e.low, one);
}

struct Silu {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    return times_sigmoid<V>(x, x);
  }
};

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x sigmoid(x (c0 + c1 x^2)), which has twice the factors.
struct GeluTanh {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    constexpr float kC0 = 1.59576912160573071f, kC1 = 0.0713548162726002527f;
    return times_sigmoid<V>(x, x * V::fma(V::set1(kC1), x * x, V::set1(kC0)));
  }
};

// x times the normal distribution at x. The tail above a = |x| is c = exp(-a^2 / 2) p(t) / (a + 2.5) with
// t = (a - 2.5) / (a + 2.5) = 1 - 5 / (a + 2.5), whose even and odd powers are two polynomials side by side; a^2 / 2 is
// taken exactly, as d - s. -a c for x < 0, x (1 - c) else. a counts as 15 at most.
//
// Multiplications are what there is most of, so that by high is an addition of exponents. The coefficients are 2^-63
// times those of p: the product with them is a normal number with high's exponent, biased by 95, on top.
struct Gelu {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    static constexpr float kEven[] = {0x1p-63f * 0.706656635f, 0x1p-63f * 0.131987065f, 0x1p-63f * -0.0163870901f,
                                      0x1p-63f * 0.00252684625f, 0x1p-63f * -0.000314589182f};
    static constexpr float kOdd[] = {0x1p-63f * -0.433691978f, 0x1p-63f * 0.00923550781f, 0x1p-63f * -0.00159969798f,
                                     0x1p-63f * 0.000684056489f, 0x1p-63f * -0.000159000279f};
    const auto a = V::min(V::set1(15.0f), V::abs(x));
    const auto w = V::set1(1.0f) / (a + V::set1(2.5f));
    const auto half = V::set1(-0.5f) * a, s = half * a, d = V::fnma(half, a, s);
    const ExpParts<V> e = exp_parts<V, false, false, 95>(s);  // while the division is under way
    const auto t = V::fnma(V::set1(5.0f), w, V::set1(1.0f)), u = t * t;
    const auto ratio = V::fma(polynomial<V>(kOdd, u), t, polynomial<V>(kEven, u)) * w;
    const auto product = e.mantissa * V::fnma(d, ratio, ratio);
    const auto tail = V::from_bits(V::add(V::bits(product), V::bits(e.high)));
    const auto above = x * (V::set1(1.0f) - tail * e.low);
    const auto below = V::negate((a * tail) * e.low);
    return V::select(V::has_sign(x), below, above);
  }
};

// sin and cos: x = n pi/2 + r with |r| <= pi/4 and n's last two bits in the low bits of `quadrant`.
template <class V>
struct Reduced {
  typename V::Float r;
  typename V::Int quadrant;
};

// For |x| >= 2^17, by Payne and Hanek: x = m 2^e, and of 2/pi the 96 bits from weight 2^(1 - e) on suffice, since m
// times the bits above them is a multiple of 4 quarter turns. The fraction is exact to 2^-62.
inline void reduce_far(float x, float* r, std::uint32_t* quadrant) {
  static constexpr std::uint32_t kTwoOverPi[] = {0,           0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
                                                 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t exponent = (bits >> 23) & 0xff;
  if (exponent == 0xff) {
    *r = x - x;
    return;
  }
  const std::uint64_t m = (bits & 0x7fffffu) | 0x800000u;
  const std::uint32_t at = exponent - 120;  // e + 30: kTwoOverPi begins with weight 2^31
  const std::uint32_t word = at / 32, shift = at % 32;
  std::uint64_t window[3];
  for (std::uint32_t i = 0; i < 3; ++i) {
    const std::uint64_t both = std::uint64_t{kTwoOverPi[word + i]} << 32 | kTwoOverPi[word + i + 1];
    window[i] = (both << shift) >> 32;
  }
  const std::uint64_t turns = (m * window[0] << 32) + m * window[1] + (m * window[2] >> 32);
  const std::uint64_t n = (turns + (std::uint64_t{1} << 61)) >> 62;
  const auto fraction = static_cast<std::int64_t>(turns - (n << 62));
  const auto angle = static_cast<float>(static_cast<double>(fraction) * 0x1.921fb54442d18p-62);
  const bool negative = (bits >> 31) != 0;
  *r = negative ? -angle : angle;
  *quadrant = static_cast<std::uint32_t>(negative ? 0 - n : n);
}

template <class V>
inline Reduced<V> reduce(typename V::Float x) {
  constexpr float kTwoOverPi = 0.636619772367581343f, kShift = 0x1.8p23f;
  constexpr double kHalfPi = 1.57079632679489662;
  constexpr auto kHigh = static_cast<float>(kHalfPi);
  constexpr auto kMiddle = static_cast<float>(kHalfPi - kHigh);
  constexpr float kLow = -1.71512451e-15f;  // what pi/2 has beyond kHigh + kMiddle
  const auto t = V::fma(x, V::set1(kTwoOverPi), V::set1(kShift));
  const auto n = t - V::set1(kShift);
  Reduced<V> reduced{V::fnma(n, V::set1(kLow), V::fnma(n, V::set1(kMiddle), V::fnma(n, V::set1(kHigh), x))),
                     V::bits(t)};
  if (!V::all(V::less(V::abs(x), V::set1(0x1p17f)))) {
    float from[V::kLanes], r[V::kLanes], quadrant[V::kLanes];
    V::store(from, x);
    V::store(r, reduced.r);
    V::store(quadrant, V::from_bits(reduced.quadrant));
    for (int i = 0; i < V::kLanes; ++i) {
      if (from[i] < 0x1p17f && from[i] > -0x1p17f) continue;
      std::uint32_t turns = 0;
      reduce_far(from[i], &r[i], &turns);
      std::memcpy(&quadrant[i], &turns, sizeof turns);
    }
    reduced = {V::load(r), V::bits(V::load(quadrant))};
  }
  return reduced;
}

// sin r = r + r (z s(z)) and cos r = 1 - z / 2 + z^2 c(z), z = r^2; which one and its sign is told by the quadrant.
template <class V>
inline typename V::Float sin_or_cos(typename V::Float r, typename V::Int quadrant) {
  static constexpr float kS[] = {-0.166666552f, 0.00833218917f, -0.000195182874f};
  static constexpr float kC[] = {0.0416666456f, -0.00138873095f, 2.44323237e-05f};
  const auto z = r * r;
  const auto sine = V::fma(polynomial<V>(kS, z) * z, r, r);
  const auto cosine = V::fma(polynomial<V>(kC, z), z * z, V::fma(V::set1(-0.5f), z, V::set1(1.0f)));
  const auto y = V::select(V::odd_bit(quadrant, 0), cosine, sine);
  return V::select(V::odd_bit(quadrant, 1), V::negate(y), y);
}

struct Sin {  // x itself below 2^-13, which also keeps the sign of zero
  template <class V>
  static typename V::Float of(typename V::Float x) {
    const Reduced<V> a = reduce<V>(x);
    return V::select(V::less(V::abs(x), V::set1(0x1p-13f)), x, sin_or_cos<V>(a.r, a.quadrant));
  }
};

struct Cos {
  template <class V>
  static typename V::Float of(typename V::Float x) {
    const Reduced<V> a = reduce<V>(x);
    return sin_or_cos<V>(a.r, V::add(a.quadrant, V::set1_int(1)));
  }
};

}  // namespace
}  // namespace octavo
