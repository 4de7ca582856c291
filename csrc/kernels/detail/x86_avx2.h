// 256-bit vectors for x86_common.h: 8 lanes, half a line of a panel. AVX2 (and F16C where halves are loaded). Included
// per kernel file; everything is in an anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/x86_common.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// All ones in the first n of 8 lanes, 0 <= n <= 8.
inline __m256i first_lanes(std::int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

// Sixteen int32 of 0..255 to bytes.
inline __m128i bytes_of(__m256i first_8, __m256i last_8) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first_8, last_8), 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

// Keeps additions in the order written. GCC 12 otherwise multiplies every row first, needs all products at once on top
// of the accumulators, and spills.
inline __m256i in_order(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

struct Avx2 {
  using Ints = __m256i;
  using Floats = __m256;
  static constexpr int kLanes = 8, kVecs = kNr / kLanes;

  static Ints zero() { return _mm256_setzero_si256(); }
  static Ints broadcast(std::int32_t v) { return _mm256_set1_epi32(v); }
  static Ints load(const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); }  // aligned
  static void store(void* at, Ints v) { _mm256_store_si256(static_cast<__m256i*>(at), v); }
  [[gnu::always_inline]] static Ints in_register(Ints v) {
    __asm__ volatile("" : "+x"(v));
    return v;
  }
  static Ints load_words(const std::int32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static Ints load_shorts(const std::int16_t* at) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Ints load_bytes(const std::uint8_t* at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
  }
  static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
  static Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
  static Ints times_minus_128(Ints v) { return sub(zero(), _mm256_slli_epi32(v, 7)); }

  static Floats zero_floats() { return _mm256_setzero_ps(); }
  static Floats broadcast(float v) { return _mm256_set1_ps(v); }
  static Floats load_floats(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, Floats v) { _mm256_store_ps(at, v); }
  static Floats to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats relu(Floats y) { return _mm256_andnot_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LE_OQ), y); }

  // A line of 16 results, or as many as there are columns.
  static void store_words(std::int32_t* dst, std::int64_t cols, const Ints (&line)[kVecs]) {
    store_half(dst, cols, line[0]);
    if (cols > kLanes) store_half(dst + kLanes, cols - kLanes, line[1]);
  }
  static void store_floats(float* dst, std::int64_t cols, const Floats (&line)[kVecs]) {
    const Ints bits[kVecs] = {_mm256_castps_si256(line[0]), _mm256_castps_si256(line[1])};
    store_half(dst, cols, bits[0]);
    if (cols > kLanes) store_half(dst + kLanes, cols - kLanes, bits[1]);
  }
  // The same requantized: DstKind::kByte.
  static void store_bytes(std::uint8_t* dst, std::int64_t cols, const Floats (&line)[kVecs], const Epilogue& e) {
    const __m128i bytes = bytes_of(requantized(line[0], e), requantized(line[1], e));
    if (cols >= kNr) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), bytes);
    } else {
      alignas(16) std::uint8_t all[kNr];
      _mm_store_si128(reinterpret_cast<__m128i*>(all), bytes);
      std::memcpy(dst, all, static_cast<std::size_t>(cols));
    }
  }

  // Sixteen bytes at x, of which n are there; the others are zero.
  static __m128i load_16(const std::uint8_t* x, std::int64_t n) {
    if (n >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    alignas(16) std::uint8_t tail[16] = {};
    std::memcpy(tail, x, static_cast<std::size_t>(n));
    return _mm_load_si128(reinterpret_cast<const __m128i*>(tail));
  }

  // Eight floats of a row, all of which are there, or n; the others are zero.
  static __m256 load_row(const float* x) { return _mm256_loadu_ps(x); }
  static __m256 load_row(const float* x, std::int64_t n) {
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first_lanes(n));
  }
  static __m256 load_row(const ScaledRow& row) { return _mm256_mul_ps(load_row(row.x), _mm256_loadu_ps(row.factor)); }
  static __m256 load_row(const ScaledRow& row, std::int64_t n) {
    return _mm256_mul_ps(load_row(row.x, n), _mm256_loadu_ps(row.factor));
  }

  // NaN shows in the bit patterns alone: MINPS and MAXPS return their second operand beside one, which is the running
  // value here.
  template <class Row>
  static RowQuant choose_row_quant(const Row& x, const QuantizeLhs& task) {
    constexpr int kChains = 4;  // independent chains hide the latency
    const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
    __m256i top[kChains];
    __m256 lo[kChains], hi[kChains];
    for (int i = 0; i < kChains; ++i) {
      top[i] = _mm256_setzero_si256();
      lo[i] = hi[i] = _mm256_setzero_ps();
    }
    const auto take_all = [&](auto asymmetric) {
      const auto take = [&](int chain, __m256 v) {
        top[chain] = _mm256_max_epi32(top[chain], _mm256_and_si256(_mm256_castps_si256(v), abs_mask));
        if constexpr (asymmetric) {
          lo[chain] = _mm256_min_ps(v, lo[chain]);
          hi[chain] = _mm256_max_ps(v, hi[chain]);
        }
      };
      const std::int64_t k = task.k;
      std::int64_t i = 0;
      for (; i + 8 * kChains <= k; i += 8 * kChains) {
        for (int chain = 0; chain < kChains; ++chain) take(chain, load_row(x + (i + 8 * chain)));
      }
      for (; i < k; i += 8) take(0, load_row(x + i, k - i));
    };
    task.asymmetric ? take_all(std::true_type{}) : take_all(std::false_type{});
    for (int chain = 1; chain < kChains; ++chain) {
      top[0] = _mm256_max_epi32(top[0], top[chain]);
      lo[0] = _mm256_min_ps(lo[0], lo[chain]);
      hi[0] = _mm256_max_ps(hi[0], hi[chain]);
    }
    alignas(32) std::uint32_t tops[kLanes];
    alignas(32) float los[kLanes], his[kLanes];
    store(tops, top[0]);
    store(los, lo[0]);
    store(his, hi[0]);
    for (int j = 1; j < kLanes; ++j) {
      tops[0] = tops[j] > tops[0] ? tops[j] : tops[0];
      los[0] = los[j] < los[0] ? los[j] : los[0];
      his[0] = his[j] > his[0] ? his[j] : his[0];
    }
    return choose_from_range(task, tops[0], los[0], his[0]);
  }

  // 16 floats to 16 bytes: q + offset, offset 0 or 128. CVTPS2DQ rounds half to even; clamping to whole numbers before
  // it gives the same as clamping after it.
  class Quantizer {
   public:
    Quantizer(const RowQuant& rq, std::int32_t offset)
        : inverse_(_mm256_set1_ps(rq.inverse)),
          lo_(_mm256_set1_ps(rq.lo)),
          hi_(_mm256_set1_ps(rq.hi)),
          offset_(_mm256_set1_epi32(rq.zero_point + 128)),
          flip_(_mm_set1_epi8(static_cast<char>(offset ^ 128))) {}

    // Of the floats at x n are there; the others count as zeros.
    template <class Row>
    __m128i operator()(const Row& x, std::int64_t n) const {
      const __m128i bytes = bytes_of(words(load_row(x, n)), words(n > 8 ? load_row(x + 8, n - 8) : zero_floats()));
      return _mm_xor_si128(bytes, flip_);  // of q + 128
    }

   private:
    __m256i words(__m256 x) const {
      const __m256 clamped = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, inverse_), lo_), hi_);
      return _mm256_add_epi32(_mm256_cvtps_epi32(clamped), offset_);
    }

    __m256 inverse_, lo_, hi_;
    __m256i offset_;
    __m128i flip_;
  };

 private:
  static void store_half(void* dst, std::int64_t cols, Ints v) {
    if (cols >= kLanes) {
      _mm256_storeu_si256(static_cast<__m256i*>(dst), v);
    } else {
      _mm256_maskstore_epi32(static_cast<int*>(dst), first_lanes(cols), v);
    }
  }
  // Eight results as int32: whole numbers of -128..255, of which the low bytes are wanted.
  static Ints requantized(Floats y, const Epilogue& e) {
    const __m256 raised = _mm256_max_ps(_mm256_mul_ps(y, _mm256_set1_ps(e.dst_inverse)), _mm256_set1_ps(e.dst_lo));
    const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(raised, _mm256_set1_ps(e.dst_hi)));
    return _mm256_and_si256(_mm256_add_epi32(q, _mm256_set1_epi32(e.dst_zero_point)), _mm256_set1_epi32(0xff));
  }
};

}  // namespace
}  // namespace octavo
