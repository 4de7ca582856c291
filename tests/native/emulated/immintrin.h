// AVX-512 on CPUs with AVX2, for building kernels in tests: stands before the compiler's <immintrin.h> and lets SIMDe
// (Debian's libsimde-dev) take the place of each 512-bit intrinsic that kernels use. What SIMDe 0.7.4 lacks follows,
// made of halves. A kernel that uses one more of those does not compile.
//
// Exact wherever the kernels are: SIMDe's fused multiply-add is AVX2's own where it is compiled with -mfma.
#pragma once

#include_next <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

// The emulated kernels run wherever AVX2 does.
#include "base/features.h"
#define kFeatureAvx512Vnni kFeatureAvx2

#undef _mm256_dpbusd_epi32
#undef _mm512_dpbusd_epi32
#define _mm256_dpbusd_epi32 emulated_mm256_dpbusd_epi32
#define _mm512_dpbusd_epi32 emulated_mm512_dpbusd_epi32
#define _mm512_cvtepi16_epi32 emulated_mm512_cvtepi16_epi32
#define _mm512_cvtepi32_epi8 emulated_mm512_cvtepi32_epi8
#define _mm512_cvtepi32_pd emulated_mm512_cvtepi32_pd
#define _mm512_cvtepi32_ps emulated_mm512_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_mm512_cvtepi8_epi32
#define _mm512_cvtepu8_epi16 emulated_mm512_cvtepu8_epi16
#define _mm512_cvtepu8_epi32 emulated_mm512_cvtepu8_epi32
#define _mm512_cvtpd_ps emulated_mm512_cvtpd_ps
#define _mm512_cvtph_ps emulated_mm512_cvtph_ps
#define _mm512_cvtps_epi32 emulated_mm512_cvtps_epi32
#define _mm512_reduce_add_epi32 emulated_mm512_reduce_add_epi32
#define _mm512_reduce_max_epu32 emulated_mm512_reduce_max_epu32
#define _mm512_reduce_max_ps emulated_mm512_reduce_max_ps
#define _mm512_reduce_min_ps emulated_mm512_reduce_min_ps
#define _mm512_zextsi256_si512 emulated_mm512_zextsi256_si512
#define _mm512_stream_ps emulated_mm512_stream_ps
#define _mm512_mask_loadu_ps emulated_mm512_mask_loadu_ps
#define _mm512_maskz_loadu_ps emulated_mm512_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mm512_mask_storeu_ps
#define _mm512_mask_storeu_epi32 emulated_mm512_mask_storeu_epi32
#define _mm_maskz_loadu_epi8 emulated_mm_maskz_loadu_epi8
#define _mm_mask_storeu_epi8 emulated_mm_mask_storeu_epi8
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(a, i) emulated::half<__m256>(a, i)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(a, count) \
  emulated::by_halves<__m512i, __m256i>(a, [](__m256i half) { return _mm256_srai_epi32(half, count); })

namespace {
namespace emulated {

template <class Half, class Whole>
Half half(const Whole& whole, int i) {
  Half part;
  std::memcpy(&part, reinterpret_cast<const char*>(&whole) + i * static_cast<int>(sizeof part), sizeof part);
  return part;
}

template <class Whole, class Half>
Whole whole(const Half& low, const Half& high) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half));
  Whole both;
  std::memcpy(&both, &low, sizeof low);
  std::memcpy(reinterpret_cast<char*>(&both) + sizeof low, &high, sizeof high);
  return both;
}

// f of each half.
template <class Result, class Half, class Whole, class F>
Result by_halves(const Whole& v, const F& f) {
  return whole<Result>(f(half<Half>(v, 0)), f(half<Half>(v, 1)));
}

// The lanes of `from` that the mask names; the others stay as they are and are not touched.
template <class Lane>
void move_lanes(void* to, std::uint64_t mask, const void* from, int lanes) {
  for (int i = 0; i < lanes; ++i) {
    if ((mask >> i & 1) != 0) std::memcpy(static_cast<Lane*>(to) + i, static_cast<const Lane*>(from) + i, sizeof(Lane));
  }
}

template <class Lane, class Fold>
Lane reduce(const void* v, const Fold& fold) {
  Lane lanes[16];
  std::memcpy(lanes, v, sizeof lanes);
  for (int i = 1; i < 16; ++i) lanes[0] = fold(lanes[0], lanes[i]);
  return lanes[0];
}

}  // namespace emulated

// SIMDe has these two, but takes five times as long. Two products of an unsigned and a signed byte fit 32 bits, no 16.
inline __m256i _mm256_dpbusd_epi32(__m256i sum, __m256i a, __m256i b) {
  const __m256i zero = _mm256_setzero_si256(), sign = _mm256_cmpgt_epi8(zero, b);
  const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi8(a, zero), _mm256_unpacklo_epi8(b, sign));
  const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi8(a, zero), _mm256_unpackhi_epi8(b, sign));
  return _mm256_add_epi32(sum, _mm256_hadd_epi32(low, high));
}
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  using emulated::half;
  return emulated::whole<__m512i>(_mm256_dpbusd_epi32(half<__m256i>(sum, 0), half<__m256i>(a, 0), half<__m256i>(b, 0)),
                                  _mm256_dpbusd_epi32(half<__m256i>(sum, 1), half<__m256i>(a, 1), half<__m256i>(b, 1)));
}

inline __m512i _mm512_cvtepi16_epi32(__m256i v) {
  return emulated::by_halves<__m512i, __m128i>(v, [](__m128i half) { return _mm256_cvtepi16_epi32(half); });
}
inline __m128i _mm512_cvtepi32_epi8(__m512i v) {
  std::int32_t words[16];
  std::int8_t bytes[16];
  std::memcpy(words, &v, sizeof words);
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::int8_t>(words[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}
inline __m512d _mm512_cvtepi32_pd(__m256i v) {
  return emulated::by_halves<__m512d, __m128i>(v, [](__m128i half) { return _mm256_cvtepi32_pd(half); });
}
inline __m512 _mm512_cvtepi32_ps(__m512i v) {
  return emulated::by_halves<__m512, __m256i>(v, [](__m256i half) { return _mm256_cvtepi32_ps(half); });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i v) {
  return emulated::whole<__m512i>(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
inline __m512i _mm512_cvtepu8_epi16(__m256i v) {
  return emulated::by_halves<__m512i, __m128i>(v, [](__m128i half) { return _mm256_cvtepu8_epi16(half); });
}
inline __m512i _mm512_cvtepu8_epi32(__m128i v) {
  return emulated::whole<__m512i>(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
inline __m256 _mm512_cvtpd_ps(__m512d v) {
  return emulated::by_halves<__m256, __m256d>(v, [](__m256d half) { return _mm256_cvtpd_ps(half); });
}
inline __m512 _mm512_cvtph_ps(__m256i v) {
  return emulated::by_halves<__m512, __m128i>(v, [](__m128i half) { return _mm256_cvtph_ps(half); });
}
inline __m512i _mm512_cvtps_epi32(__m512 v) {
  return emulated::by_halves<__m512i, __m256>(v, [](__m256 half) { return _mm256_cvtps_epi32(half); });
}
inline __m512i _mm512_zextsi256_si512(__m256i v) { return emulated::whole<__m512i>(v, _mm256_setzero_si256()); }

inline std::int32_t _mm512_reduce_add_epi32(__m512i v) {
  return emulated::reduce<std::int32_t>(&v, [](std::int32_t a, std::int32_t b) { return a + b; });
}
inline std::uint32_t _mm512_reduce_max_epu32(__m512i v) {
  return emulated::reduce<std::uint32_t>(&v, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
}
inline float _mm512_reduce_max_ps(__m512 v) {
  return emulated::reduce<float>(&v, [](float a, float b) { return a > b ? a : b; });
}
inline float _mm512_reduce_min_ps(__m512 v) {
  return emulated::reduce<float>(&v, [](float a, float b) { return a < b ? a : b; });
}

// Where the hardware raises #GP, the program ends.
inline void _mm512_stream_ps(float* to, __m512 v) {
  if (reinterpret_cast<std::uintptr_t>(to) % sizeof v != 0) std::abort();
  std::memcpy(to, &v, sizeof v);
}

inline __m512 _mm512_mask_loadu_ps(__m512 v, __mmask16 mask, const void* from) {
  emulated::move_lanes<float>(&v, mask, from, 16);
  return v;
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
  return _mm512_mask_loadu_ps(_mm512_setzero_ps(), mask, from);
}
inline void _mm512_mask_storeu_ps(void* to, __mmask16 mask, __m512 v) { emulated::move_lanes<float>(to, mask, &v, 16); }
inline void _mm512_mask_storeu_epi32(void* to, __mmask16 mask, __m512i v) {
  emulated::move_lanes<std::int32_t>(to, mask, &v, 16);
}
inline __m128i _mm_maskz_loadu_epi8(__mmask16 mask, const void* from) {
  __m128i v = _mm_setzero_si128();
  emulated::move_lanes<std::int8_t>(&v, mask, from, 16);
  return v;
}
inline void _mm_mask_storeu_epi8(void* to, __mmask16 mask, __m128i v) {
  emulated::move_lanes<std::int8_t>(to, mask, &v, 16);
}

}  // namespace
