// AVX512-VNNI, grouped codes: VPDPBUSD takes codes as its unsigned operand and activations as its signed one.
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c15           codes, or low or high nibbles
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, -128..127
//       accumulator     c0              | c1              | ... | c15           16 x int32
//
// A tile is 6 rows by 2 panels: 12 sums and 12 floats in registers, 2 codes, the broadcast and what a flush reads. A
// group of 32 k is 96 VPDPBUSD; its flush is a conversion and an FMA of each of 12, one more FMA with minima, and one
// more where activations have groups.
#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/grouped_registers.h"
#include "kernels/detail/x86_grouped_avx512.h"
#include "kernels/detail/x86_load_once.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct Avx512VnniGrouped : GroupedVectors {
  static constexpr int kMr = 6, kTallestTile = kMr;
  static constexpr int kPanels = 2, kFramePanels = 1;  // of tiles in registers, and of those with buffers
  static constexpr std::int64_t kAheadBytes = octavo::kAheadBytes;
  static constexpr int kStreamRows = 4, kPlaneRows = 4;

  template <Codes kCodes>
  static __m512i codes(const std::uint8_t* line) {
    const __m512i both = _mm512_load_si512(line);
    if constexpr (kCodes == Codes::kBytes) return both;
    if constexpr (kCodes == Codes::kLowNibbles) return _mm512_and_si512(both, _mm512_set1_epi8(15));
    return _mm512_and_si512(_mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
  }

  template <Codes kCodes, int R, int P>
  static void add_lines(Int (&sums)[R][P][1], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t panel_bytes, std::int64_t quads, std::int64_t ahead) {
    for (; quads > 0; --quads, k += 16, lines += 4 * kGroupedLineBytes) {
      for (int i = 0; ahead != 0 && i < 4 * P; ++i) {
        prefetch_to_l2(lines + i / 4 * panel_bytes + i % 4 * kGroupedLineBytes + ahead);
      }
      unrolled<4>([&](auto i) {
        __m512i b[P];
        unrolled<P>([&](auto p) { b[p] = codes<kCodes>(lines + p * panel_bytes + i * kGroupedLineBytes); });
        unrolled<R>([&](auto r) {
          const __m512i row = _mm512_set1_epi32(read_as<std::int32_t>(rows[r] + k + 4 * i));
          unrolled<P>([&](auto p) { sums[r][p][0] = _mm512_dpbusd_epi32(sums[r][p][0], b[p], row); });
        });
      });
    }
  }

  template <int R>
  static void start(Int (&sums)[R][1][1], const GroupedRows<R>& rows, std::int64_t group) {
    unrolled<R>([&](auto r) { sums[r][0][0] = set1(read_as<std::int32_t>(rows.starts[r], group)); });
  }
  template <int R>
  static void add_line(Int (&sums)[R][1][1], const GroupedRows<R>& rows, std::int64_t k, __m512i line) {
    unrolled<R>([&](auto r) {
      const __m512i row = _mm512_set1_epi32(read_as<std::int32_t>(rows.q[r] + k));
      sums[r][0][0] = _mm512_dpbusd_epi32(sums[r][0][0], line, row);
    });
  }

  // Of nibbles, each of which is split, or of bytes, of which two rows are faster without on Zen 4.
  template <int kLine, bool kNibbles, int R>
  [[gnu::always_inline]] static void prefetch_codes(const GroupedRows<R>& rows, const std::uint8_t* at) {
    if constexpr (R <= 2) {
      if ((R == 2 && kNibbles) || rows.far_prefetch) {
        prefetch_to_l2(at + kStreamAheadBytes);
      } else if constexpr (R == 1 && kLine % 2 == 0) {
        prefetch_to_l2(at + octavo::kAheadBytes);
      }
    } else {
      prefetch_stream<true, kLine>(at);
    }
  }

  // What codes of 5 and 6 bits have above nibbles, of a chunk of 64 k: the lines that it begins with.
  template <int kBits>
  struct Planes {
    static constexpr int kHighBits = kBits - 4, kLines = 2 * kHighBits, kFields = kHighBits == 0 ? 1 : 8 / kHighBits;
    __m512i of[kLines == 0 ? 1 : kLines];

    template <int R>
    Planes(const GroupedRows<R>& rows, const std::uint8_t* chunk) {
      unrolled<kLines>([&](auto p) {
        prefetch_codes<p, true>(rows, chunk + p * kGroupedLineBytes);
        of[p] = load_once(chunk + p * kGroupedLineBytes);
      });
    }

    // The codes of line kLine, of 16, whose low four bits are given with others above them.
    template <int kLine>
    __m512i codes(__m512i low) const {
      low = _mm512_and_si512(low, _mm512_set1_epi8(15));
      if constexpr (kHighBits == 0) {
        return low;
      } else {
        constexpr int kLeft = 4 - kLine % kFields * kHighBits;  // from where the field stands to 4
        const __m512i plane = of[kLine / kFields];
        const __m512i moved = kLeft > 0 ? _mm512_slli_epi64(plane, kLeft > 0 ? kLeft : 0)
                                        : _mm512_srli_epi64(plane, kLeft < 0 ? -kLeft : 0);
        return _mm512_or_si512(low, _mm512_and_si512(moved, _mm512_set1_epi8(((1 << kHighBits) - 1) << 4)));
      }
    }
  };

  // kLines lines from kFirst on of a chunk's nibbles: the low ones to one sum, the high ones to another.
  template <int kFirst, int kLines, int kBits, int R>
  static void add_both(Int (&low)[R][1][1], Int (&high)[R][1][1], const GroupedRows<R>& rows, std::int64_t k,
                       const Planes<kBits>& planes, const std::uint8_t* chunk) {
    unrolled<kLines>([&](auto i) {
      constexpr int kLine = kFirst + i;
      const std::uint8_t* at = chunk + (Planes<kBits>::kLines + kLine) * kGroupedLineBytes;
      prefetch_codes<kLine, true>(rows, at);
      const __m512i both = load_once(at);
      add_line(low, rows, k + 4 * kLine, planes.template codes<kLine>(both));
      const __m512i upper = _mm512_srli_epi16(both, 4);
      add_line(high, rows, k + 32 + 4 * kLine, planes.template codes<kGroupedChunkLines + kLine>(upper));
    });
  }

  template <int kFirst, int kLines, int R>
  static void add_bytes(Int (&sums)[R][1][1], const GroupedRows<R>& rows, std::int64_t k, const std::uint8_t* lines) {
    unrolled<kLines>([&](auto i) {
      constexpr int kLine = kFirst + i;
      const std::uint8_t* at = lines + kLine * kGroupedLineBytes;
      prefetch_codes<kLine, false>(rows, at);
      add_line(sums, rows, k + 4 * kLine, _mm512_load_si512(at));
    });
  }

  // put(group, sums) for groups [first, end) of a panel, and with nibbles for some behind them; sums[R][1][1].
  template <int kBits, int R, class Put>
  static void stream_groups(const GroupedRows<R>& rows, std::int64_t size, const std::uint8_t* panel,
                            std::int64_t first, std::int64_t end, const Put& put) {
    if constexpr (kBits == 8) {
      size == 16   ? stream_bytes<4>(rows, size, panel, first, end, put)
      : size == 32 ? stream_bytes<8>(rows, size, panel, first, end, put)
                   : stream_bytes<16>(rows, size, panel, first, end, put);
    } else if (size >= 64) {
      stream_chunks<kBits>(rows, size, panel, first, end, put);
    } else {
      size == 16 ? stream_split<kBits, 4>(rows, panel, first, end, put)
                 : stream_split<kBits, 8>(rows, panel, first, end, put);
    }
  }

  // 8-bit codes, kLines lines at a time, which a group is a multiple of.
  template <int kLines, int R, class Put>
  static void stream_bytes(const GroupedRows<R>& rows, std::int64_t size, const std::uint8_t* panel, std::int64_t group,
                           std::int64_t end, const Put& put) {
    for (std::int64_t k = group * size; group < end; ++group) {
      Int sums[R][1][1];
      start(sums, rows, group);
      const std::int64_t group_end = k + size;
      do {
        add_bytes<0, kLines>(sums, rows, k, panel + k * kGroupedNr);
        k += 4 * kLines;
      } while (kLines == 16 && k < group_end);
      put(group, sums);
    }
  }

  // Nibbles, with planes above them or without, in groups of 64 k and more.
  template <int kBits, int R, class Put>
  static void stream_chunks(const GroupedRows<R>& rows, std::int64_t size, const std::uint8_t* panel,
                            std::int64_t group, std::int64_t end, const Put& put) {
    for (std::int64_t k = group * size; group < end; ++group) {
      Int low[R][1][1], high[R][1][1];
      start(low, rows, group);
      unrolled<R>([&](auto r) { high[r][0][0] = zero(); });
      const std::int64_t group_end = k + size;
      do {
        const std::uint8_t* const chunk = panel + k * kGroupedNr * kBits / 8;
        const Planes<kBits> planes(rows, chunk);
        add_both<0, 8>(low, high, rows, k, planes, chunk);
        k += 64;
      } while (k < group_end);
      unrolled<R>([&](auto r) { low[r][0][0] = add(low[r][0][0], high[r][0][0]); });
      put(group, low);
    }
  }

  // The same in groups of kLines lines, 16 or 32 k: a chunk holds 4 or 2 of them, one half in its low nibbles. Groups
  // of 16 do not come in their order. What a last chunk holds of groups that are not there is computed from zeros.
  template <int kBits, int kLines, int R, class Put>
  static void stream_split(const GroupedRows<R>& rows, const std::uint8_t* panel, std::int64_t group, std::int64_t end,
                           const Put& put) {
    constexpr int kParts = 8 / kLines;  // groups of a chunk's low nibbles, and of its high ones
    for (std::int64_t k = group * (4 * kLines); group < end; k += 64, group += 2 * kParts) {
      const std::uint8_t* const chunk = panel + k * kGroupedNr * kBits / 8;
      const Planes<kBits> planes(rows, chunk);
      unrolled<kParts>([&](auto part) {
        const std::int64_t first = group + part, second = group + kParts + part;
        Int low[R][1][1], high[R][1][1];
        start(low, rows, first < end ? first : end - 1);
        start(high, rows, second < end ? second : end - 1);
        add_both<kLines * part, kLines>(low, high, rows, k, planes, chunk);
        put(first, low);
        put(second, high);
      });
    }
  }
};

}  // namespace

extern const GroupedKernel grouped_avx512vnni;
constexpr GroupedKernel grouped_avx512vnni = registers_kernel<Avx512VnniGrouped>(1.5e5);

}  // namespace octavo
