// AVX2 and F16C, four-bit weights: VPMADDUBSW with the nibbles as its unsigned operand.
//
// What saturates with int8 weights is exact here: a pair of products is at most 15 * 128 * 2 = 3,840, so the eight
// pairs of 32 k, in absolute value 30,720 together, are added up in int16 before one VPMADDWD by ones widens them to
// int32.
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c7            low (or high) nibbles of half a line
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, -128..127
//       VPMADDUBSW      c0: k01 | k23   | c1: k01 | k23   | ... |               16 x int16, added 8 times, then
//       VPMADDWD        c0              | c1              | ... | c7            8 x int32
//
// A tile is 3 rows by 2 halves of a panel: 6 int16 and 6 int32 accumulators, 2 rhs, 1 lhs and 1 product make the 16
// registers. For 32 k it takes 48 VPMADDUBSW and 42 VPADDW, then 6 VPMADDWD and 6 VPADDD, for 1,536 multiply-adds: 15
// an instruction, where the int8 kernel (x86_avx2.cpp) has 8.
#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx2.h"
#include "kernels/detail/x86_int4.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

struct Avx2Int4 : Avx2 {
  static constexpr int kMr = 3;
  static constexpr int kPanels = 1;
  static constexpr int kDirectTiles = 1;
  static constexpr std::int64_t kPieceHalves = 32;  // 16 KiB: a tile of 3 rows reads a line in 3 cycles, so from L1
  static constexpr std::int64_t kPlainBytes = 16 << 10;  // the plain lines of a piece, or of a chunk of short strips
  static constexpr bool kPrefetchScale = false;  // one row gained nothing, two 7 %
  static constexpr int kGemvMaxRows = 3;

  static Floats load_halves(const std::uint16_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Ints low_nibbles(Ints line) { return _mm256_and_si256(line, _mm256_set1_epi8(15)); }
  static Ints high_nibbles(Ints line) { return low_nibbles(_mm256_srli_epi16(line, 4)); }

  static std::int32_t sum_of_32(const std::int8_t* q) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    const __m128i one = _mm_hadd_epi32(two, two);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(one, one));
  }

  // One panel: two registers a line.
  template <Int4Source kSource, int R>
  static void add_products(const Int4Tile& tile, const Int4Segment& segment, Ints (&sums)[R][kVecs]) {
    constexpr bool kPrefetch = kSource == Int4Source::kStream;
    const std::int8_t* a = tile.lhs + segment.begin * kInt4Half;
    for (std::int64_t half = segment.begin; half < segment.end; ++half, a += kInt4Half) {
      if constexpr (kSource == Int4Source::kPlain) {
        add_half<Nibbles::kPlain, false>(a, tile.lhs_stride, tile.lines + (half - tile.half0) * kHalfBytes, sums);
      } else if (half % 2 == 0) {
        add_half<Nibbles::kLow, kPrefetch>(a, tile.lhs_stride, tile.lines + half / 2 * kHalfBytes, sums);
      } else {
        add_half<Nibbles::kHigh, false>(a, tile.lhs_stride, tile.lines + half / 2 * kHalfBytes, sums);
      }
    }
  }

 private:
  enum class Nibbles { kPlain, kLow, kHigh };

  // Adds the products of 32 k: eight lines, plain or one side of packed ones.
  template <Nibbles kNibbles, bool kPrefetch, int R>
  static void add_half(const std::int8_t* a, std::int64_t a_stride, const std::uint8_t* lines, Ints (&sums)[R][kVecs]) {
    Ints shorts[R][kVecs];
    unrolled<kHalfLines>([&](auto i) {
      const std::uint8_t* line = lines + i * kLineBytes;
      if constexpr (kPrefetch) prefetch_stream<(R > 1), i>(line);
      Ints b[kVecs];
      unrolled<kVecs>([&](auto v) {
        b[v] = load(line + kLanes * kKr * v);
        if constexpr (kNibbles == Nibbles::kLow) b[v] = low_nibbles(b[v]);
        if constexpr (kNibbles == Nibbles::kHigh) b[v] = high_nibbles(b[v]);
      });
      unrolled<R>([&](auto r) {
        const Ints row = broadcast_4k<Avx2>(a + r * a_stride + i * kKr);
        unrolled<kVecs>([&](auto v) {
          const Ints pairs = _mm256_maddubs_epi16(b[v], row);
          shorts[r][v] = in_order(i == 0 ? pairs : _mm256_add_epi16(shorts[r][v], pairs));
        });
      });
    });
    unrolled<R>([&](auto r) {
      unrolled<kVecs>([&](auto v) {
        sums[r][v] = in_order(add(sums[r][v], _mm256_madd_epi16(shorts[r][v], _mm256_set1_epi16(1))));
      });
    });
  }
};

}  // namespace

extern const Int4Kernel int4_avx2;
constexpr Int4Kernel int4_avx2 = x86_int4_kernel<Avx2Int4>(1e5);

}  // namespace octavo
