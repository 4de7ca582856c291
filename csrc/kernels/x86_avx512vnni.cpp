// AVX512-VNNI: VPDPBUSD, which adds four products of an unsigned and a signed byte to an int32 lane.
//
// The rhs is signed and lies in memory as VPDPBUSD wants it: a panel line of 64 bytes is 16 columns of 4 k. The lhs has
// to be unsigned, so its rows are stored as q + 128, and the accumulators start at -128 times the sum of their column:
//
//       sum (q + 128) w - 128 sum w = sum q w
//
// VPDPBUSD does not saturate: four products of at most 255 * 128 fit int32 by far, and sums wrap as the contract has
// it.
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c15           one line of a panel
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, 4 bytes
//       accumulator     c0              | c1              | ... | c15           16 x int32
//
// A tile is 12 rows by 2 panels: 24 accumulators, 2 rhs and the lhs broadcast of 32 registers; 24 VPDPBUSD, 2 loads and
// 12 broadcast loads per step of 4 k for 1,536 multiply-adds, over the whole of K at once. Tiles go along a run of
// columns first, so that rows of the output are written 512 bytes at a time. One to four rows stream the panels
// instead, one at a time, with an accumulator for each of several lines in flight.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kMr = 12;
constexpr int kPanels = 2;
constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr std::int64_t kGemvMaxRows = 4;
constexpr int kOffset = 128;

// Bytes from an lhs row to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a tile
// into few sets of the L1 cache.
std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 63) / 64 * 64;
  return padded % 2048 == 0 ? padded + 64 : padded;
}
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }
std::int64_t scratch_elems(std::int64_t) { return 0; }

void quantize_lhs(const QuantizeLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const float* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    const RowQuant rq = choose_row_quant(x, task);
    task.scale[m] = rq.scale;
    task.zero_point[m] = rq.zero_point;
    if (rq.inverse == 0.0f) {
      std::memset(q, rq.zero_point + kOffset, static_cast<std::size_t>(stride));
      continue;
    }
    const RowQuantizer quantized(rq, kOffset);
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(first_lanes(task.k - i), x + i);
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), quantized(v));
    }
  }
}

void pack_lhs(const PackLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip ^ kOffset));  // x + 128 is x ^ 0x80
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(task.k - i), x + i);
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(bytes, flip));
    }
  }
}

__m512i load_line(const std::int8_t* line) { return _mm512_load_si512(line); }

__m512i broadcast_4k(const std::uint8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm512_set1_epi32(four);
}

// What the sums of 16 columns start with.
__m512i start_of(const GemmBlock& block, std::int64_t col0) {
  const __m512i sums = _mm512_loadu_si512(block.column_sums + col0);
  return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 7));
}

// Keeps a pointer in a register of its own: without it GCC derives all of a tile's row pointers from one and the
// distances, which it then spills.
template <class T>
inline T* kept_apart(T* pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

// Where a tile stands. K is not cut into pieces: a step takes 24 VPDPBUSD and 176 bytes of operands, which the L2 cache
// delivers in a third of the time.
struct Tile {
  const std::uint8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* panel;
  std::int64_t panel_bytes, groups;
  std::int64_t row0, col0;
};

// Rows of one base pointer: an address holds a base and one or two strides, so that 12 rows take 4 registers and
// not 12.
constexpr int kRowsPerBase = 3;
constexpr int kUnroll = 2;

template <int R, int kUsed>
void multiply_tile(const GemmBlock& block, const Tile& tile) {
  constexpr int kBases = (R + kRowsPerBase - 1) / kRowsPerBase;
  __m512i sums[R][kUsed];
  unrolled<kUsed>([&](auto p) {
    const __m512i start = start_of(block, tile.col0 + kNr * p);
    unrolled<R>([&](auto r) { sums[r][p] = start; });
  });
  const std::int64_t stride = tile.lhs_stride;
  const std::uint8_t* a[kBases];
  const std::int8_t* line[kUsed];
  unrolled<kBases>([&](auto i) { a[i] = tile.lhs + kRowsPerBase * i * stride; });
  unrolled<kUsed>([&](auto p) { line[p] = tile.panel + p * tile.panel_bytes; });
  const auto step = [&](auto i) {
    __m512i b[kUsed];
    unrolled<kUsed>([&](auto p) { b[p] = load_line(line[p] + i * kLineBytes); });
    unrolled<R>([&](auto r) {
      const __m512i row = broadcast_4k(a[r / kRowsPerBase] + r % kRowsPerBase * stride + i * kKr);
      unrolled<kUsed>([&](auto p) { sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], row, b[p]); });
    });
  };
  const auto advance = [&](int steps) {
    unrolled<kBases>([&](auto i) { a[i] = kept_apart(a[i] + steps * kKr); });
    unrolled<kUsed>([&](auto p) { line[p] += steps * kLineBytes; });
  };
  std::int64_t g = 0;
  for (; g + kUnroll <= tile.groups; g += kUnroll) {
    unrolled<kUnroll>(step);
    advance(kUnroll);
  }
  if (g < tile.groups) unrolled<1>(step);
  unrolled<kUsed>([&](auto p) {
    const Finisher finish{block, tile.col0 + kNr * p};
    unrolled<R>([&](auto r) { finish(sums[r][p], tile.row0 + r); });
  });
}

template <int kUsed>
void multiply_rows(std::int64_t rows, const GemmBlock& block, const Tile& tile) {
  switch (rows) {
    case 1:
      return multiply_tile<1, kUsed>(block, tile);
    case 2:
      return multiply_tile<2, kUsed>(block, tile);
    case 3:
      return multiply_tile<3, kUsed>(block, tile);
    case 4:
      return multiply_tile<4, kUsed>(block, tile);
    case 5:
      return multiply_tile<5, kUsed>(block, tile);
    case 6:
      return multiply_tile<6, kUsed>(block, tile);
    case 7:
      return multiply_tile<7, kUsed>(block, tile);
    case 8:
      return multiply_tile<8, kUsed>(block, tile);
    case 9:
      return multiply_tile<9, kUsed>(block, tile);
    case 10:
      return multiply_tile<10, kUsed>(block, tile);
    case 11:
      return multiply_tile<11, kUsed>(block, tile);
    default:
      return multiply_tile<12, kUsed>(block, tile);
  }
}

// Columns that a row of tiles covers before the next row of tiles: output is written in runs of 512 bytes, while the
// panels stay in the L2 cache (a quarter of a MiB of them, or the two of a tile).
std::int64_t columns_of_a_run(std::int64_t panel_bytes) {
  constexpr std::int64_t kMost = 128, kBytes = 256 << 10;
  const std::int64_t fit = kBytes / panel_bytes * kNr;
  return fit >= kMost ? kMost : fit < kPanels * kNr ? kPanels * kNr : fit / (kPanels * kNr) * (kPanels * kNr);
}

void gemm(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k);
  const std::int64_t groups = (block.k + kKr - 1) / kKr, panel_bytes = groups * kLineBytes;
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  // Rows of tiles as even as they come: 16 rows are 8 + 8 rather than 12 + 4.
  const std::int64_t tiles = (block.rows + kMr - 1) / kMr, tile_rows = (block.rows + tiles - 1) / tiles;
  const std::int64_t run = columns_of_a_run(panel_bytes);
  for (std::int64_t run0 = 0; run0 < block.cols; run0 += run) {
    const std::int64_t run1 = block.cols < run0 + run ? block.cols : run0 + run;
    for (std::int64_t m = 0; m < block.rows; m += tile_rows) {
      const std::int64_t rows = block.rows - m < tile_rows ? block.rows - m : tile_rows;
      for (std::int64_t n = run0; n < run1; n += kPanels * kNr) {
        const std::int8_t* panel = block.rhs + n / kNr * panel_bytes;
        const Tile tile{lhs + m * stride, stride, panel, panel_bytes, groups, m, n};
        block.cols - n > kNr ? multiply_rows<2>(rows, block, tile) : multiply_rows<1>(rows, block, tile);
      }
    }
  }
}

// R rows by one panel, kLines lines at a time, each with accumulators of its own.
template <int R, int kLines>
void stream_panel(const GemmBlock& block, const std::uint8_t* lhs, std::int64_t stride, const std::int8_t* line,
                  std::int64_t groups, std::int64_t n0) {
  __m512i sums[R][kLines];
  const __m512i start = start_of(block, n0);
  unrolled<R>([&](auto r) { unrolled<kLines>([&](auto i) { sums[r][i] = i == 0 ? start : _mm512_setzero_si512(); }); });
  std::int64_t g = 0;
  for (; g + kLines <= groups; g += kLines, line += kLines * kLineBytes, lhs += kLines * kKr) {
    unrolled<kLines>([&](auto i) {
      _mm_prefetch(reinterpret_cast<const char*>(line + i * kLineBytes + 4096), _MM_HINT_T0);
      const __m512i b = load_line(line + i * kLineBytes);
      unrolled<R>(
          [&](auto r) { sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], broadcast_4k(lhs + r * stride + i * kKr), b); });
    });
  }
  for (; g < groups; ++g, line += kLineBytes, lhs += kKr) {
    const __m512i b = load_line(line);
    unrolled<R>([&](auto r) { sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], broadcast_4k(lhs + r * stride), b); });
  }
  const Finisher finish{block, n0};
  unrolled<R>([&](auto r) {
    __m512i sum = sums[r][0];
    unrolled<kLines - 1>([&](auto i) { sum = _mm512_add_epi32(sum, sums[r][i + 1]); });
    finish(sum, r);
  });
}

void gemv(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k);
  const std::int64_t groups = (block.k + kKr - 1) / kKr;
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kLineBytes) {
    switch (block.rows) {
      case 1:
        stream_panel<1, 8>(block, lhs, stride, panel, groups, n0);
        break;
      case 2:
        stream_panel<2, 6>(block, lhs, stride, panel, groups, n0);
        break;
      case 3:
        stream_panel<3, 4>(block, lhs, stride, panel, groups, n0);
        break;
      default:
        stream_panel<4, 4>(block, lhs, stride, panel, groups, n0);
        break;
    }
  }
}

}  // namespace

extern const Int4Kernel int4_avx512vnni;
extern const Kernel kernel_avx512vnni;
const Kernel kernel_avx512vnni = {
    .name = "avx512vnni",
    .features = kFeatureAvx512Vnni,
    .nr = kNr,
    .kr = kKr,
    .mr = kMr,
    .panels = kPanels,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemv,
    .gemv_max_rows = kGemvMaxRows,
    .int4 = &int4_avx512vnni,
};

}  // namespace octavo
