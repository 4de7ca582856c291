// AVX2: VPMADDWD on operands widened to int16.
//
// Exact for every int8 value, -128 included: two products of at most 2^14 sum to at most 2^15, far inside int32.
// (VPMADDUBSW does twice the work an instruction, and saturates at 32,767 where 255 * 127 * 2 = 64,770 is right.)
//
// The lhs is widened once, when it is quantized: row-major int16. The rhs stays int8 in memory; a quarter of a panel
// line (16 bytes: 4 columns of 4 k) is widened by VPMOVSXBW on its way into a register, shared by the rows of the tile:
//
//       rhs register    c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | c2: ... | c3: ...        16 x int16
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 |   ...                    one row's 4 k, 8 bytes
//       VPMADDWD        c0: k01  k23    | c1: k01  k23    |   ...                    8 x int32
//
// so an accumulator holds 4 columns in pairs, which VPHADDD joins once at the end. A tile is 6 rows by 8 columns: 12
// accumulators, 2 rhs, 1 lhs and 1 product make the 16 registers. Per step of 4 k it takes 12 VPMADDWD, 12 VPADDD,
// 2 VPMOVSXBW and 6 broadcast loads for 192 multiply-adds.
#include "kernels/detail/x86_avx2.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kMr = 6;
constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr std::int64_t kGemvMaxRows = 2;

// Elements from an lhs row to the next: whole vectors, and never a multiple of 4 KiB, which would put the rows of a
// tile into one set of the L1 cache.
std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 15) / 16 * 16;
  return padded % 1024 == 0 ? padded + 32 : padded;
}
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k) * 2; }
std::int64_t scratch_elems(std::int64_t rows) { return (rows < kMr ? kMr : rows) * kNr; }

void store_16(std::int16_t* dst, __m256i first_8, __m256i last_8) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(first_8, last_8), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), packed);
}

void quantize_lhs(const QuantizeLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const float* x = task.src + m * task.src_stride;
    std::int16_t* q = static_cast<std::int16_t*>(task.dst) + m * stride;
    const RowQuant rq = choose_row_quant(x, task);
    task.scale[m] = rq.scale;
    task.zero_point[m] = rq.zero_point;
    if (rq.inverse == 0.0f) {
      for (std::int64_t i = 0; i < stride; ++i) q[i] = static_cast<std::int16_t>(rq.zero_point);
      continue;
    }
    const RowQuantizer quantized(rq);
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const Sixteen v = load_16(x + i, task.k - i);
      store_16(q + i, quantized(v.first_8), quantized(v.last_8));
    }
  }
}

void pack_lhs(const PackLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip));
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::int16_t* q = static_cast<std::int16_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const __m256i wide = _mm256_cvtepi8_epi16(_mm_xor_si128(load_16(x + i, task.k - i), flip));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), wide);
    }
  }
}

__m256i widened_quarter(const std::int8_t* line, int quarter) {
  return _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(line + 16 * quarter)));
}

__m256i broadcast_4k(const std::int16_t* a) {
  return _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)));
}

// Two accumulators of 4 columns in pairs to 8 columns in order.
__m256i joined_pairs(__m256i columns_0_3, __m256i columns_4_7) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(columns_0_3, columns_4_7), 0xd8);
}

// Keeps the additions in the order written. GCC 12 otherwise multiplies every row first, needs 12 products at once on
// top of 12 accumulators, and spills half of them: 0.10 instead of 0.17 TOPS.
__m256i in_order(__m256i v) {
  __asm__ volatile("" : "+x"(v));
  return v;
}

void put_sums(std::int32_t* acc, __m256i sums, bool first) {
  __m256i* at = reinterpret_cast<__m256i*>(acc);
  _mm256_store_si256(at, first ? sums : _mm256_add_epi32(_mm256_load_si256(at), sums));
}

// acc[r][8 * half ..] (+)= R rows by `kQuarters` quarters of `groups` panel lines, starting with quarter `quarter0`.
template <int R, int kQuarters, bool kPrefetch>
void multiply_tile(const std::int16_t* a, std::int64_t a_stride, const std::int8_t* line, int quarter0,
                   std::int64_t groups, std::int32_t* acc, bool first) {
  __m256i sums[R][kQuarters];
  unrolled<R>([&](auto r) { unrolled<kQuarters>([&](auto c) { sums[r][c] = _mm256_setzero_si256(); }); });
  for (std::int64_t g = 0; g < groups; ++g, line += kLineBytes, a += kKr) {
    if constexpr (kPrefetch) _mm_prefetch(reinterpret_cast<const char*>(line + 4096), _MM_HINT_T0);
    __m256i b[kQuarters];
    unrolled<kQuarters>([&](auto c) { b[c] = widened_quarter(line, quarter0 + c); });
    unrolled<R>([&](auto r) {
      const __m256i row = broadcast_4k(a + r * a_stride);
      unrolled<kQuarters>(
          [&](auto c) { sums[r][c] = in_order(_mm256_add_epi32(sums[r][c], _mm256_madd_epi16(b[c], row))); });
    });
  }
  unrolled<R>([&](auto r) {
    unrolled<kQuarters / 2>([&](auto pair) {
      const __m256i columns = joined_pairs(sums[r][2 * pair], sums[r][2 * pair + 1]);
      put_sums(acc + kNr * r + 4 * quarter0 + 8 * pair, columns, first);
    });
  });
}

// One tile of `rows` <= 6 rows by one panel, as two halves of 8 columns.
void multiply_rows(std::int64_t rows, const std::int16_t* a, std::int64_t a_stride, const std::int8_t* line,
                   std::int64_t groups, std::int32_t* acc, bool first) {
  for (int quarter = 0; quarter < 4; quarter += 2) {
    switch (rows) {
      case 1:
        multiply_tile<1, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
      case 2:
        multiply_tile<2, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
      case 3:
        multiply_tile<3, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
      case 4:
        multiply_tile<4, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
      case 5:
        multiply_tile<5, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
      default:
        multiply_tile<6, 2, false>(a, a_stride, line, quarter, groups, acc, first);
        break;
    }
  }
}

void gemm(const GemmBlock& block) {
  const std::int64_t a_stride = lhs_stride(block.k);
  const std::int64_t groups = (block.k + kKr - 1) / kKr;
  const std::int64_t pieces = (block.k + block.k_block - 1) / block.k_block;
  const std::int64_t groups_per_piece = (groups + pieces - 1) / pieces;
  const std::int16_t* lhs = static_cast<const std::int16_t*>(block.lhs);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kLineBytes) {
    for (std::int64_t g = 0; g < groups; g += groups_per_piece) {
      const std::int64_t count = groups - g < groups_per_piece ? groups - g : groups_per_piece;
      const bool first = g == 0, last = g + count == groups;
      for (std::int64_t m = 0; m < block.rows; m += kMr) {
        const std::int64_t rows = block.rows - m < kMr ? block.rows - m : kMr;
        std::int32_t* acc = block.scratch + (first && last ? 0 : m * kNr);
        multiply_rows(rows, lhs + m * a_stride + g * kKr, a_stride, panel + g * kLineBytes, count, acc, first);
        if (last) finish_rows(block, acc, kNr, m, rows, n0);
      }
    }
  }
}

void gemv(const GemmBlock& block) {
  const std::int64_t a_stride = lhs_stride(block.k);
  const std::int64_t groups = (block.k + kKr - 1) / kKr;
  const std::int16_t* lhs = static_cast<const std::int16_t*>(block.lhs);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kLineBytes) {
    if (block.rows == 1) {
      multiply_tile<1, 4, true>(lhs, a_stride, panel, 0, groups, block.scratch, true);
    } else {
      multiply_tile<2, 4, true>(lhs, a_stride, panel, 0, groups, block.scratch, true);
    }
    finish_rows(block, block.scratch, kNr, 0, block.rows, n0);
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
    .lhs_elem_bytes = 2,
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
