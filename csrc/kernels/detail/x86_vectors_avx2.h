// Vectors of float32 with AVX2 and FMA: what kernels/detail/float_functions.h is written over. + - * / of Float are the
// compiler's own, one rounding each.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

struct Avx2Vectors {
  using Float = __m256;
  using Int = __m256i;   // 8 x int32
  using Mask = __m256;   // the sign of a lane counts
  static constexpr int kLanes = 8;
  static constexpr int kVecs = 2;  // registers that make 16 lanes

  static Float set1(float v) { return _mm256_set1_ps(v); }
  static Float load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, Float v) { _mm256_storeu_ps(at, v); }
  // The first `count` lanes: none where it is not positive, all from kLanes on. The others are `fill`, or not stored.
  static __m256i first(std::int64_t count) {
    const int n = static_cast<int>(count < 0 ? 0 : count > 8 ? 8 : count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Float load_some(const float* at, std::int64_t count, float fill) {
    const __m256i mask = first(count);
    return _mm256_blendv_ps(set1(fill), _mm256_maskload_ps(at, mask), _mm256_castsi256_ps(mask));
  }
  static void store_some(float* at, Float v, std::int64_t count) { _mm256_maskstore_ps(at, first(count), v); }

  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }    // a * b + c, rounded once
  static Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
  static Float sqrt(Float a) { return _mm256_sqrt_ps(a); }
  static Float abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Float minus_abs(Float a) { return _mm256_or_ps(a, _mm256_set1_ps(-0.0f)); }
  static Float negate(Float a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
  static Float with_sign_of(Float magnitude, Float a) {  // of a magnitude without a sign
    return _mm256_or_ps(magnitude, _mm256_and_ps(a, _mm256_set1_ps(-0.0f)));
  }
  // The smaller and the larger; b where either is NaN.
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }

  static Mask less(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask has_sign(Float a) { return a; }  // -0 and some NaN too
  static Mask odd_bit(Int a, int bit) {  // whether a bit is set
    return _mm256_castsi256_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 31 - bit), 31));
  }
  static bool all(Mask m) { return _mm256_movemask_ps(m) == 0xff; }
  static Float select(Mask m, Float yes, Float no) { return _mm256_blendv_ps(no, yes, m); }

  static Int bits(Float a) { return _mm256_castps_si256(a); }
  static Float from_bits(Int a) { return _mm256_castsi256_ps(a); }
  static Int set1_int(std::int32_t v) { return _mm256_set1_epi32(v); }
  static Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int subtract(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  template <int kBits>
  static Int shift_left(Int a) {
    return _mm256_slli_epi32(a, kBits);
  }
  template <int kBits>
  static Int shift_right(Int a) {  // zeros come in
    return _mm256_srli_epi32(a, kBits);
  }
  template <int kBits>
  static Int shift_right_signed(Int a) {
    return _mm256_srai_epi32(a, kBits);
  }
  static Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }

  // v[i] + v[i + kStep] and v[i] - v[i + kStep], in their places.
  template <int kStep>
  static Float butterfly(Float v) {
    const Float other = kStep == 1   ? _mm256_permute_ps(v, 0xb1)
                        : kStep == 2 ? _mm256_permute_ps(v, 0x4e)
                                     : _mm256_permute2f128_ps(v, v, 1);
    constexpr int kSecond = kStep == 1 ? 0xaa : kStep == 2 ? 0xcc : 0xf0;
    return _mm256_blend_ps(other + v, other - v, kSecond);
  }

  // The 16 lanes as one number: halves, then halves of halves.
  static float sum(const Float (&v)[kVecs]) {
    const Float eight = v[0] + v[1];
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two + _mm_movehdup_ps(two));
  }
  static float largest(const Float (&v)[kVecs]) {  // any number where there is a NaN
    const Float eight = _mm256_max_ps(v[0], v[1]);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace
}  // namespace octavo
