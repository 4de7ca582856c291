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
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kMr = 9;
constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr int kStripCols = 8;  // of a tile: half a panel
constexpr std::int64_t kStripBytes = kStripCols * kKr;
#if defined(OCTAVO_FEW_TILES)  // sanitizers make a tile's code so large that compiling all heights takes minutes
constexpr int kMaxStreamRows = 4;
#else
constexpr int kMaxStreamRows = 8;
#endif
constexpr int kGemvMaxRows = 2 * kMaxStreamRows;

// Bytes from an lhs row to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a tile
// into few sets of the L1 cache.
std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 63) / 64 * 64;
  return padded % 2048 == 0 ? padded + 64 : padded;
}
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }

void quantize_lhs(const QuantizeLhs& task) { quantize_bytes(task, lhs_stride(task.k), 0); }
void pack_lhs(const PackLhs& task) { pack_bytes(task, lhs_stride(task.k), 0); }

std::int64_t groups_of(std::int64_t k) { return (k + kKr - 1) / kKr; }

// Panels of a chunk, which the lhs meets tile by tile: their share of the L2 cache, of which the lhs takes half.
constexpr std::int64_t kChunkBytes = 256 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

std::int64_t chunk_panels(std::int64_t k) {
  const std::int64_t fitting = kChunkBytes / (groups_of(k) * kLineBytes);
  return fitting < 1 ? 1 : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
}

// What is noted down of a strip: the sums' start, and the first k of pairs of lines that fit and of other lines.
struct Notes {
  std::int32_t* elems;

  static std::int64_t size_elems(std::int64_t k) { return 2 * kStripCols + (groups_of(k) + 8) / 8 * 8; }
  std::int32_t* start() const { return elems; }
  std::int32_t& pairs() const { return elems[kStripCols]; }
  std::int32_t& others() const { return elems[kStripCols + 1]; }
  std::int32_t* first_k() const { return elems + 2 * kStripCols; }  // pairs, ..., others, and a last one unused
};

// Bytes for a row taken apart: |a| and s of 4 k in turn, whole vectors.
std::int64_t split_bytes(std::int64_t k) { return (k + 31) / 32 * 64; }

// The sums of a tile; behind them notes on a chunk's strips, or rows taken apart.
constexpr std::int64_t kSumsElems = kMr * kNr;
std::int64_t scratch_elems(std::int64_t rows, std::int64_t k) {
  if (rows <= kGemvMaxRows) return kSumsElems + rows * split_bytes(k) / 4;
  return kSumsElems + 2 * chunk_panels(k) * Notes::size_elems(k);
}

__m256i load(const std::int8_t* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }
__m256i load(const std::int32_t* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }
void store(void* at, __m256i v) { _mm256_store_si256(static_cast<__m256i*>(at), v); }

__m256i broadcast_4k(const std::int8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm256_set1_epi32(four);
}

// Bytes as their sizes, unsigned, and their signs.
struct Split {
  __m256i size, sign;
  explicit Split(__m256i v) : size(_mm256_abs_epi8(v)), sign(_mm256_cmpgt_epi8(_mm256_setzero_si256(), v)) {}
};

// Keeps additions in the order written. GCC 12 otherwise multiplies every row first, needs all products at once on top
// of the accumulators, and spills.
__m256i in_order(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

void note_strip(const std::int8_t* strip, std::int64_t groups, const Notes& notes) {
  constexpr std::int16_t kMostOfFour = 256;
  const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1), one_words = _mm256_set1_epi16(1);
  const __m256i most = _mm256_set1_epi16(kMostOfFour);
  const auto pair_sizes = [&](__m256i w) { return _mm256_maddubs_epi16(_mm256_abs_epi8(w), ones); };
  const auto pair_negatives = [&](__m256i w) { return _mm256_maddubs_epi16(ones, _mm256_min_epi8(w, zero)); };
  __m256i start = zero;
  const auto take_negatives = [&](__m256i sums) {
    start = _mm256_sub_epi32(start, _mm256_madd_epi16(sums, one_words));
  };
  std::int32_t* const first_k = notes.first_k();
  std::int64_t pairs = 0, free_end = groups;
  if (groups % 2 != 0) {
    take_negatives(pair_negatives(load(strip + (groups - 1) * kLineBytes)));
    first_k[--free_end] = static_cast<std::int32_t>((groups - 1) * kKr);
  }
  for (std::int64_t g = 0; g + 2 <= groups; g += 2) {
    const __m256i w0 = load(strip + g * kLineBytes), w1 = load(strip + (g + 1) * kLineBytes);
    take_negatives(_mm256_add_epi16(pair_negatives(w0), pair_negatives(w1)));
    const __m256i too_large = _mm256_cmpgt_epi16(_mm256_add_epi16(pair_sizes(w0), pair_sizes(w1)), most);
    const bool fits = _mm256_movemask_epi8(too_large) == 0;
    free_end -= fits ? 0 : 2;
    std::int32_t* const at = first_k + (fits ? pairs : free_end);
    at[0] = static_cast<std::int32_t>(g * kKr);
    at[1] = static_cast<std::int32_t>((g + 1) * kKr);  // of a pair that fits, written over by what follows
    pairs += fits;
  }
  store(notes.start(), start);
  first_k[groups] = 0;
  notes.pairs() = static_cast<std::int32_t>(pairs);
  notes.others() = static_cast<std::int32_t>(groups - free_end);
}

// Where a tile stands. K is not cut into pieces.
struct Tile {
  const std::int8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* strip;
  std::int64_t groups;
  Notes notes;
};

// R rows by a strip, to to[row * kNr]. Addresses are ready a step before they are used: their latency otherwise took a
// tenth of the time.
template <int R>
[[gnu::flatten]] void multiply_tile(const Tile& tile, std::int32_t* to) {
  constexpr int kBases = kRowBases<R>;
  const std::int64_t stride = tile.lhs_stride;
  const __m256i one_words = _mm256_set1_epi16(1), start = load(tile.notes.start());
  __m256i sums[R];
  unrolled<R>([&](auto r) { sums[r] = start; });
  const std::int8_t *base[kBases], *a[kBases];
  unrolled<kBases>([&](auto i) { base[i] = tile.lhs + kRowsPerBase * i * stride; });
  const std::int32_t* first_k = tile.notes.first_k();
  const auto products = [&](auto r, const Split& w, int k) {
    const __m256i row = broadcast_4k(a[r / kRowsPerBase] + r % kRowsPerBase * stride + k);
    return _mm256_maddubs_epi16(w.size, _mm256_xor_si256(row, w.sign));
  };
  // Steps of one or two lines: those of the notes begin .. end - 1.
  const auto take_lines = [&](auto lines, std::int64_t begin, std::int64_t end) {
    std::int64_t k = first_k[begin];
    const std::int8_t* line = tile.strip + k * kNr;
    unrolled<kBases>([&](auto i) { a[i] = base[i] + k; });
    for (std::int64_t i = begin; i < end; ++i) {
      const Split w0(load(line)), w1(load(line + (lines - 1) * kLineBytes));
      k = first_k[i + 1];
      line = tile.strip + k * kNr;
      unrolled<R>([&](auto r) {
        __m256i sum = products(r, w0, 0);
        if constexpr (lines == 2) sum = _mm256_add_epi16(sum, products(r, w1, kKr));
        sums[r] = in_order(_mm256_add_epi32(sums[r], _mm256_madd_epi16(sum, one_words)));
        if constexpr (r % kRowsPerBase == kRowsPerBase - 1 || r == R - 1) {
          a[r / kRowsPerBase] = kept_apart(base[r / kRowsPerBase] + k);
        }
      });
    }
  };
  take_lines(Index<2>{}, 0, tile.notes.pairs());
  take_lines(Index<1>{}, tile.groups - tile.notes.others(), tile.groups);
  unrolled<R>([&](auto r) { store(to + kNr * r, sums[r]); });
}

// The tile of `rows` rows, 1 <= rows <= R.
template <int R = kMr>
void multiply_rows(std::int64_t rows, const Tile& tile, std::int32_t* to) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<R - 1>(rows, tile, to);
  }
  multiply_tile<R>(tile, to);
}

// A chunk's panels for all rows, tile by tile, so that a row of the result is written in runs as long as the chunk is
// wide.
void multiply_chunk(const GemmBlock& block, const std::int8_t* panels, std::int64_t col0, std::int64_t count) {
  const std::int64_t stride = lhs_stride(block.k), groups = groups_of(block.k);
  const std::int64_t notes_elems = Notes::size_elems(block.k);
  const auto strip = [&](std::int64_t s) { return panels + s / 2 * groups * kLineBytes + s % 2 * kStripBytes; };
  const auto notes = [&](std::int64_t s) { return Notes{block.scratch + kSumsElems + s * notes_elems}; };
  for (std::int64_t s = 0; s < 2 * count; ++s) note_strip(strip(s), groups, notes(s));
  const std::int8_t* lhs = static_cast<const std::int8_t*>(block.lhs);
  std::int64_t tiles = (block.rows + kMr - 1) / kMr, rows = 0;
  for (std::int64_t m = 0; m < block.rows; m += rows, --tiles) {
    rows = (block.rows - m + tiles - 1) / tiles;  // as even as they come
    for (std::int64_t s = 0; s < 2 * count; ++s) {
      const Tile tile{lhs + m * stride, stride, strip(s), groups, notes(s)};
      multiply_rows(rows, tile, block.scratch + s % 2 * kStripCols);
      if (s % 2 != 0) finish_rows(block, block.scratch, kNr, m, rows, col0 + s / 2 * kNr);
    }
  }
}

void gemm(const GemmBlock& block) {
  const std::int64_t panels = (block.cols + kNr - 1) / kNr, panel_bytes = groups_of(block.k) * kLineBytes;
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
void split_row(const std::int8_t* a, std::int64_t groups, std::int64_t r, SplitRows& to) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i start = zero;
  std::int8_t* at = to.data + r * 2 * kKr;
  const auto put_two = [&](__m128i pieces) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at), pieces);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(at + to.rows * 2 * kKr), _mm_unpackhi_epi64(pieces, pieces));
    at += to.rows * 4 * kKr;
  };
  for (std::int64_t g = 0; g < groups; g += 8) {
    const __m256i there = first_lanes(groups - g < 8 ? groups - g : 8);
    const Split v(_mm256_maskload_epi32(reinterpret_cast<const int*>(a + g * kKr), there));
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
[[gnu::flatten]] void stream_panel(const SplitRows& rows, const std::int8_t* panel, std::int64_t groups,
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
        const __m256i size = broadcast_4k(at), sign = broadcast_4k(at + kKr);
        unrolled<kHalves>([&](auto half) {
          const __m256i products = _mm256_maddubs_epi16(size, _mm256_xor_si256(w[half], sign));
          sums[r][half] = in_order(_mm256_add_epi32(sums[r][half], _mm256_madd_epi16(products, one_words)));
        });
      });
    };
    std::int64_t g = 0;
    for (; g + 2 <= groups; g += 2, line += 2 * kLineBytes, a += 2 * R * 2 * kKr) {
      unrolled<2>([&](auto i) {
        if constexpr (kFar && pass == 0) prefetch_stream<(R > 1), i>(line + i * kLineBytes);
        take_line(i);
      });
    }
    if (g < groups) unrolled<1>(take_line);
    unrolled<R>([&](auto r) {
      unrolled<kHalves>([&](auto half) { store(to + kNr * r + kStripCols * (pass + half), sums[r][half]); });
    });
  });
}

// rows.rows rows, 1 <= rows.rows <= R.
template <int R = kMaxStreamRows>
void stream_rows(const SplitRows& rows, bool far, const std::int8_t* panel, std::int64_t groups, std::int32_t* to) {
  if constexpr (R > 1) {
    if (rows.rows < R) return stream_rows<R - 1>(rows, far, panel, groups, to);
  }
  far ? stream_panel<R, true>(rows, panel, groups, to) : stream_panel<R, false>(rows, panel, groups, to);
}

void gemv(const GemmBlock& block) {
  constexpr int kTiles = kGemvMaxRows / kMaxStreamRows;
  const std::int64_t groups = groups_of(block.k), tiles = block.rows > kMaxStreamRows ? kTiles : 1;
  std::int8_t* data = reinterpret_cast<std::int8_t*>(block.scratch + kSumsElems);
  SplitRows tile[kTiles];
  std::int64_t m = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    tile[t].rows = (block.rows - m + tiles - t - 1) / (tiles - t);
    tile[t].data = data;
    data += tile[t].rows * split_bytes(block.k);
    for (std::int64_t r = 0; r < tile[t].rows; ++r, ++m) {
      split_row(static_cast<const std::int8_t*>(block.lhs) + m * lhs_stride(block.k), groups, r, tile[t]);
    }
  }
  const bool far = block.cols * block.k > kNearBytes;
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kLineBytes) {
    std::int64_t row0 = 0;
    for (std::int64_t t = 0; t < tiles; row0 += tile[t++].rows) {
      stream_rows(tile[t], far, panel, groups, block.scratch);
      finish_rows(block, block.scratch, kNr, row0, tile[t].rows, n0);
    }
  }
}

}  // namespace

extern const Int4Kernel int4_avx2;
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
    .int4 = &int4_avx2,
};

}  // namespace octavo
