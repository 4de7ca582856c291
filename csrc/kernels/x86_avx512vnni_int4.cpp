// AVX512-VNNI, four-bit weights: VPDPBUSD takes the nibbles as its unsigned operand and the activations as its signed
// one, so nothing has to be made unsigned first. The weights' offset is in the sums from the start (detail/x86_int4.h).
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c15           low (or high) nibbles of a line, 0..15
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, -128..127
//       accumulator     c0              | c1              | ... | c15           16 x int32
//
// Four products of at most 15 * 128 fit int32 by far; sums wrap mod 2^32, and a finished group does not exceed int32.
//
// A tile is 12 rows by 2 panels: 24 accumulators, 2 rhs and the lhs broadcast. A group of 128 k is 32 steps of 24
// VPDPBUSD; rescaling its sums takes a conversion, a multiplication and an addition of each, 9 % of that, on pipes that
// VPDPBUSD leaves free in part. y stays in L1 and not in registers, which the sums need.
#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_int4.h"
#include "kernels/detail/x86_load_once.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

struct Avx512VnniInt4 : Avx512 {
  static constexpr int kMr = 12;
  static constexpr int kPanels = 2;
  // On Zen 4 unpacking in each tile anew is 3 to 5 % faster for any number of tiles, on pipes that VPDPBUSD leaves
  // free. Where it does not (Intel's ports 0 and 5), it would add an eighth: so a few tiles only. Not measured there.
  static constexpr int kDirectTiles = 4;
  static constexpr std::int64_t kPieceHalves = 64;        // 64 KiB, in L2: 3 % faster than 16 KiB in L1 (256x1024x3072)
  static constexpr std::int64_t kPlainBytes = 192 << 10;  // the plain lines of a chunk, in L2
  static constexpr int kGemvMaxRows = 4;
  static constexpr bool kPrefetchScale = true;

  static Ints low_nibbles(Ints line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }
  static Ints high_nibbles(Ints line) { return low_nibbles(_mm512_srli_epi16(line, 4)); }

  static std::int32_t sum_of_32(const std::int8_t* q) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    return _mm512_reduce_add_epi32(_mm512_zextsi256_si512(fours));
  }

  template <Int4Source kSource, int R, int P>
  static void add_products(const Int4Tile& tile, const Int4Segment& segment, Ints (&sums)[R][P]) {
    if constexpr (kSource == Int4Source::kPlain) {
      add_plain(tile, segment, sums);
    } else if constexpr (kSource == Int4Source::kPacked) {
      add_packed(segment, [&](std::int64_t chunk, auto nibbles) { add_chunk<nibbles>(tile, chunk, sums); });
    } else {
      constexpr int kChains = R <= 2 ? 4 : 2;
      Ints chains[kChains][R];
      unrolled<R>([&](auto r) {
        chains[0][r] = sums[r][0];
        unrolled<kChains - 1>([&](auto c) { chains[c + 1][r] = zero(); });
      });
      add_packed(segment, [&](std::int64_t chunk, auto nibbles) { stream_chunk<nibbles>(tile, chunk, chains); });
      unrolled<R>([&](auto r) {
        sums[r][0] = chains[0][r];
        unrolled<kChains - 1>([&](auto c) { sums[r][0] = add(sums[r][0], chains[c + 1][r]); });
      });
    }
  }

 private:
  enum Nibbles { kLow = 1, kHigh = 2, kBoth = kLow | kHigh };

  static Ints dot(Ints sum, Ints nibbles, Ints row) { return _mm512_dpbusd_epi32(sum, nibbles, row); }

  // The segment's chunks of 64 k: add_chunk(chunk, nibbles), which of them in an Index.
  template <class AddChunk>
  static void add_packed(const Int4Segment& segment, const AddChunk& add_chunk) {
    std::int64_t half = segment.begin;
    if (half % 2 != 0) add_chunk(half++ / 2, Index<kHigh>{});
    for (; half + 2 <= segment.end; half += 2) add_chunk(half / 2, Index<kBoth>{});
    if (half < segment.end) add_chunk(half / 2, Index<kLow>{});
  }

  // Plain lines.
  template <int R, int P>
  static void add_plain(const Int4Tile& tile, const Int4Segment& segment, Ints (&sums)[R][P]) {
    constexpr int kUnroll = 2, kBases = kRowBases<R>;
    static_assert(kHalfLines % kUnroll == 0, "a piece is whole halves");
    const std::int64_t count = (segment.end - segment.begin) * kHalfLines, stride = tile.lhs_stride;
    const std::uint8_t* lines = tile.lines + (segment.begin - tile.half0) * kHalfBytes;
    const std::int8_t* rows[kBases];
    unrolled<kBases>([&](auto i) { rows[i] = tile.lhs + segment.begin * kInt4Half + kRowsPerBase * i * stride; });
    for (std::int64_t i = 0; i < count; i += kUnroll, lines += kUnroll * kLineBytes) {
      unrolled<kUnroll>([&](auto step) {
        Ints b[P];
        unrolled<P>([&](auto p) { b[p] = load(lines + p * tile.panel_bytes + step * kLineBytes); });
        unrolled<R>([&](auto r) {
          const Ints row = broadcast_4k<Avx512>(rows[r / kRowsPerBase] + r % kRowsPerBase * stride + step * kKr);
          unrolled<P>([&](auto p) { sums[r][p] = dot(sums[r][p], b[p], row); });
        });
      });
      unrolled<kBases>([&](auto base) { rows[base] = kept_apart(rows[base] + kUnroll * kKr); });
    }
  }

  // One chunk's nibbles, which each tile unpacks anew.
  template <int kNibbles, int R, int P>
  static void add_chunk(const Int4Tile& tile, std::int64_t chunk, Ints (&sums)[R][P]) {
    const std::int8_t* a = tile.lhs + chunk * kInt4Chunk;
    const std::uint8_t* lines = tile.lines + chunk * kHalfBytes;
    const auto add_line = [&](const Ints(&b)[P], const std::int8_t* at) {
      unrolled<R>([&](auto r) {
        const Ints row = broadcast_4k<Avx512>(at + r * tile.lhs_stride);
        unrolled<P>([&](auto p) { sums[r][p] = dot(sums[r][p], b[p], row); });
      });
    };
    for (int i = 0; i < kHalfLines; ++i, a += kKr, lines += kLineBytes) {
      Ints low[P], high[P];
      unrolled<P>([&](auto p) {
        const std::uint8_t* at = lines + p * tile.panel_bytes;
        prefetch_to_l2(at + kAheadBytes);
        const Ints both = load_once(at);
        low[p] = low_nibbles(both);
        high[p] = high_nibbles(both);
      });
      if constexpr ((kNibbles & kLow) != 0) add_line(low, a);
      if constexpr ((kNibbles & kHigh) != 0) add_line(high, a + kInt4Half);
    }
  }

  // The same for a panel that comes from memory: four lines at a time, whose products go to the chains in turn.
  template <int kNibbles, int kChains, int R>
  static void stream_chunk(const Int4Tile& tile, std::int64_t chunk, Ints (&chains)[kChains][R]) {
    constexpr int kLines = 4;
    const std::int8_t* a = tile.lhs + chunk * kInt4Chunk;
    const std::uint8_t* lines = tile.lines + chunk * kHalfBytes;
    const auto add_line = [&](auto chain, Ints b, const std::int8_t* at) {
      unrolled<R>([&](auto r) {
        const Ints row = broadcast_4k<Avx512>(at + r * tile.lhs_stride);
        chains[chain][r] = dot(chains[chain][r], b, row);
      });
    };
    for (int i = 0; i < kHalfLines; i += kLines, a += kLines * kKr, lines += kLines * kLineBytes) {
      unrolled<kLines>([&](auto l) {
        if constexpr (kNibbles != (kLow | kHigh)) {  // groups of 32, whose flushes keep the next lines waiting
          prefetch_to_l2(lines + l * kLineBytes + kStreamAheadBytes);
        } else {
          prefetch_stream<(R > 1), l>(lines + l * kLineBytes);
        }
        const Ints both = load_once(lines + l * kLineBytes);
        const std::int8_t* at = a + l * kKr;
        if constexpr ((kNibbles & kLow) != 0) add_line(Index<2 * l % kChains>{}, low_nibbles(both), at);
        if constexpr ((kNibbles & kHigh) != 0) {
          add_line(Index<(2 * l + 1) % kChains>{}, high_nibbles(both), at + kInt4Half);
        }
      });
    }
  }
};

}  // namespace

extern const Int4Kernel int4_avx512vnni;
constexpr Int4Kernel int4_avx512vnni = x86_int4_kernel<Avx512VnniInt4>(2e5);

}  // namespace octavo
