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
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx2.h"
#include "kernels/detail/x86_int4.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

constexpr int kHalves = 2;  // of a panel: 8 columns each

// The arrays over groups, 8 columns of one group.
struct Columns {
  const Int4Block& block;
  std::int64_t at;

  Columns(const Int4Block& b, const Int4Tile& tile, int half, std::int64_t group)
      : block(b), at((tile.panel * tile.group_count + group) * kNr + 8 * half) {}

  __m256 scale() const {
    if (!block.half_scale) return _mm256_loadu_ps(static_cast<const float*>(block.scale) + at);
    const std::uint16_t* half = static_cast<const std::uint16_t*>(block.scale) + at;
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half)));
  }
  __m256i offset() const {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(block.offset + at)));
  }
  __m256i sum() const {
    if (block.wide_sums()) {
      const std::int32_t* wide = static_cast<const std::int32_t*>(block.column_sums) + at;
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(wide));
    }
    const std::int16_t* narrow = static_cast<const std::int16_t*>(block.column_sums) + at;
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(narrow)));
  }
};

__m256i load(const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); }
__m256i low_nibbles(__m256i line) { return _mm256_and_si256(line, _mm256_set1_epi8(15)); }
__m256i high_nibbles(__m256i line) { return low_nibbles(_mm256_srli_epi16(line, 4)); }

__m256i broadcast_4k(const std::int8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm256_set1_epi32(four);
}

// Keeps additions in the order written: see x86_avx2.cpp.
__m256i in_order(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

struct Avx2 {
  static constexpr int kMr = 3;
  static constexpr int kPanels = 1;
  static constexpr int kDirectTiles = 1;
  static constexpr std::int64_t kPieceHalves = 32;  // 16 KiB: a tile of 3 rows reads a line in 3 cycles, so from L1
  static constexpr std::int64_t kPlainBytes = 16 << 10;  // the plain lines of a piece, or of a chunk of short strips
  static constexpr int kGemvMaxRows = 3;

  static std::int32_t sum_of_32(const std::int8_t* q) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    const __m128i one = _mm_hadd_epi32(two, two);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(one, one));
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
        const RowQuantizer quantized(rq);
        for (std::int64_t i = 0; i < task.k; i += 8) {
          const __m256 v =
              task.k - i >= 8 ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, first_lanes(task.k - i));
          const __m256i words = quantized(v);
          const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
          _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi16(shorts, shorts));
        }
      }
      std::memset(q + task.k, 0, static_cast<std::size_t>(stride - task.k));
    }
  }

  static void unpack_line(const std::uint8_t* src, bool high, std::uint8_t* dst) {
    unrolled<kHalves>([&](auto h) {
      const __m256i both = load(src + 32 * h);
      _mm256_store_si256(reinterpret_cast<__m256i*>(dst + 32 * h), high ? high_nibbles(both) : low_nibbles(both));
    });
  }

  // What the sums of R rows start with in a group.
  template <int R>
  static void start(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
                    __m256i (&sums)[R][kHalves]) {
    if (!segment.begins) {
      unrolled<R>(
          [&](auto r) { unrolled<kHalves>([&](auto h) { sums[r][h] = load(tile.carried + kNr * r + 8 * h); }); });
      return;
    }
    unrolled<R>([&](auto r) {
      const __m256i row = _mm256_set1_epi32(tile.starts[r * tile.group_count + segment.group]);
      unrolled<kHalves>([&](auto h) { sums[r][h] = row; });
    });
    if (block.offset == nullptr && block.column_sums == nullptr) return;
    unrolled<kHalves>([&](auto h) {
      const Columns columns(block, tile, h, segment.group);
      if (block.offset != nullptr) {
        const __m256i offset = columns.offset();
        unrolled<R>([&](auto r) { sums[r][h] = _mm256_mullo_epi32(sums[r][h], offset); });
      }
      if (block.column_sums != nullptr) {
        const __m256i column_sum = columns.sum();
        unrolled<R>([&](auto r) {
          const __m256i z = _mm256_set1_epi32(block.lhs_zero_point[tile.row0 + r]);
          sums[r][h] = _mm256_sub_epi32(sums[r][h], _mm256_mullo_epi32(z, column_sum));
        });
      }
    });
  }

  enum class Nibbles { kPlain, kLow, kHigh };

  // Adds the products of 32 k: eight lines, plain or one side of packed ones.
  template <int R, Nibbles kNibbles, bool kPrefetch>
  static void add_half(const std::int8_t* a, std::int64_t a_stride, const std::uint8_t* lines,
                       __m256i (&sums)[R][kHalves]) {
    __m256i shorts[R][kHalves];
    unrolled<kHalfLines>([&](auto i) {
      const std::uint8_t* line = lines + i * kLineBytes;
      if constexpr (kPrefetch) prefetch_stream<(R > 1), i>(line);
      __m256i b[kHalves];
      unrolled<kHalves>([&](auto h) {
        b[h] = load(line + 32 * h);
        if constexpr (kNibbles == Nibbles::kLow) b[h] = low_nibbles(b[h]);
        if constexpr (kNibbles == Nibbles::kHigh) b[h] = high_nibbles(b[h]);
      });
      unrolled<R>([&](auto r) {
        const __m256i row = broadcast_4k(a + r * a_stride + i * kKr);
        unrolled<kHalves>([&](auto h) {
          const __m256i pairs = _mm256_maddubs_epi16(b[h], row);
          shorts[r][h] = in_order(i == 0 ? pairs : _mm256_add_epi16(shorts[r][h], pairs));
        });
      });
    });
    unrolled<R>([&](auto r) {
      unrolled<kHalves>([&](auto h) {
        sums[r][h] = in_order(_mm256_add_epi32(sums[r][h], _mm256_madd_epi16(shorts[r][h], _mm256_set1_epi16(1))));
      });
    });
  }

  template <int R, Int4Source kSource>
  static void add_segment(const Int4Tile& tile, const Int4Segment& segment, __m256i (&sums)[R][kHalves]) {
    constexpr bool kPrefetch = kSource == Int4Source::kStream;
    constexpr std::int64_t kBytes = kHalfLines * kLineBytes;
    const std::int8_t* a = tile.lhs + segment.begin * kInt4Half;
    for (std::int64_t half = segment.begin; half < segment.end; ++half, a += kInt4Half) {
      if constexpr (kSource == Int4Source::kPlain) {
        const std::uint8_t* lines = tile.lines + (half - tile.half0) * kBytes;
        add_half<R, Nibbles::kPlain, false>(a, tile.lhs_stride, lines, sums);
      } else if (half % 2 == 0) {
        add_half<R, Nibbles::kLow, kPrefetch>(a, tile.lhs_stride, tile.lines + half / 2 * kBytes, sums);
      } else {
        add_half<R, Nibbles::kHigh, false>(a, tile.lhs_stride, tile.lines + half / 2 * kBytes, sums);
      }
    }
  }

  // y += float(sums) * scale, where the group ends; otherwise the sums are put by.
  template <int R>
  static void put(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
                  __m256i (&sums)[R][kHalves]) {
    std::int32_t* const carried = tile.carried;
    float* const first = tile.y;
    if (!segment.ends) {
      unrolled<R>([&](auto r) {
        unrolled<kHalves>(
            [&](auto h) { _mm256_store_si256(reinterpret_cast<__m256i*>(carried + kNr * r + 8 * h), sums[r][h]); });
      });
      return;
    }
    unrolled<kHalves>([&](auto h) {
      const __m256 scale = Columns(block, tile, h, segment.group).scale();
      unrolled<R>([&](auto r) {
        float* y = first + kNr * r + 8 * h;
        const __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][h]), scale);
        const __m256 before = segment.group == 0 ? _mm256_setzero_ps() : _mm256_load_ps(y);
        _mm256_store_ps(y, _mm256_add_ps(before, f));
      });
    });
  }

  template <int R, int P, Int4Source kSource>
  [[gnu::flatten, gnu::noinline]] static void multiply(const Int4Block& block, const Int4Tile& tile) {
    static_assert(P == 1);
    for (Int4Segment segment(tile); segment.begin < tile.half1; segment.advance(tile)) {
      __m256i sums[R][kHalves];
      start(block, tile, segment, sums);
      add_segment<R, kSource>(tile, segment, sums);
      put(block, tile, segment, sums);
    }
  }

  // dst = y * lhs_scale, + bias, relu: rows of 16 columns from col0 on, or as many as there are.
  static void finish(const Int4Block& block, const float* y, std::int64_t row0, std::int64_t rows, std::int64_t col0) {
    for (std::int64_t h = 0; h < kHalves && col0 + 8 * h < block.cols; ++h) {
      const std::int64_t col = col0 + 8 * h, cols = block.cols - col;
      const __m256 bias = block.bias != nullptr ? _mm256_loadu_ps(block.bias + col) : _mm256_setzero_ps();
      for (std::int64_t r = 0; r < rows; ++r) {
        const __m256 row_scale = _mm256_set1_ps(block.lhs_scale[row0 + r]);
        __m256 value = _mm256_mul_ps(_mm256_load_ps(y + kNr * r + 8 * h), row_scale);
        if (block.bias != nullptr) value = _mm256_add_ps(value, bias);
        if (block.relu) {  // NaN stays, -0 becomes +0
          value = _mm256_andnot_ps(_mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_LE_OQ), value);
        }
        float* dst = block.dst + (row0 + r) * block.dst_stride + col;
        if (cols >= 8) {
          _mm256_storeu_ps(dst, value);
        } else {
          _mm256_maskstore_ps(dst, first_lanes(cols), value);
        }
      }
    }
  }
};

}  // namespace

extern const Int4Kernel int4_avx2;
constexpr Int4Kernel int4_avx2 = x86_int4_kernel<Avx2>();

}  // namespace octavo
