// AVX2: VPMADDUBSW, which multiplies unsigned by signed bytes and adds pairs in int16, without its saturation.
//
// Unsigned activations of up to 255 would saturate: 255 * (w0 + w1) leaves int16. So it is the weights that become
// unsigned: w = |w| where w >= 0, and a w = |w| (~a) + |w| where w < 0, as ~a = -a - 1. With s = 0 or -1 for the sign:
//
//       sum a w = sum |w| (a ^ s) + sum over w < 0 of |w|          |w| in 0..128, a ^ s in -128..127
//
// is exact for every int8 value, -128 included: a pair of products is -32,768 at the least and 32,512 at the most. The
// last sum belongs to the column, and the accumulators start with it; in int32 they wrap as the contract has it.
//
//       rhs registers   |w|, s   c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c7      half a line of a panel, taken apart
//       lhs broadcast   a            k0 k1 k2 k3 |     k0 k1 k2 k3 | ...           one row's 4 k
//       VPMADDUBSW               c0: k01  k23    | c1: k01  k23    | ...           16 x int16
//       VPMADDWD by ones         c0              | c1              | ... | c7      8 x int32
//
// The products of two lines may be added before they are widened where the four weights of each sum are small enough:
// |w0| + |w1| + |w2| + |w3| <= 256 keeps them in int16 whatever the activations. That takes 7 instructions for 64
// products of a row and 8 columns in place of 8, of which 3 multiply in place of 4. For weights from a normal
// distribution 9 of 10 pairs of lines fit over 8 columns, and more where a column's largest weight stands out. gemm
// looks at each chunk of panels before it multiplies it, which costs about as much as two more rows, and notes down
// which pairs of lines fit: nothing of it is kept, so that panels are the same for every kernel.
//
// A tile is 9 rows by 8 columns: 9 accumulators, |w| and s of two lines, the ones and 2 products make the 16 registers.
//
// Up to 16 rows stream the panels instead, once and without a look at them beforehand. There it is the activations that
// are taken apart, and the weights take part as they are: sum a w = sum |a| (w ^ s) + sum over a < 0 of |a|.
#include "kernels/detail/x86_avx2.h"

#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_common.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kMr = 9;
constexpr int kStripCols = Avx2::kLanes;  // of a tile: half a panel
constexpr std::int64_t kStripBytes = kStripCols * kKr;
constexpr int kMaxStreamRows = 8;
constexpr int kGemvMaxRows = 2 * kMaxStreamRows;

void quantize_lhs(const QuantizeLhs& task) { quantize_bytes<Avx2>(task, lhs_stride(task.k), 0); }
void pack_lhs(const PackLhs& task) { pack_bytes<Avx2>(task, lhs_stride(task.k), 0); }

// Panels of a chunk, which the lhs meets tile by tile: their share of the L2 cache, of which the lhs takes half.
constexpr std::int64_t kChunkBytes = 256 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

std::int64_t chunk_panels(std::int64_t k) {
  const std::int64_t fitting = kChunkBytes / (lines_of(k) * kLineBytes);
  return fitting < 1 ? 1 : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
}

// What is noted down of a strip: the sums' start, and by its first k each step of a multiplication. Steps that take a
// pair of lines stand in front; steps that take one line are filled in from the end.
//
//       first_k   | pair | pair | ... | unused | ... | single | single | ... | one more, read but not used
//                 0                pairs          singles_begin            lines
struct Notes {
  std::int32_t* elems;

  static std::int64_t size_elems(std::int64_t k) { return 2 * kStripCols + (lines_of(k) + 8) / 8 * 8; }
  std::int32_t* start() const { return elems; }
  std::int32_t& pairs() const { return elems[kStripCols]; }
  std::int32_t& singles_begin() const { return elems[kStripCols + 1]; }
  std::int32_t* first_k() const { return elems + 2 * kStripCols; }
};

// Bytes for a row taken apart: |a| and s of 4 k in turn, whole vectors.
std::int64_t split_bytes(std::int64_t k) { return (k + 31) / 32 * 64; }

// The sums of a tile; behind them notes on a chunk's strips, or rows taken apart.
constexpr std::int64_t kSumsElems = kMr * kNr;
std::int64_t scratch_elems(std::int64_t rows, std::int64_t k) {
  if (rows <= kGemvMaxRows) return kSumsElems + rows * split_bytes(k) / 4;
  return kSumsElems + 2 * chunk_panels(k) * Notes::size_elems(k);
}

__m256i load(const void* at) { return Avx2::load(at); }
void store(void* at, __m256i v) { Avx2::store(at, v); }

// Bytes as their sizes, unsigned, and their signs.
struct Split {
  __m256i size, sign;
  explicit Split(__m256i v) : size(_mm256_abs_epi8(v)), sign(_mm256_cmpgt_epi8(_mm256_setzero_si256(), v)) {}
};

void note_strip(const std::int8_t* strip, std::int64_t lines, const Notes& notes) {
  constexpr std::int16_t kMostOfFour = 256;
  const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1), one_words = _mm256_set1_epi16(1);
  const __m256i most = _mm256_set1_epi16(kMostOfFour);
  const auto pair_sizes = [&](__m256i w) { return _mm256_maddubs_epi16(_mm256_abs_epi8(w), ones); };
  const auto pair_negatives = [&](__m256i w) { return _mm256_maddubs_epi16(ones, _mm256_min_epi8(w, zero)); };
  __m256i start = zero;
  const auto subtract_negatives = [&](__m256i sums) {
    start = _mm256_sub_epi32(start, _mm256_madd_epi16(sums, one_words));
  };
  std::int32_t* const first_k = notes.first_k();
  std::int64_t pairs = 0, singles_begin = lines;
  if (lines % 2 != 0) {
    subtract_negatives(pair_negatives(load(strip + (lines - 1) * kLineBytes)));
    first_k[--singles_begin] = static_cast<std::int32_t>((lines - 1) * kKr);
  }
  for (std::int64_t l = 0; l + 2 <= lines; l += 2) {
    const __m256i w0 = load(strip + l * kLineBytes), w1 = load(strip + (l + 1) * kLineBytes);
    subtract_negatives(_mm256_add_epi16(pair_negatives(w0), pair_negatives(w1)));
    const __m256i too_large = _mm256_cmpgt_epi16(_mm256_add_epi16(pair_sizes(w0), pair_sizes(w1)), most);
    const bool fits = _mm256_movemask_epi8(too_large) == 0;
    singles_begin -= fits ? 0 : 2;
    std::int32_t* const at = first_k + (fits ? pairs : singles_begin);
    at[0] = static_cast<std::int32_t>(l * kKr);
    at[1] = static_cast<std::int32_t>((l + 1) * kKr);  // where the pair fits, the next note replaces it
    pairs += fits;
  }
  store(notes.start(), start);
  first_k[lines] = 0;
  notes.pairs() = static_cast<std::int32_t>(pairs);
  notes.singles_begin() = static_cast<std::int32_t>(singles_begin);
}

// Where a tile stands. K is not cut into pieces.
struct Tile {
  const std::int8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* strip;
  std::int64_t lines;
  Notes notes;
};

// R rows by a strip, to to[row * kNr].
template <int R>
[[gnu::flatten, gnu::noinline]] void multiply_tile(const Tile& tile, std::int32_t* to) {
  constexpr int kBases = kRowBases<R>;
  const std::int64_t stride = tile.lhs_stride;
  const __m256i one_words = _mm256_set1_epi16(1), start = load(tile.notes.start());
  __m256i sums[R];
  unrolled<R>([&](auto r) { sums[r] = start; });
  const std::int8_t *base[kBases], *a[kBases];  // k = 0, and where the step begins
  unrolled<kBases>([&](auto i) { base[i] = tile.lhs + kRowsPerBase * i * stride; });
  // Row r by a line, which lies `line_k` behind the step's first k: 8 columns of two sums of two products.
  const auto products = [&](auto r, const Split& line, int line_k) {
    const __m256i row = broadcast_4k<Avx2>(a[r / kRowsPerBase] + r % kRowsPerBase * stride + line_k);
    return _mm256_maddubs_epi16(line.size, _mm256_xor_si256(row, line.sign));
  };
  // Steps of kLines lines that begin at first_k[0] .. first_k[count - 1]. A step leaves behind the addresses of the one
  // after it: computed when they are needed, their latency took a tenth of the time.
  const auto take_steps = [&](auto kLines, const std::int32_t* first_k, std::int64_t count) {
    const std::int8_t* line = tile.strip + first_k[0] * kNr;
    unrolled<kBases>([&](auto i) { a[i] = base[i] + first_k[0]; });
    for (std::int64_t i = 1; i <= count; ++i) {
      const Split first(load(line)), last(load(line + (kLines - 1) * kLineBytes));
      const std::int64_t next_k = first_k[i];
      line = tile.strip + next_k * kNr;
      unrolled<R>([&](auto r) {
        __m256i sum = products(r, first, 0);
        if constexpr (kLines == 2) sum = _mm256_add_epi16(sum, products(r, last, kKr));
        sums[r] = in_order(_mm256_add_epi32(sums[r], _mm256_madd_epi16(sum, one_words)));
        constexpr bool kBaseIsDone = r % kRowsPerBase == kRowsPerBase - 1 || r == R - 1;
        if constexpr (kBaseIsDone) a[r / kRowsPerBase] = kept_apart(base[r / kRowsPerBase] + next_k);
      });
    }
  };
  const std::int32_t* const first_k = tile.notes.first_k();
  const std::int64_t singles_begin = tile.notes.singles_begin();
  take_steps(Index<2>{}, first_k, tile.notes.pairs());
  take_steps(Index<1>{}, first_k + singles_begin, tile.lines - singles_begin);
  unrolled<R>([&](auto r) { store(to + kNr * r, sums[r]); });
}

// A chunk's panels for all rows, tile by tile, so that a row of the result is written in runs as long as the chunk is
// wide.
void multiply_chunk(const GemmBlock& block, const std::int8_t* panels, std::int64_t col0, std::int64_t count) {
  const std::int64_t stride = lhs_stride(block.k), lines = lines_of(block.k);
  const std::int64_t notes_elems = Notes::size_elems(block.k);
  const auto strip = [&](std::int64_t s) { return panels + s / 2 * lines * kLineBytes + s % 2 * kStripBytes; };
  const auto notes = [&](std::int64_t s) { return Notes{block.scratch + kSumsElems + s * notes_elems}; };
  for (std::int64_t s = 0; s < 2 * count; ++s) note_strip(strip(s), lines, notes(s));
  const std::int8_t* lhs = static_cast<const std::int8_t*>(block.lhs);
  std::int64_t tiles = (block.rows + kMr - 1) / kMr, rows = 0;
  for (std::int64_t m = 0; m < block.rows; m += rows, --tiles) {
    rows = (block.rows - m + tiles - 1) / tiles;  // as even as they come
    for (std::int64_t s = 0; s < 2 * count; ++s) {
      const Tile tile{
          .lhs = lhs + m * stride, .lhs_stride = stride, .strip = strip(s), .lines = lines, .notes = notes(s)};
      std::int32_t* const to = block.scratch + s % 2 * kStripCols;
      with_constant<kMr>(rows, [&](auto r) { multiply_tile<r>(tile, to); });
      if (s % 2 != 0) finish_rows<Avx2>(block, block.scratch, kNr, m, rows, col0 + s / 2 * kNr);
    }
  }
}

void gemm(const GemmBlock& block) {
  const std::int64_t panels = panels_of(block.cols), panel_bytes = lines_of(block.k) * kLineBytes;
  const std::int64_t chunk = chunk_panels(block.k);
  for (std::int64_t p = 0; p < panels; p += chunk) {
    const std::int64_t count = panels - p < chunk ? panels - p : chunk;
    multiply_chunk(block, block.rhs + p * panel_bytes, p * kNr, count);
  }
}

// Up to 8 rows that stream the panels, taken apart: [K / 4][rows][|a| and s of 4 k].
struct SplitRows {
  std::int64_t rows;
  std::int8_t* data;
  std::int32_t start[kMaxStreamRows];
};

// Takes row r apart.
void split_row(const std::int8_t* a, std::int64_t lines, std::int64_t r, SplitRows& to) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i start = zero;
  std::int8_t* at = to.data + r * 2 * kKr;
  const auto put_two = [&](__m128i pieces) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at), pieces);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at + to.rows * 2 * kKr), _mm_unpackhi_epi64(pieces, pieces));
    at += to.rows * 4 * kKr;
  };
  for (std::int64_t l = 0; l < lines; l += 8) {
    const __m256i there = first_lanes(lines - l < 8 ? lines - l : 8);
    const Split v(_mm256_maskload_epi32(reinterpret_cast<const int*>(a + l * kKr), there));
    const __m256i low = _mm256_unpacklo_epi32(v.size, v.sign), high = _mm256_unpackhi_epi32(v.size, v.sign);
    put_two(_mm256_castsi256_si128(low));
    put_two(_mm256_castsi256_si128(high));
    put_two(_mm256_extracti128_si256(low, 1));
    put_two(_mm256_extracti128_si256(high, 1));
    start = _mm256_add_epi64(start, _mm256_sad_epu8(_mm256_and_si256(v.size, v.sign), zero));
  }
  alignas(32) std::int64_t sums[4];
  store(sums, start);
  to.start[r] = static_cast<std::int32_t>(sums[0] + sums[1] + sums[2] + sums[3]);
}

// R rows by one panel, to to[row * kNr]: the whole of its lines, or one half and then the other where the accumulators
// would not do.
template <int R, bool kFar>
[[gnu::flatten, gnu::noinline]] void stream_panel(const SplitRows& rows, const std::int8_t* panel, std::int64_t lines,
                                                  std::int32_t* to) {
  constexpr int kHalves = R <= 4 ? 2 : 1;
  const __m256i one_words = _mm256_set1_epi16(1);
  unrolled<2 / kHalves>([&](auto pass) {
    __m256i sums[R][kHalves];
    unrolled<R>(
        [&](auto r) { unrolled<kHalves>([&](auto half) { sums[r][half] = _mm256_set1_epi32(rows.start[r]); }); });
    const std::int8_t *line = panel + pass * kStripBytes, *a = rows.data;
    const auto take_line = [&](auto i) {
      __m256i w[kHalves];
      unrolled<kHalves>([&](auto half) { w[half] = load(line + i * kLineBytes + half * kStripBytes); });
      unrolled<R>([&](auto r) {
        const std::int8_t* at = a + (i * R + r) * 2 * kKr;
        const __m256i size = broadcast_4k<Avx2>(at), sign = broadcast_4k<Avx2>(at + kKr);
        unrolled<kHalves>([&](auto half) {
          const __m256i products = _mm256_maddubs_epi16(size, _mm256_xor_si256(w[half], sign));
          sums[r][half] = in_order(_mm256_add_epi32(sums[r][half], _mm256_madd_epi16(products, one_words)));
        });
      });
    };
    std::int64_t l = 0;
    for (; l + 2 <= lines; l += 2, line += 2 * kLineBytes, a += 2 * R * 2 * kKr) {
      unrolled<2>([&](auto i) {
        if constexpr (kFar && pass == 0) prefetch_stream<(R > 1), i>(line + i * kLineBytes);
        take_line(i);
      });
    }
    if (l < lines) unrolled<1>(take_line);
    unrolled<R>([&](auto r) {
      unrolled<kHalves>([&](auto half) { store(to + kNr * r + kStripCols * (pass + half), sums[r][half]); });
    });
  });
}

void gemv(const GemmBlock& block) {
  constexpr int kTiles = kGemvMaxRows / kMaxStreamRows;
  const std::int64_t lines = lines_of(block.k), tiles = block.rows > kMaxStreamRows ? kTiles : 1;
  std::int8_t* data = reinterpret_cast<std::int8_t*>(block.scratch + kSumsElems);
  SplitRows tile[kTiles];
  std::int64_t m = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    tile[t].rows = (block.rows - m + tiles - t - 1) / (tiles - t);
    tile[t].data = data;
    data += tile[t].rows * split_bytes(block.k);
    for (std::int64_t r = 0; r < tile[t].rows; ++r, ++m) {
      split_row(static_cast<const std::int8_t*>(block.lhs) + m * lhs_stride(block.k), lines, r, tile[t]);
    }
  }
  const bool far = block.cols * block.k > kNearBytes;
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += lines * kLineBytes) {
    std::int64_t row0 = 0;
    for (std::int64_t t = 0; t < tiles; row0 += tile[t++].rows) {
      with_constant<kMaxStreamRows>(tile[t].rows, [&](auto r) {
        far ? stream_panel<r, true>(tile[t], panel, lines, block.scratch)
            : stream_panel<r, false>(tile[t], panel, lines, block.scratch);
      });
      finish_rows<Avx2>(block, block.scratch, kNr, row0, tile[t].rows, n0);
    }
  }
}

}  // namespace

extern const Int4Kernel int4_avx2;
extern const GroupedKernel grouped_avx2;
extern const IntegerKernel integer_avx2;
extern const FunctionKernel functions_avx2;
extern const Kernel kernel_avx2;
const Kernel kernel_avx2 = {
    .name = "avx2",
    .features = kFeatureAvx2,
    .nr = kNr,
    .kr = kKr,
    .mr = kMr,
    .panels = 1,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemv,
    .gemv_max_rows = kGemvMaxRows,
    .multiply_adds_per_us = 7e4,
    .int4 = &int4_avx2,
    .grouped = &grouped_avx2,
    .integer = &integer_avx2,
    .integer_costs = {1, 2, 8.5, 4.5, 40},
    .functions = &functions_avx2,
    .apart_rows = 1,
};

}  // namespace octavo
