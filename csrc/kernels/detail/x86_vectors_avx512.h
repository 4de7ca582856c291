// Vectors of float32 with AVX512 F, BW, DQ and VL: see kernels/detail/x86_vectors_avx2.h, which has the same names.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

struct Avx512Vectors {
  using Float = __m512;
  using Int = __m512i;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static constexpr int kVecs = 1;

  static Float set1(float v) { return _mm512_set1_ps(v); }
  static Float load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, Float v) { _mm512_storeu_ps(at, v); }
  static __mmask16 first(std::int64_t count) {
    return static_cast<__mmask16>(count <= 0 ? 0 : count >= 16 ? 0xffff : (1 << count) - 1);
  }
  static Float load_some(const float* at, std::int64_t count, float fill) {
    return _mm512_mask_loadu_ps(set1(fill), first(count), at);
  }
  static void store_some(float* at, Float v, std::int64_t count) { _mm512_mask_storeu_ps(at, first(count), v); }

  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
  static Float sqrt(Float a) { return _mm512_sqrt_ps(a); }
  static Float abs(Float a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
  static Float minus_abs(Float a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }
  static Float negate(Float a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
  static Float with_sign_of(Float magnitude, Float a) {
    return _mm512_or_ps(magnitude, _mm512_and_ps(a, _mm512_set1_ps(-0.0f)));
  }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }

  static Mask less(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask has_sign(Float a) { return _mm512_movepi32_mask(_mm512_castps_si512(a)); }
  static Mask odd_bit(Int a, int bit) { return _mm512_test_epi32_mask(a, _mm512_set1_epi32(1 << bit)); }
  static bool all(Mask m) { return m == 0xffff; }
  static Float select(Mask m, Float yes, Float no) { return _mm512_mask_blend_ps(m, no, yes); }

  static Int bits(Float a) { return _mm512_castps_si512(a); }
  static Float from_bits(Int a) { return _mm512_castsi512_ps(a); }
  static Int set1_int(std::int32_t v) { return _mm512_set1_epi32(v); }
  static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int subtract(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static Int shift_left(Int a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static Int shift_right(Int a) {
    return _mm512_srli_epi32(a, kBits);
  }
  template <int kBits>
  static Int shift_right_signed(Int a) {
    return _mm512_srai_epi32(a, kBits);
  }
  static Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }

  template <int kStep>
  static Float butterfly(Float v) {
    const Float other = kStep == 1   ? _mm512_shuffle_ps(v, v, 0xb1)
                        : kStep == 2 ? _mm512_shuffle_ps(v, v, 0x4e)
                        : kStep == 4 ? from_bits(_mm512_shuffle_i32x4(bits(v), bits(v), 0xb1))
                                     : from_bits(_mm512_shuffle_i32x4(bits(v), bits(v), 0x4e));
    constexpr Mask kSecond = kStep == 1 ? 0xaaaa : kStep == 2 ? 0xcccc : kStep == 4 ? 0xf0f0 : 0xff00;
    return _mm512_mask_sub_ps(other + v, kSecond, other, v);
  }

  static float sum(const Float (&v)[kVecs]) {
    const __m256 eight = _mm512_castps512_ps256(v[0]) + _mm512_extractf32x8_ps(v[0], 1);
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two + _mm_movehdup_ps(two));
  }
  static float largest(const Float (&v)[kVecs]) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v[0]), _mm512_extractf32x8_ps(v[0], 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace
}  // namespace octavo
