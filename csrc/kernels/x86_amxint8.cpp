// AMX-INT8: TDPBSSD, which multiplies 16 rows of 64 int8 by 64 rows of 16 int8 and adds them to 16 x 16 int32.
//
// Both operands are signed, so nothing is compensated. A tile is 16 rows of 64 bytes:
//
//       rhs tile    16 panel lines, 64 k of 16 columns, straight from the packed panel; 1 KiB in a run
//       lhs tile    64 k of 16 rows, 1 KiB in a run:  lhs[row / 16][k / 64][row % 16][k % 64], zero beyond K
//       sums        16 rows of 16 columns
//
// The last rhs tile of a panel may reach into the next one or into the slack behind the last; the lhs is zero there.
//
// Eight tiles: four of sums, and 2 lhs + 2 rhs for 2 row tiles by 2 panels, or 1 lhs + 3 rhs for 1 row tile by 4 panels
// (at most 16 rows, of which a tile then holds no more than there are).
//
// Blocking, from the machine's figures in docs/design.md ("What bounds the kernels"):
//
//   for each chunk of panels that takes a quarter of the L2 cache       read by every pair of row tiles
//     for each pair of row tiles
//       for each piece of K, about block.k_block long                   2 lhs tiles a step stay in the L1 cache
//         for each 2 panels of the chunk                                2 rhs tiles a step come from the L2 cache
//           multiply
//
// so that a row of the result is written in runs as long as the chunk is wide. Sums leave the tiles at the start of the
// next multiplication, one tile after the other between its first instructions; while it goes on, they are added to
// what earlier pieces left (kept in scratch), or finished and written.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/kernel.h"
#if defined(OCTAVO_AMX_MODEL)
#include "amx_model.h"
#else
#include "kernels/detail/x86_amx.h"
#endif

namespace octavo {
namespace {

constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr int kStepK = kTileRowBytes;  // K of a step: a row of an lhs tile
constexpr std::int64_t kStepLines = kStepK / kKr;
static_assert(kStepLines == kTileRows && (kStepLines - 1) * kLineBytes <= kRhsSlackBytes);

constexpr int kSumTiles = 4;
constexpr int kTileSums = kTileRows * kNr;
constexpr int kPairRows = 2 * kTileRows;

// A chunk's share of the L2 cache, which is 2 MiB on every CPU with AMX; the lhs block takes half of it.
constexpr std::int64_t kChunkBytes = 512 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

// Prefetches a step at most: more of them fill the reorder window, and the multiplications wait.
constexpr std::int64_t kMaxPrefetchLines = 4;

std::int64_t steps_of(std::int64_t k) { return (k + kStepK - 1) / kStepK; }
std::int64_t row_tile_bytes(std::int64_t k) { return steps_of(k) * kTileBytes; }
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) {
  return (rows + kTileRows - 1) / kTileRows * row_tile_bytes(k);
}
std::int64_t scratch_elems(std::int64_t rows, std::int64_t) {
  constexpr std::int64_t kLeaving = kSumTiles * kTileSums, kPartial = kMaxChunkPanels * 2 * kTileSums;
  return rows <= kTileRows ? kLeaving : kLeaving + kPartial;
}

// Where the first 64 values of a row go; the next ones lie kTileBytes on.
std::int8_t* packed_row(void* lhs, std::int64_t m, std::int64_t k) {
  return static_cast<std::int8_t*>(lhs) + m / kTileRows * row_tile_bytes(k) + m % kTileRows * kTileRowBytes;
}

// The bytes of a row that `bytes_at(i, mask)` gives, 16 from i on as far as the mask has them; zeros behind K.
template <class BytesAt>
void put_row(std::int8_t* q, std::int64_t k, const BytesAt& bytes_at) {
  for (std::int64_t k0 = 0; k0 < k; k0 += kStepK, q += kTileBytes) {
    for (std::int64_t i = 0; i < kStepK; i += 16) {
      const std::int64_t left = k - k0 - i;
      const __mmask16 lanes = first_lanes(left > 0 ? left : 0);
      const __m128i bytes = lanes == 0 ? _mm_setzero_si128() : _mm_maskz_mov_epi8(lanes, bytes_at(k0 + i, lanes));
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), bytes);
    }
  }
}

void quantize_lhs(const QuantizeLhs& task) {
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const float* x = task.src + m * task.src_stride;
    std::int8_t* q = packed_row(task.dst, m, task.k);
    const RowQuant rq = choose_row_quant(x, task);
    task.scale[m] = rq.scale;
    task.zero_point[m] = rq.zero_point;
    if (rq.inverse == 0.0f) {
      const __m128i zero_points = _mm_set1_epi8(static_cast<char>(rq.zero_point));
      put_row(q, task.k, [&](std::int64_t, __mmask16) { return zero_points; });
    } else {
      const RowQuantizer quantized(rq, 0);
      put_row(q, task.k,
              [&](std::int64_t i, __mmask16 lanes) { return quantized(_mm512_maskz_loadu_ps(lanes, x + i)); });
    }
  }
}

void pack_lhs(const PackLhs& task) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip));
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    put_row(packed_row(task.dst, m, task.k), task.k,
            [&](std::int64_t i, __mmask16 lanes) { return _mm_xor_si128(_mm_maskz_loadu_epi8(lanes, x + i), flip); });
  }
}

// Every tile whole, or the lhs and its sums with no more rows than there are: fewer rows multiply faster.
TileConfig tile_config(std::int64_t rows) {
  const auto lhs_rows = static_cast<std::uint8_t>(rows < kTileRows ? rows : kTileRows);
  TileConfig config;
  config.palette = 1;
  for (int i = 0; i < kTiles; ++i) {
    config.row_bytes[i] = kTileRowBytes;
    config.rows[i] = i <= kSumTiles ? lhs_rows : kTileRows;  // tile kSumTiles is the first of the lhs
  }
  if (rows > kTileRows) config.rows[kSumTiles + 1] = kTileRows;
  return config;
}

// Sums on their way out of the tiles: [row tile][panel][16][16] in `leaving`, and in `partial` what earlier pieces of K
// left of the same.
struct Sums {
  const GemmBlock& block;
  std::int32_t* leaving;
  std::int32_t* partial = nullptr;
  std::int64_t row0 = 0, col0 = 0;
  int panels = 0;
  int row = 0, rows = 0;  // the next one, of how many
  bool first = true, last = true;

  // Adds up or finishes the next `count` rows, as far as there are any.
  void take_rows(int count) {
    for (int left = count < rows - row ? count : rows - row; left > 0;) {
      const int in_tile = kTileRows - row % kTileRows, now = left < in_tile ? left : in_tile;
      for (int p = 0; p < panels; ++p) {
        const int at = (row / kTileRows * panels + p) * kTileSums + row % kTileRows * kNr;
        if (!first) add_up(leaving + at, partial + at, now);
        if (last) {
          finish_rows(block, leaving + at, kNr, row0 + row, now, col0 + kNr * p);
        } else {
          std::memcpy(partial + at, leaving + at, static_cast<std::size_t>(now) * kNr * sizeof(std::int32_t));
        }
      }
      row += now;
      left -= now;
    }
  }
  static void add_up(std::int32_t* sums, const std::int32_t* more, int count) {
    for (int i = 0; i < count * kNr; i += kNr) {
      _mm512_store_si512(sums + i, _mm512_add_epi32(_mm512_load_si512(sums + i), _mm512_load_si512(more + i)));
    }
  }
  void take_all() { take_rows(rows - row); }
};

// Brings lines that are needed later into the L2 cache.
struct Prefetch {
  const std::int8_t* at;
  const std::int8_t* end;
  std::int64_t lines_a_step;

  void step() {
    for (std::int64_t i = 0; i < lines_a_step && at < end; ++i, at += kLineBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
    }
  }
};

struct Operands {
  const std::int8_t* lhs;
  std::int64_t row_tile_bytes;
  const std::int8_t* rhs;
  std::int64_t panel_bytes;
  std::int64_t steps;
};

// One step of kStepK. The first of a multiplication also stores what the sum tiles hold and starts them from zero.
template <int kRowTiles, int kPanels, bool kFirst>
void multiply_step(const std::int8_t* lhs, const std::int8_t* rhs, const Operands& of, std::int32_t* leaving) {
  constexpr int kUsed = kRowTiles * kPanels, kLhs = kSumTiles, kRhs = kLhs + kRowTiles, kRhsTiles = kTiles - kRhs;
  static_assert(kUsed <= kSumTiles);
  if constexpr (kFirst) {
    unrolled<kSumTiles - kUsed>([&](auto i) { tile_store<kUsed + i>(leaving + (kUsed + i) * kTileSums); });
  }
  unrolled<kRowTiles>([&](auto r) { tile_load<kLhs + r>(lhs + r * of.row_tile_bytes); });
  unrolled<kPanels>([&](auto p) {
    tile_load<kRhs + p % kRhsTiles>(rhs + p * of.panel_bytes);
    unrolled<kRowTiles>([&](auto r) {
      constexpr int kSum = r * kPanels + p;
      if constexpr (kFirst) {
        tile_store<kSum>(leaving + kSum * kTileSums);
        tile_zero<kSum>();
      }
      tile_dot<kSum, kLhs + r, kRhs + p % kRhsTiles>();
    });
  });
}

// Multiplies, and meanwhile takes the sums of the multiplication before.
template <int kRowTiles, int kPanels>
void multiply(const Operands& of, Sums& before, Prefetch& prefetch) {
  const std::int8_t *lhs = of.lhs, *rhs = of.rhs;
  multiply_step<kRowTiles, kPanels, true>(lhs, rhs, of, before.leaving);
  const int rows_a_step = of.steps < 2 ? before.rows : static_cast<int>((before.rows + of.steps - 2) / (of.steps - 1));
  for (std::int64_t s = 1; s < of.steps; ++s) {
    lhs += kTileBytes;
    rhs += kTileBytes;
    multiply_step<kRowTiles, kPanels, false>(lhs, rhs, of, nullptr);
    before.take_rows(rows_a_step);
    prefetch.step();
  }
  before.take_all();
}

void multiply_shape(bool pair, std::int64_t panels, const Operands& of, Sums& before, Prefetch& prefetch) {
  if (pair) return panels == 2 ? multiply<2, 2>(of, before, prefetch) : multiply<2, 1>(of, before, prefetch);
  switch (panels) {
    case 1:
      return multiply<1, 1>(of, before, prefetch);
    case 2:
      return multiply<1, 2>(of, before, prefetch);
    case 3:
      return multiply<1, 3>(of, before, prefetch);
    default:
      return multiply<1, 4>(of, before, prefetch);
  }
}

// The last sums are still in the tiles.
void store_sums(std::int32_t* leaving) {
  unrolled<kSumTiles>([&](auto i) { tile_store<i>(leaving + i * kTileSums); });
}

void gemm(const GemmBlock& block) {
  const std::int64_t steps = steps_of(block.k), panel_bytes = (block.k + kKr - 1) / kKr * kLineBytes;
  const std::int64_t panels = (block.cols + kNr - 1) / kNr;
  const bool one_tile = block.rows <= kTileRows;  // the panels are read once: nothing to keep in a cache
  const std::int64_t fitting = kChunkBytes / panel_bytes / 4 * 4;
  const std::int64_t chunk = one_tile                    ? panels
                             : fitting < 4               ? 4
                             : fitting > kMaxChunkPanels ? kMaxChunkPanels
                                                         : fitting;
  // Pieces as near to k_block as they come, rather than no longer: 768 is better whole than as 384 + 384.
  const std::int64_t rounded = (block.k + block.k_block / 2) / block.k_block;
  const std::int64_t pieces = one_tile || rounded < 1 ? 1 : rounded;
  const std::int64_t piece = (steps + pieces - 1) / pieces;
  const std::int64_t pairs = (block.rows + kPairRows - 1) / kPairRows;
  const std::int64_t wanted_lines = (2 * kStepLines + pairs - 1) / pairs;
  const std::int64_t prefetch_lines = wanted_lines < kMaxPrefetchLines ? wanted_lines : kMaxPrefetchLines;

  tile_configure(tile_config(block.rows));
  Sums sums{.block = block, .leaving = block.scratch};
  std::int32_t* partial = block.scratch + kSumTiles * kTileSums;
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < panels ? c0 + chunk : panels;
    const std::int64_t c2 = c1 + chunk < panels ? c1 + chunk : panels;
    Prefetch prefetch{block.rhs + c1 * panel_bytes, block.rhs + c2 * panel_bytes, prefetch_lines};
    for (std::int64_t m = 0; m < block.rows; m += kPairRows) {
      const std::int64_t rows = block.rows - m < kPairRows ? block.rows - m : kPairRows;
      const bool pair = rows > kTileRows;
      const std::int8_t* lhs = static_cast<const std::int8_t*>(block.lhs) + m / kTileRows * steps * kTileBytes;
      for (std::int64_t s = 0; s < steps; s += piece) {
        const std::int64_t count = steps - s < piece ? steps - s : piece, width = pair ? 2 : 4;
        for (std::int64_t p = c0; p < c1; p += width) {
          const std::int64_t used = c1 - p < width ? c1 - p : width;
          const Operands operands{lhs + s * kTileBytes, steps * kTileBytes,
                                  block.rhs + p * panel_bytes + s * kTileBytes, panel_bytes, count};
          multiply_shape(pair, used, operands, sums, prefetch);
          sums.partial = partial + (p - c0) * 2 * kTileSums;
          sums.row0 = m;
          sums.col0 = p * kNr;
          sums.panels = static_cast<int>(used);
          sums.row = 0;
          sums.rows = static_cast<int>(rows);
          sums.first = s == 0;
          sums.last = s + count == steps;
        }
      }
    }
  }
  store_sums(sums.leaving);
  tile_release();
  sums.take_all();
}

}  // namespace

extern const Int4Kernel int4_avx512vnni;
extern const Kernel kernel_amxint8;
const Kernel kernel_amxint8 = {
    .name = "amxint8",
    .features = kTileFeature | kFeatureAvx512Vnni,  // of which the vector instructions around the tiles are a part
    .nr = kNr,
    .kr = kKr,
    .mr = kPairRows,
    .panels = 2,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemm,
    .gemv_max_rows = kTileRows,
    .int4 = &int4_avx512vnni,
    .min_rows = 5,  // a tile multiplies 16 rows or 1 in the time that 4 take with VPDPBUSD
};

}  // namespace octavo
