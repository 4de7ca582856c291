// What kernels for grouped codes do with registers of 16 columns, whatever multiplies: see grouped_frame.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/x86_stream.h"

namespace octavo {
namespace {

struct GroupedVectors {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kVecs = 1;
  static constexpr std::uint32_t kByteBias = 0;
  static constexpr bool kWidensNibbles = false;

  [[gnu::always_inline]] static void prefetch_record(const std::uint8_t* at) { prefetch_to_l2(at); }
  [[gnu::always_inline]] static void prefetch_panel(const std::uint8_t* line) {
    prefetch_to_l2(line + kStreamAheadBytes);
  }

  static Int zero() { return _mm512_setzero_si512(); }
  static Int set1(std::int32_t v) { return _mm512_set1_epi32(v); }
  static Int load32(const std::int32_t* at) { return _mm512_loadu_si512(at); }
  static void store32(std::int32_t* at, Int a) { _mm512_store_si512(at, a); }
  static Int load_u8(const std::uint8_t* at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Int load_s8(const std::uint8_t* at) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Float zerof() { return _mm512_setzero_ps(); }
  static Float set1f(float v) { return _mm512_set1_ps(v); }
  static Float load_f32(const float* at) { return _mm512_loadu_ps(at); }
  static Float load_f16(const std::uint16_t* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  }
  static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int multiply(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
  static Int shift8(Int a) { return _mm512_slli_epi32(a, 8); }
  static Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static __m256 join_half(__m256i h, __m256i l) {
    const __m512d high = _mm512_mul_pd(_mm512_cvtepi32_pd(h), _mm512_set1_pd(256.0));
    return _mm512_cvtpd_ps(_mm512_add_pd(high, _mm512_cvtepi32_pd(l)));
  }
  static Float join(Int h, Int l) {
    const __m256 low = join_half(_mm512_castsi512_si256(h), _mm512_castsi512_si256(l));
    const __m256 high = join_half(_mm512_extracti64x4_epi64(h, 1), _mm512_extracti64x4_epi64(l, 1));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float addf(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float relu(Float y) {  // NaN stays, -0 becomes +0
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLE_UQ), y);
  }
  static Int dot_pairs(Int acc, std::int32_t pair, const std::uint8_t* bytes) {
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
    return _mm512_dpwssd_epi32(acc, words, _mm512_set1_epi32(pair));
  }
  static void store(float* dst, Float y, std::int64_t count) {
    if (count >= 16) {
      _mm512_storeu_ps(dst, y);
    } else {
      _mm512_mask_storeu_ps(dst, static_cast<__mmask16>((1u << count) - 1), y);
    }
  }
};

}  // namespace
}  // namespace octavo
