// 512-bit vectors for x86_common.h: 16 lanes, a whole line of a panel. AVX512 F, BW, DQ and VL. Included per kernel
// file; everything is in an anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/x86_common.h"
#include "kernels/detail/x86_load_once.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// The first n of 16 lanes; all of them from 16 on.
inline __mmask16 first_lanes(std::int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

struct Avx512 {
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr int kLanes = 16, kVecs = kNr / kLanes;

  static Ints zero() { return _mm512_setzero_si512(); }
  static Ints broadcast(std::int32_t v) { return _mm512_set1_epi32(v); }
  static Ints load(const void* at) { return _mm512_load_si512(at); }  // aligned
  static void store(void* at, Ints v) { _mm512_store_si512(at, v); }
  [[gnu::always_inline]] static Ints in_register(Ints v) { return in_a_register(v); }
  static Ints load_words(const std::int32_t* at) { return _mm512_loadu_si512(at); }
  static Ints load_shorts(const std::int16_t* at) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  }
  static Ints load_bytes(const std::uint8_t* at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  static Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
  static Ints times_minus_128(Ints v) { return sub(zero(), _mm512_slli_epi32(v, 7)); }

  static Floats zero_floats() { return _mm512_setzero_ps(); }
  static Floats broadcast(float v) { return _mm512_set1_ps(v); }
  static Floats load_floats(const float* at) { return _mm512_loadu_ps(at); }
  static Floats load_halves(const std::uint16_t* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  }
  static void store(float* at, Floats v) { _mm512_store_ps(at, v); }
  static Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats relu(Floats y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLE_UQ), y);
  }

  // A line of 16 results, or as many as there are columns.
  static void store_words(std::int32_t* dst, std::int64_t cols, const Ints (&line)[kVecs]) {
    _mm512_mask_storeu_epi32(dst, first_lanes(cols), line[0]);
  }
  static void store_floats(float* dst, std::int64_t cols, const Floats (&line)[kVecs]) {
    _mm512_mask_storeu_ps(dst, first_lanes(cols), line[0]);
  }
  // The same requantized: DstKind::kByte.
  static void store_bytes(std::uint8_t* dst, std::int64_t cols, const Floats (&line)[kVecs], const Epilogue& e) {
    const __m512 scaled = _mm512_mul_ps(line[0], _mm512_set1_ps(e.dst_inverse));
    const __m512 clamped = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(e.dst_lo)), _mm512_set1_ps(e.dst_hi));
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(clamped), _mm512_set1_epi32(e.dst_zero_point));
    _mm_mask_storeu_epi8(dst, first_lanes(cols), _mm512_cvtepi32_epi8(q));
  }

  // Sixteen bytes at x, of which n are there; the others are zero.
  static __m128i load_16(const std::uint8_t* x, std::int64_t n) { return _mm_maskz_loadu_epi8(first_lanes(n), x); }

  // Sixteen floats of a row, all of which are there, or n; the others are zero.
  static __m512 load_row(const float* x) { return _mm512_loadu_ps(x); }
  static __m512 load_row(const float* x, std::int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), x); }
  static __m512 load_row(const ScaledRow& row) { return _mm512_mul_ps(load_row(row.x), _mm512_loadu_ps(row.factor)); }
  static __m512 load_row(const ScaledRow& row, std::int64_t n) {
    return _mm512_mul_ps(load_row(row.x, n), _mm512_loadu_ps(row.factor));
  }

  // NaN shows in the bit patterns alone: MINPS and MAXPS return their second operand beside one, which is the running
  // value here.
  template <class Row>
  static RowQuant choose_row_quant(const Row& x, const QuantizeLhs& task) {
    const __m512i abs_mask = _mm512_set1_epi32(0x7fffffff);
    __m512i top[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512 lo[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, hi[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    const auto take = [&](int chain, __m512 v) {
      top[chain] = _mm512_max_epu32(top[chain], _mm512_and_si512(_mm512_castps_si512(v), abs_mask));
      if (task.asymmetric) {
        lo[chain] = _mm512_min_ps(v, lo[chain]);
        hi[chain] = _mm512_max_ps(v, hi[chain]);
      }
    };
    std::int64_t i = 0;
    for (; i + 32 <= task.k; i += 32) {
      take(0, load_row(x + i));
      take(1, load_row(x + (i + 16)));
    }
    for (; i < task.k; i += 16) take(0, load_row(x + i, task.k - i));
    const std::uint32_t max_abs_bits = _mm512_reduce_max_epu32(_mm512_max_epu32(top[0], top[1]));
    const float least = _mm512_reduce_min_ps(_mm512_min_ps(lo[0], lo[1]));
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(hi[0], hi[1]));
    return choose_from_range(task, max_abs_bits, least, most);
  }

  // 16 floats to 16 bytes: the low bytes of q + `added`.
  class Quantizer {
   public:
    Quantizer(const RowQuant& rq, std::int32_t added)
        : inverse_(_mm512_set1_ps(rq.inverse)),
          lo_(_mm512_set1_ps(rq.lo)),
          hi_(_mm512_set1_ps(rq.hi)),
          offset_(_mm512_set1_epi32(rq.zero_point + added)) {}

    // Of the floats at x n are there; the others count as zeros.
    template <class Row>
    __m128i operator()(const Row& x, std::int64_t n) const {
      const __m512 scaled = _mm512_mul_ps(load_row(x, n), inverse_);
      const __m512 clamped = _mm512_min_ps(_mm512_max_ps(scaled, lo_), hi_);
      return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(clamped), offset_));
    }

   private:
    __m512 inverse_, lo_, hi_;
    __m512i offset_;
  };
};

}  // namespace
}  // namespace octavo
