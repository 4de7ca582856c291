// AVX2, FMA and F16C, grouped codes: VPMADDUBSW with nibbles as its unsigned operand.
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c7            nibbles of half a line, 0..15
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, -128..127
//       VPMADDUBSW      c0: k01 | k23   | c1: k01 | k23   | ... |               16 x int16, added up to 8 times, then
//       VPMADDWD        c0              | c1              | ... | c7            8 x int32
//
// A pair of products is at most 15 * 128 * 2 = 3,840, so int16 holds 8 of them. Codes of 8 bits are two nibbles: they
// are multiplied one after the other, and VPMADDWD weighs the high ones with 16. That is exact for every code and
// activation, -128 included, and takes as long as widening both to int16 would.
//
// The common forms have tiles of 4 rows by 1 panel (grouped_fused.h): 8 int16 accumulators, 2 rhs, the lhs and a
// product; their sums become floats once in 32 k. Two levels, offsets of groups, groups of 16 and rows with zero points
// have the loops of grouped_frame.h, 3 rows by 1 panel.
#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/grouped_fused.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct Avx2Grouped : NoStreams {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kVecs = 2;
  static constexpr int kMr = 3, kFusedRows = 4, kTallestTile = 4, kPlaneRows = 2;
  static constexpr std::int64_t kAheadBytes = octavo::kAheadBytes;
  static constexpr std::uint32_t kByteBias = 0;

  // Keeps additions in the order written: GCC otherwise multiplies all rows first, and spills.
  static Int in_order(Int a) {
    __asm__ volatile("" : "+x"(a));
    return a;
  }
  static __m128i load16(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
  static Int zero() { return _mm256_setzero_si256(); }
  static Int set1(std::int32_t v) { return _mm256_set1_epi32(v); }
  static Int load32(const std::int32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static void store32(std::int32_t* at, Int a) { _mm256_store_si256(reinterpret_cast<__m256i*>(at), a); }
  static Int load_u8(const std::uint8_t* at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
  }
  static Int load_s8(const std::uint8_t* at) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
  }
  static Float zerof() { return _mm256_setzero_ps(); }
  static Float set1f(float v) { return _mm256_set1_ps(v); }
  static Float load_f32(const float* at) { return _mm256_loadu_ps(at); }
  static Float load_f16(const std::uint16_t* at) { return _mm256_cvtph_ps(load16(at)); }
  static Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int multiply(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
  static Int shift8(Int a) { return _mm256_slli_epi32(a, 8); }
  static Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
  static __m128 join_half(__m128i h, __m128i l) {
    const __m256d high = _mm256_mul_pd(_mm256_cvtepi32_pd(h), _mm256_set1_pd(256.0));
    return _mm256_cvtpd_ps(_mm256_add_pd(high, _mm256_cvtepi32_pd(l)));
  }
  static Float join(Int h, Int l) {
    const __m128 low = join_half(_mm256_castsi256_si128(h), _mm256_castsi256_si128(l));
    return _mm256_set_m128(join_half(_mm256_extracti128_si256(h, 1), _mm256_extracti128_si256(l, 1)), low);
  }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float addf(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float relu(Float y) {  // NaN stays, -0 becomes +0
    return _mm256_andnot_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LE_OQ), y);
  }
  static Int dot_pairs(Int acc, std::int32_t pair, const std::uint8_t* bytes) {
    const __m256i words = _mm256_cvtepu8_epi16(load16(bytes));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi32(pair)));
  }
  static void store(float* dst, Float y, std::int64_t count) {
    if (count >= 8) {
      _mm256_storeu_ps(dst, y);
    } else {
      const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      _mm256_maskstore_ps(dst, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(count)), lanes), y);
    }
  }

  // The products of 4 * kQuads lines, of their low or high nibbles, in pairs of k.
  template <bool kHigh, int kQuads, int R>
  static void multiply_nibbles(Int (&shorts)[R][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                               const std::uint8_t* lines) {
    const __m256i mask = _mm256_set1_epi8(15);
    unrolled<4 * kQuads>([&](auto i) {
      __m256i b[2];
      unrolled<2>([&](auto v) {
        const std::uint8_t* at = lines + i * kGroupedLineBytes + 32 * v;
        const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
        b[v] = _mm256_and_si256(kHigh ? _mm256_srli_epi16(both, 4) : both, mask);
      });
      unrolled<R>([&](auto r) {
        const __m256i row = _mm256_set1_epi32(read_as<std::int32_t>(rows[r] + k + 4 * i));
        unrolled<2>([&](auto v) {
          const __m256i pairs = _mm256_maddubs_epi16(b[v], row);
          shorts[r][v] = in_order(i == 0 ? pairs : _mm256_add_epi16(shorts[r][v], pairs));
        });
      });
    });
  }

  // Adds kWeight times the products of 4 * kQuads lines, of their low or high nibbles.
  template <bool kHigh, int kWeight, int kQuads, int R, int P>
  static void add_nibbles(Int (&sums)[R][P][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                          const std::uint8_t* lines, std::int64_t panel_bytes) {
    unrolled<P>([&](auto p) {
      Int shorts[R][2];
      multiply_nibbles<kHigh, kQuads>(shorts, rows, k, lines + p * panel_bytes);
      unrolled<R>([&](auto r) {
        unrolled<2>([&](auto v) {
          const __m256i wide = _mm256_madd_epi16(shorts[r][v], _mm256_set1_epi16(kWeight));
          sums[r][p][v] = _mm256_add_epi32(sums[r][p][v], wide);
        });
      });
    });
  }

  template <Codes kCodes, int kQuads, int R, int P>
  static void add_quads(Int (&sums)[R][P][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t panel_bytes) {
    if constexpr (kCodes == Codes::kBytes) {
      add_nibbles<false, 1, kQuads>(sums, rows, k, lines, panel_bytes);
      add_nibbles<true, 16, kQuads>(sums, rows, k, lines, panel_bytes);
    } else {
      add_nibbles<kCodes == Codes::kHighNibbles, 1, kQuads>(sums, rows, k, lines, panel_bytes);
    }
  }

  template <Codes kCodes, int R, int P>
  static void add_lines(Int (&sums)[R][P][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t panel_bytes, std::int64_t quads, std::int64_t ahead) {
    for (; quads > 1; quads -= 2, k += 32, lines += 8 * kGroupedLineBytes) {
      for (int i = 0; ahead != 0 && i < 8; ++i) prefetch_to_l2(lines + i * kGroupedLineBytes + ahead);
      add_quads<kCodes, 2>(sums, rows, k, lines, panel_bytes);
    }
    if (quads == 1) add_quads<kCodes, 1>(sums, rows, k, lines, panel_bytes);
  }

  // The products of 4 * kQuads lines of what codes of 5 and 6 bits have above their nibbles, from line kFirst of the 16
  // of a chunk on. Fields of one or two bits, 16 times as heavy: int16 holds as many of their products.
  template <int kBits, int kFirst, int kQuads, int R>
  static void multiply_fields(Int (&shorts)[R][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                              const std::uint8_t* planes) {
    constexpr int kHighBits = kBits - 4, kFields = 8 / kHighBits;
    const __m256i mask = _mm256_set1_epi8((1 << kHighBits) - 1);
    unrolled<4 * kQuads>([&](auto i) {
      constexpr int kLine = kFirst + i;
      __m256i b[2];
      unrolled<2>([&](auto v) {
        const std::uint8_t* at = planes + kLine / kFields * kGroupedLineBytes + 32 * v;
        const __m256i plane = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
        b[v] = _mm256_and_si256(_mm256_srli_epi16(plane, kLine % kFields * kHighBits), mask);
      });
      unrolled<R>([&](auto r) {
        const __m256i row = _mm256_set1_epi32(read_as<std::int32_t>(rows[r] + k + 4 * i));
        unrolled<2>([&](auto v) {
          const __m256i pairs = _mm256_maddubs_epi16(b[v], row);
          shorts[r][v] = i == 0 ? pairs : _mm256_add_epi16(shorts[r][v], pairs);
        });
      });
    });
  }

  template <int kBits, int kFirst, int kQuads, int R>
  static void add_half(Int (&sums)[R][1][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                       const std::uint8_t* chunk) {
    constexpr int kPlanes = 2 * (kBits - 4), kInHalf = kFirst % static_cast<int>(kGroupedChunkLines);
    add_nibbles<(kFirst >= kGroupedChunkLines), 1, kQuads>(sums, rows, k,
                                                           chunk + (kPlanes + kInHalf) * kGroupedLineBytes, 0);
    Int shorts[R][2];
    multiply_fields<kBits, kFirst, kQuads>(shorts, rows, k, chunk);
    unrolled<R>([&](auto r) {
      unrolled<2>(
          [&](auto v) { sums[r][0][v] = add(sums[r][0][v], _mm256_madd_epi16(shorts[r][v], _mm256_set1_epi16(16))); });
    });
  }

  template <int kBits, int R>
  static void add_planes(Int (&sums)[R][1][2], const std::int8_t* const (&rows)[R], std::int64_t k,
                         const std::uint8_t* chunk, std::int64_t quads) {
    const std::int64_t quad = k / 16 % 4;  // of the chunk
    if (quad == 0) {  // lines in their order: those that are read out of it keep the hardware from prefetching
      for (int p = 0; p < 2 * (kBits - 4); ++p) {
        _mm_prefetch(reinterpret_cast<const char*>(chunk + p * kGroupedLineBytes), _MM_HINT_T0);
      }
    }
    if (quads == 2)
      return quad == 0 ? add_half<kBits, 0, 2>(sums, rows, k, chunk) : add_half<kBits, 8, 2>(sums, rows, k, chunk);
    quad == 0   ? add_half<kBits, 0, 1>(sums, rows, k, chunk)
    : quad == 1 ? add_half<kBits, 4, 1>(sums, rows, k, chunk)
    : quad == 2 ? add_half<kBits, 8, 1>(sums, rows, k, chunk)
                : add_half<kBits, 12, 1>(sums, rows, k, chunk);
  }

  // Sets the sums to kWeight times the products of 32 k, or adds them.
  template <bool kAdd, bool kHigh, int kWeight, int R>
  static void put_half(Int (&sums)[R][2], const GroupedRows<R>& rows, std::int64_t k, const std::uint8_t* lines) {
    Int shorts[R][2];
    multiply_nibbles<kHigh, 2>(shorts, rows.q, k, lines);
    unrolled<R>([&](auto r) {
      unrolled<2>([&](auto v) {
        const __m256i wide = _mm256_madd_epi16(shorts[r][v], _mm256_set1_epi16(kWeight));
        sums[r][v] = kAdd ? add(sums[r][v], wide) : wide;
      });
    });
  }

  template <int kBits, bool kAdd, int R>
  static void put_chunk(Int (&sums)[R][2], const GroupedRows<R>& rows, std::int64_t k, const std::uint8_t* panel) {
    if constexpr (kBits == 8) {
      const std::uint8_t* lines = panel + k * kGroupedNr;
      if constexpr (R > 2) prefetch_lines(lines);
      put_half<kAdd, false, 1>(sums, rows, k, lines);
      put_half<true, true, 16>(sums, rows, k, lines);
    } else {
      const std::uint8_t* lines = panel + (k & ~std::int64_t{63}) * (kGroupedNr / 2);
      if ((k & 32) == 0) {
        if constexpr (R > 2) prefetch_lines(lines);
        put_half<kAdd, false, 1>(sums, rows, k, lines);
      } else {
        put_half<kAdd, true, 1>(sums, rows, k, lines);
      }
    }
  }

  // Many rows take the panels from the L2 cache, where this gave 4 %. A single one reads memory as fast as the hardware
  // prefetches it: on Zen 3 prefetches of any kind and distance took 10 to 30 % of that.
  [[gnu::always_inline]] static void prefetch_lines(const std::uint8_t* lines) {
    for (int i = 0; i < 8; i += 2) prefetch_to_l2(lines + i * kGroupedLineBytes + kAheadBytes);
  }

  template <int kBits, bool kStarts, int R>
  static void group_sums(Int (&sums)[R][2], const GroupedRows<R>& rows, std::int64_t group, std::int64_t size,
                         const std::uint8_t* panel) {
    std::int64_t k = group * size;
    const std::int64_t end = k + size;
    if constexpr (kStarts && kBits == 4) {  // bytes have too few registers for this
      unrolled<R>([&](auto r) { sums[r][0] = sums[r][1] = set1(read_as<std::int32_t>(rows.starts[r], group)); });
      for (; k < end; k += 32) put_chunk<kBits, true>(sums, rows, k, panel);
      return;
    }
    put_chunk<kBits, false>(sums, rows, k, panel);
    while ((k += 32) < end) put_chunk<kBits, true>(sums, rows, k, panel);
    if constexpr (kStarts) {
      unrolled<R>([&](auto r) {
        const Int start = set1(read_as<std::int32_t>(rows.starts[r], group));
        unrolled<2>([&](auto v) { sums[r][v] = add(sums[r][v], start); });
      });
    }
  }
};

}  // namespace

extern const GroupedKernel grouped_avx2;
constexpr GroupedKernel grouped_avx2 = fused_kernel<Avx2Grouped>(1e5);

}  // namespace octavo
