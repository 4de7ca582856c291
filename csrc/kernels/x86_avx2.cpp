// AVX2: VPMADDUBSW on signs taken apart, exact for every int8 value.
#include "kernels/detail/x86_avx2.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kMr = 9;
constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr int kStrip = 8;  // columns of a tile: half a panel
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr std::int64_t kStripBytes = kStrip * kKr;
constexpr std::int64_t kGemvMaxRows = 2;

// A chunk of panels that the lhs meets tile by tile. Its share of the L2 cache, of which the lhs block takes half.
constexpr std::int64_t kChunkBytes = 256 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

// Bytes from an lhs row to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a tile
// into few sets of the L1 cache.
std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 63) / 64 * 64;
  return padded % 2048 == 0 ? padded + 64 : padded;
}
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }

std::int64_t groups_of(std::int64_t k) { return (k + kKr - 1) / kKr; }

std::int64_t chunk_panels(std::int64_t k) {
  const std::int64_t fitting = kChunkBytes / (groups_of(k) * kLineBytes);
  return fitting < 1 ? 1 : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
}

// What is known of a strip of 8 columns: the sums' start, and its pairs of lines, the fitting ones first.
struct Notes {
  std::int32_t start[kStrip];
  std::int32_t fitting;  // pairs
  std::int32_t unused[7];
};
constexpr std::int64_t kNotesElems = sizeof(Notes) / 4;

std::int64_t notes_elems(std::int64_t k) { return kNotesElems + (groups_of(k) / 2 + 7) / 8 * 8; }

std::int64_t scratch_elems(std::int64_t, std::int64_t k) {
  return kMr * kNr + 2 * chunk_panels(k) * notes_elems(k);
}

__m256i load(const std::int8_t* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }

__m256i broadcast_4k(const std::int8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm256_set1_epi32(four);
}

// Notes down what is to be known of a strip.
void note_strip(const std::int8_t* strip, std::int64_t groups, Notes* notes) {
  std::int32_t* pairs = reinterpret_cast<std::int32_t*>(notes + 1);
  const __m256i ones = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1), most = _mm256_set1_epi16(256);
  const __m256i zero = _mm256_setzero_si256();
  const auto negative_pairs = [&](__m256i w) { return _mm256_maddubs_epi16(ones, _mm256_min_epi8(w, zero)); };
  const std::int64_t count = groups / 2;
  __m256i negative = zero;
  std::int64_t first = 0, last = count;
  for (std::int64_t i = 0; i < count; ++i, strip += 2 * kLineBytes) {
    const __m256i w0 = load(strip), w1 = load(strip + kLineBytes);
    const __m256i sizes = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w0), ones),
                                           _mm256_maddubs_epi16(_mm256_abs_epi8(w1), ones));
    const bool fits = _mm256_movemask_epi8(_mm256_cmpgt_epi16(sizes, most)) == 0;
    const __m256i both = _mm256_add_epi16(negative_pairs(w0), negative_pairs(w1));
    negative = _mm256_sub_epi32(negative, _mm256_madd_epi16(both, words));
    pairs[fits ? first : last - 1] = static_cast<std::int32_t>(i * 2 * kKr);
    first += fits;
    last -= !fits;
  }
  if (groups % 2 != 0) negative = _mm256_sub_epi32(negative, _mm256_madd_epi16(negative_pairs(load(strip)), words));
  _mm256_store_si256(reinterpret_cast<__m256i*>(notes->start), negative);
  notes->fitting = static_cast<std::int32_t>(first);
}

// Keeps the operations in the order written.
__m256i in_order(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

struct Tile {
  const std::int8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* strip;
  std::int64_t groups;
  const Notes* notes;
};

struct Line {
  __m256i size, sign;
  explicit Line(const std::int8_t* at)
      : size(_mm256_abs_epi8(load(at))), sign(_mm256_cmpgt_epi8(_mm256_setzero_si256(), load(at))) {}
};

constexpr int kRowsPerBase = 3;

template <int R>
void multiply_tile(const Tile& tile, std::int32_t* acc) {
  constexpr int kBases = (R + kRowsPerBase - 1) / kRowsPerBase;
  const std::int64_t stride = tile.lhs_stride;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[R];
  const __m256i start = _mm256_load_si256(reinterpret_cast<const __m256i*>(tile.notes->start));
  unrolled<R>([&](auto r) { sums[r] = start; });
  const std::int8_t* base[kBases];
  unrolled<kBases>([&](auto i) { base[i] = tile.lhs + kRowsPerBase * i * stride; });
  const auto product = [&](auto r, const Line& line, std::int64_t k) {
    const __m256i a = broadcast_4k(base[r / kRowsPerBase] + r % kRowsPerBase * stride + k);
    return _mm256_maddubs_epi16(line.size, _mm256_xor_si256(a, line.sign));
  };
  const auto add = [&](auto r, __m256i products) {
    sums[r] = in_order(_mm256_add_epi32(sums[r], _mm256_madd_epi16(products, ones)));
  };
  const std::int32_t* pairs = reinterpret_cast<const std::int32_t*>(tile.notes + 1);
  const std::int64_t count = tile.groups / 2;
  std::int64_t i = 0;
  for (; i < tile.notes->fitting; ++i) {
    const std::int64_t k = pairs[i];
    const Line line0(tile.strip + k * kNr), line1(tile.strip + k * kNr + kLineBytes);
    unrolled<R>([&](auto r) { add(r, _mm256_add_epi16(product(r, line0, k), product(r, line1, k + kKr))); });
  }
  for (; i < count; ++i) {
    const std::int64_t k = pairs[i];
    for (std::int64_t j = k; j < k + 2 * kKr; j += kKr) {
      const Line line(tile.strip + j * kNr);
      unrolled<R>([&](auto r) { add(r, product(r, line, j)); });
    }
  }
  if (tile.groups % 2 != 0) {
    const std::int64_t k = (tile.groups - 1) * kKr;
    const Line line(tile.strip + k * kNr);
    unrolled<R>([&](auto r) { add(r, product(r, line, k)); });
  }
  unrolled<R>([&](auto r) { _mm256_store_si256(reinterpret_cast<__m256i*>(acc + kNr * r), sums[r]); });
}

// The tile of `rows` rows, 1 <= rows <= R.
template <int R = kMr>
void multiply_rows(std::int64_t rows, const Tile& tile, std::int32_t* acc) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<R - 1>(rows, tile, acc);
  }
  multiply_tile<R>(tile, acc);
}

void gemm(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k), groups = groups_of(block.k), panel_bytes = groups * kLineBytes;
  const std::int8_t* lhs = static_cast<const std::int8_t*>(block.lhs);
  const std::int64_t panels = (block.cols + kNr - 1) / kNr, chunk = chunk_panels(block.k);
  const std::int64_t elems = notes_elems(block.k);
  const auto notes_of = [&](std::int64_t strip) {
    return reinterpret_cast<Notes*>(block.scratch + kMr * kNr + strip * elems);
  };
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t count = panels - c0 < chunk ? panels - c0 : chunk;
    const std::int8_t* panel0 = block.rhs + c0 * panel_bytes;
    for (std::int64_t s = 0; s < 2 * count; ++s) {
      note_strip(panel0 + s / 2 * panel_bytes + s % 2 * kStripBytes, groups, notes_of(s));
    }
    std::int64_t tiles = (block.rows + kMr - 1) / kMr;
    for (std::int64_t m = 0, rows; m < block.rows; m += rows, --tiles) {
      rows = (block.rows - m + tiles - 1) / tiles;
      for (std::int64_t p = 0; p < count; ++p) {
        for (int half = 0; half < 2; ++half) {
          const std::int8_t* strip = panel0 + p * panel_bytes + half * kStripBytes;
          multiply_rows(rows, {lhs + m * stride, stride, strip, groups, notes_of(2 * p + half)},
                        block.scratch + half * kStrip);
        }
        finish_rows(block, block.scratch, kNr, m, rows, (c0 + p) * kNr);
      }
    }
  }
}

void gemv(const GemmBlock& block) { gemm(block); }

void quantize_lhs(const QuantizeLhs& task) { quantize_bytes(task, lhs_stride(task.k), 0); }
void pack_lhs(const PackLhs& task) { pack_bytes(task, lhs_stride(task.k), 0); }

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
