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
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_int4.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

// The arrays over groups, 16 columns of one panel and group.
struct Columns {
  const Int4Block& block;
  std::int64_t at;

  Columns(const Int4Block& b, const Int4Tile& tile, int p, std::int64_t group)
      : block(b), at(((tile.panel + p) * tile.group_count + group) * kNr) {}

  __m512 scale() const {
    if (!block.half_scale) return _mm512_loadu_ps(static_cast<const float*>(block.scale) + at);
    const std::uint16_t* half = static_cast<const std::uint16_t*>(block.scale) + at;
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
  }
  __m512i offset() const {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block.offset + at)));
  }
  __m512i sum() const {
    if (block.wide_sums()) return _mm512_loadu_si512(static_cast<const std::int32_t*>(block.column_sums) + at);
    const std::int16_t* narrow = static_cast<const std::int16_t*>(block.column_sums) + at;
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(narrow)));
  }
};

__m512i broadcast_4k(const std::int8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm512_set1_epi32(four);
}

// A line that is loaded once. GCC otherwise makes memory operands of both its uses, and loading is what bounds a
// stream: Zen 4 loads 64 bytes a cycle.
__m512i load_once(const std::uint8_t* line) {
  __m512i v = _mm512_load_si512(line);
  __asm__ volatile("" : "+v"(v));
  return v;
}

__m512i low_nibbles(__m512i line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }
__m512i high_nibbles(__m512i line) { return low_nibbles(_mm512_srli_epi16(line, 4)); }

struct Avx512Vnni {
#if defined(OCTAVO_FEW_TILES)  // sanitizers make a tile's code so large that compiling all heights takes ten minutes
  static constexpr int kMr = 3;
#else
  static constexpr int kMr = 12;
#endif
  static constexpr int kPanels = 2;
  // On Zen 4 unpacking in each tile anew is 3 to 5 % faster for any number of tiles, on pipes that VPDPBUSD leaves
  // free. Where it does not (Intel's ports 0 and 5), it would add an eighth: so a few tiles only. Not measured there.
  static constexpr int kDirectTiles = 4;
  static constexpr std::int64_t kPieceHalves = 64;        // 64 KiB, in L2: 3 % faster than 16 KiB in L1 (256x1024x3072)
  static constexpr std::int64_t kPlainBytes = 192 << 10;  // the plain lines of a chunk, in L2
  static constexpr int kGemvMaxRows = 4;
  static constexpr int kStride = kPanels * kNr;  // of y

  static std::int32_t sum_of_32(const std::int8_t* q) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    return _mm512_reduce_add_epi32(_mm512_zextsi256_si512(fours));
  }

  static void quantize(const QuantizeLhs& task, std::int64_t stride) {
    for (std::int64_t m = 0; m < task.rows; ++m) {
      const float* x = task.src + m * task.src_stride;
      std::int8_t* q = static_cast<std::int8_t*>(task.dst) + m * stride;
      const RowQuant rq = choose_row_quant(x, task);
      task.scale[m] = rq.scale;
      task.zero_point[m] = rq.zero_point;
      if (rq.inverse == 0.0f) {
        std::memset(q, rq.zero_point, static_cast<std::size_t>(task.k));
      } else {
        const RowQuantizer quantized(rq, 0);
        for (std::int64_t i = 0; i < task.k; i += 16) {
          const __m512 v = _mm512_maskz_loadu_ps(first_lanes(task.k - i), x + i);
          _mm_store_si128(reinterpret_cast<__m128i*>(q + i), quantized(v));
        }
      }
      std::memset(q + task.k, 0, static_cast<std::size_t>(stride - task.k));
    }
  }

  static void unpack_line(const std::uint8_t* src, bool high, std::uint8_t* dst) {
    const __m512i line = _mm512_load_si512(src);
    _mm512_store_si512(dst, high ? high_nibbles(line) : low_nibbles(line));
  }

  // What R rows' sums of a group start with: chain 0 of each; the other chains start with zeros.
  template <int R, int P, int kChains>
  static void start(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
                    __m512i (&sums)[R][P][kChains]) {
    unrolled<R>([&](auto r) {
      unrolled<P>([&](auto p) { unrolled<kChains>([&](auto c) { sums[r][p][c] = _mm512_setzero_si512(); }); });
    });
    if (!segment.begins) {
      unrolled<R>([&](auto r) {
        unrolled<P>([&](auto p) { sums[r][p][0] = _mm512_loadu_si512(tile.carried + kStride * r + kNr * p); });
      });
      return;
    }
    unrolled<R>([&](auto r) {
      const __m512i row = _mm512_set1_epi32(tile.starts[r * tile.group_count + segment.group]);
      unrolled<P>([&](auto p) { sums[r][p][0] = row; });
    });
    if (block.offset == nullptr && block.column_sums == nullptr) return;
    unrolled<P>([&](auto p) {
      const Columns columns(block, tile, p, segment.group);
      if (block.offset != nullptr) {
        const __m512i offset = columns.offset();
        unrolled<R>([&](auto r) { sums[r][p][0] = _mm512_mullo_epi32(sums[r][p][0], offset); });
      }
      if (block.column_sums != nullptr) {
        const __m512i column_sum = columns.sum();
        unrolled<R>([&](auto r) {
          const __m512i z = _mm512_set1_epi32(block.lhs_zero_point[tile.row0 + r]);
          sums[r][p][0] = _mm512_sub_epi32(sums[r][p][0], _mm512_mullo_epi32(z, column_sum));
        });
      }
    });
  }

  // Adds the products of plain lines, `count` of each panel.
  template <int R, int P, int kChains>
  static void add_plain(const Int4Tile& tile, const std::int8_t* a, const std::uint8_t* lines, std::int64_t count,
                        __m512i (&sums)[R][P][kChains]) {
    constexpr int kUnroll = 2, kBases = kRowBases<R>;
    static_assert(kHalfLines % kUnroll == 0, "a piece is whole halves");
    const std::int64_t stride = tile.lhs_stride;
    const std::int8_t* rows[kBases];
    unrolled<kBases>([&](auto i) { rows[i] = a + kRowsPerBase * i * stride; });
    for (std::int64_t i = 0; i < count; i += kUnroll, lines += kUnroll * kLineBytes) {
      unrolled<kUnroll>([&](auto step) {
        __m512i b[P];
        unrolled<P>([&](auto p) { b[p] = _mm512_load_si512(lines + p * tile.panel_bytes + step * kLineBytes); });
        unrolled<R>([&](auto r) {
          const __m512i row = broadcast_4k(rows[r / kRowsPerBase] + r % kRowsPerBase * stride + step * kKr);
          unrolled<P>([&](auto p) { sums[r][p][0] = _mm512_dpbusd_epi32(sums[r][p][0], b[p], row); });
        });
      });
      unrolled<kBases>([&](auto base) { rows[base] = kept_apart(rows[base] + kUnroll * kKr); });
    }
  }

  // Adds the products of a chunk's low nibbles, high nibbles or both. A stream from memory takes four lines at a time.
  template <int R, int P, int kChains, bool kLow, bool kHigh, bool kStream>
  static void add_chunk(const Int4Tile& tile, std::int64_t chunk, __m512i (&sums)[R][P][kChains]) {
    constexpr int kLines = kStream ? 4 : 1;
    const std::int8_t* a = tile.lhs + chunk * kInt4Chunk;
    const std::uint8_t* lines = tile.lines + chunk * kHalfLines * kLineBytes;
    const auto add = [&](auto chain, const __m512i(&b)[P], const std::int8_t* at) {
      unrolled<R>([&](auto r) {
        const __m512i row = broadcast_4k(at + r * tile.lhs_stride);
        unrolled<P>([&](auto p) { sums[r][p][chain] = _mm512_dpbusd_epi32(sums[r][p][chain], b[p], row); });
      });
    };
    for (int i = 0; i < kHalfLines; i += kLines, a += kLines * kKr, lines += kLines * kLineBytes) {
      unrolled<kLines>([&](auto line) {
        __m512i low[P], high[P];
        unrolled<P>([&](auto p) {
          const std::uint8_t* at = lines + p * tile.panel_bytes + line * kLineBytes;
          if constexpr (kStream) {
            prefetch_stream<(R > 2), line>(at);
          } else {
            prefetch_to_l2(at + kAheadBytes);
          }
          const __m512i both = load_once(at);
          low[p] = low_nibbles(both);
          high[p] = high_nibbles(both);
        });
        if constexpr (kLow) add(Index<2 * line % kChains>{}, low, a + line * kKr);
        if constexpr (kHigh) add(Index<(2 * line + 1) % kChains>{}, high, a + line * kKr + kInt4Half);
      });
    }
  }

  template <int R, int P, int kChains, bool kStream>
  static void add_packed(const Int4Tile& tile, const Int4Segment& segment, __m512i (&sums)[R][P][kChains]) {
    std::int64_t half = segment.begin;
    if (half % 2 != 0) add_chunk<R, P, kChains, false, true, kStream>(tile, half++ / 2, sums);
    for (; half + 2 <= segment.end; half += 2) add_chunk<R, P, kChains, true, true, kStream>(tile, half / 2, sums);
    if (half < segment.end) add_chunk<R, P, kChains, true, false, kStream>(tile, half / 2, sums);
  }

  // y += float(sums) * scale, where the group ends; otherwise the sums are put by.
  template <int R, int P, int kChains>
  static void put(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
                  __m512i (&sums)[R][P][kChains]) {
    unrolled<kChains - 1>([&](auto c) {
      unrolled<R>([&](auto r) {
        unrolled<P>([&](auto p) { sums[r][p][0] = _mm512_add_epi32(sums[r][p][0], sums[r][p][c + 1]); });
      });
    });
    if (!segment.ends) {
      unrolled<R>([&](auto r) {
        unrolled<P>([&](auto p) { _mm512_storeu_si512(tile.carried + kStride * r + kNr * p, sums[r][p][0]); });
      });
      return;
    }
    float* const first = tile.y;
    unrolled<P>([&](auto p) {
      const __m512 scale = Columns(block, tile, p, segment.group).scale();
      unrolled<R>([&](auto r) {
        float* y = first + kStride * r + kNr * p;
        const __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][p][0]), scale);
        const __m512 before = segment.group == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        _mm512_storeu_ps(y, _mm512_add_ps(before, f));
      });
    });
  }

  template <int R, int P, Int4Source kSource>
  [[gnu::flatten, gnu::noinline]] static void multiply(const Int4Block& block, const Int4Tile& tile) {
    constexpr bool kStream = kSource == Int4Source::kStream;
    constexpr int kChains = !kStream ? 1 : R <= 2 ? 4 : 2;  // as many products under way as the latency asks for
    for (Int4Segment segment(tile); segment.begin < tile.half1; segment.advance(tile)) {
      __m512i sums[R][P][kChains];
      start(block, tile, segment, sums);
      if constexpr (kSource == Int4Source::kPlain) {
        const std::uint8_t* lines = tile.lines + (segment.begin - tile.half0) * kHalfLines * kLineBytes;
        const std::int64_t count = (segment.end - segment.begin) * kHalfLines;
        add_plain(tile, tile.lhs + segment.begin * kInt4Half, lines, count, sums);
      } else {
        add_packed<R, P, kChains, kStream>(tile, segment, sums);
      }
      put(block, tile, segment, sums);
    }
  }

  // dst = y * lhs_scale, + bias, relu: rows of 16 columns from col0 on, or as many as there are.
  static void finish(const Int4Block& block, const float* y, std::int64_t row0, std::int64_t rows, std::int64_t col0) {
    const __mmask16 lanes = first_lanes(block.cols - col0);
    const __m512 bias = block.bias != nullptr ? _mm512_loadu_ps(block.bias + col0) : _mm512_setzero_ps();
    for (std::int64_t r = 0; r < rows; ++r, y += kStride) {
      __m512 value = _mm512_mul_ps(_mm512_loadu_ps(y), _mm512_set1_ps(block.lhs_scale[row0 + r]));
      if (block.bias != nullptr) value = _mm512_add_ps(value, bias);
      if (block.relu) {  // NaN stays, -0 becomes +0
        value = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NLE_UQ), value);
      }
      _mm512_mask_storeu_ps(block.dst + (row0 + r) * block.dst_stride + col0, lanes, value);
    }
  }
};

}  // namespace

extern const Int4Kernel int4_avx512vnni;
constexpr Int4Kernel int4_avx512vnni = x86_int4_kernel<Avx512Vnni>();

}  // namespace octavo
