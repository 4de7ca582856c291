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
// Blocking, from the machine's figures in docs/kernels.md ("What bounds the kernels"):
//
//   for each chunk of panels that takes a quarter of the L2 cache       read by every pair of row tiles
//     for each pair of row tiles
//       for each piece of K, about block.k_block long                   2 lhs tiles a step stay in the L1 cache
//         for each 2 panels of the chunk                                2 rhs tiles a step come from the L2 cache
//           multiply
//
// so that a row of the result is written in runs as long as the chunk is wide. Sums leave the tiles at the start of the
// next multiplication, one tile after the other between its first instructions; while it goes on, they are added to
// what earlier pieces left (kept in scratch), or finished and written. So a multiplication takes what the one before it
// left pending, and returns what it leaves pending itself.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_common.h"
#include "kernels/kernel.h"
#if defined(OCTAVO_EMULATED)
#include "amx_model.h"
#else
#include "kernels/detail/x86_amx.h"
#endif

namespace octavo {
namespace {

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
std::int64_t tiled_lhs_bytes(std::int64_t rows, std::int64_t k) {
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

// A row of the bytes that bytes_at(i) gives, 16 from i on; zeros behind K.
template <class BytesAt>
void put_row(std::int8_t* q, std::int64_t k, const BytesAt& bytes_at) {
  for (std::int64_t k0 = 0; k0 < k; k0 += kStepK, q += kTileBytes) {
    for (std::int64_t i = 0; i < kStepK; i += 16) {
      const std::int64_t left = k - k0 - i;
      const __mmask16 lanes = first_lanes(left > 0 ? left : 0);
      const __m128i bytes = lanes == 0 ? _mm_setzero_si128() : _mm_maskz_mov_epi8(lanes, bytes_at(k0 + i));
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), bytes);
    }
  }
}

void quantize_lhs(const QuantizeLhs& task) {
  const auto choose = [&](const auto& x) { return Avx512::choose_row_quant(x, task); };
  for_each_row(task, choose, [&](std::int64_t m, const auto& x, const RowQuant& rq) {
    std::int8_t* q = packed_row(task.dst, m, task.k);
    if (rq.inverse == 0.0f) {
      const __m128i zero_points = _mm_set1_epi8(static_cast<char>(rq.zero_point));
      put_row(q, task.k, [&](std::int64_t) { return zero_points; });
    } else {
      const Avx512::Quantizer quantized(rq, 0);
      put_row(q, task.k, [&](std::int64_t i) { return quantized(x + i, task.k - i); });
    }
  });
}

void pack_lhs(const PackLhs& task) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip));
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    put_row(packed_row(task.dst, m, task.k), task.k,
            [&](std::int64_t i) { return _mm_xor_si128(Avx512::load_16(x + i, task.k - i), flip); });
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

// What a multiplication leaves in the tiles: which sums they are, and what is still to be done with them.
struct Pending {
  std::int64_t row0 = 0, col0 = 0;
  int rows = 0, panels = 0;         // none at first
  bool first = true, last = true;   // of the pieces of K
  std::int32_t* partial = nullptr;  // where the sums of all pieces so far are kept, [row tile][panel][16][16]
};

void add_up(std::int32_t* sums, const std::int32_t* more, int rows) {
  for (int i = 0; i < rows * kNr; i += kNr)
    Avx512::store(sums + i, Avx512::add(Avx512::load(sums + i), Avx512::load(more + i)));
}

// Pending sums that have left the tiles, [row tile][panel][16][16], and are taken a few rows at a time.
class Leaving {
 public:
  Leaving(const GemmBlock& block, const Pending& of) : block_(block), of_(of) {}

  // Adds up or finishes the next `count` rows, as far as there are any.
  void take_rows(int count) {
    for (int left = count < rows_left() ? count : rows_left(); left > 0;) {
      const int in_tile = kTileRows - row_ % kTileRows, now = left < in_tile ? left : in_tile;
      for (int p = 0; p < of_.panels; ++p) take(p, now);
      row_ += now;
      left -= now;
    }
  }
  void take_all() { take_rows(rows_left()); }
  int rows_left() const { return of_.rows - row_; }

 private:
  // `count` rows of a panel that lie in one tile.
  void take(int panel, int count) const {
    const int at = (row_ / kTileRows * of_.panels + panel) * kTileSums + row_ % kTileRows * kNr;
    std::int32_t* const sums = block_.scratch + at;
    if (!of_.first) add_up(sums, of_.partial + at, count);
    if (of_.last) {
      finish_rows<Avx512>(block_, sums, kNr, of_.row0 + row_, count, of_.col0 + kNr * panel);
    } else {
      std::memcpy(of_.partial + at, sums, static_cast<std::size_t>(count) * kNr * sizeof(std::int32_t));
    }
  }

  const GemmBlock& block_;
  const Pending& of_;
  int row_ = 0;
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

// One multiplication: a pair of row tiles, or one, by a few panels over a piece of K.
struct Work {
  const std::int8_t* lhs;
  std::int64_t row_tile_bytes;
  const std::int8_t* rhs;
  std::int64_t panel_bytes;
  std::int64_t steps;
  Pending sums;  // what becomes of them
};

// One step of kStepK. The first of a multiplication also stores what the sum tiles hold and starts them from zero.
template <int kRowTiles, int kPanels, bool kFirst>
void multiply_step(const std::int8_t* lhs, const std::int8_t* rhs, const Work& work, std::int32_t* leaving) {
  constexpr int kUsed = kRowTiles * kPanels, kLhs = kSumTiles, kRhs = kLhs + kRowTiles, kRhsTiles = kTiles - kRhs;
  static_assert(kUsed <= kSumTiles);
  if constexpr (kFirst) {
    unrolled<kSumTiles - kUsed>([&](auto i) { tile_store<kUsed + i>(leaving + (kUsed + i) * kTileSums); });
  }
  unrolled<kRowTiles>([&](auto r) { tile_load<kLhs + r>(lhs + r * work.row_tile_bytes); });
  unrolled<kPanels>([&](auto p) {
    tile_load<kRhs + p % kRhsTiles>(rhs + p * work.panel_bytes);
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

// Multiplies, and meanwhile takes the sums that the multiplication before has left. Returns those it leaves itself.
template <int kRowTiles, int kPanels>
Pending multiply(const GemmBlock& block, const Work& work, const Pending& before, Prefetch& prefetch) {
  const std::int8_t *lhs = work.lhs, *rhs = work.rhs;
  multiply_step<kRowTiles, kPanels, true>(lhs, rhs, work, block.scratch);
  Leaving leaving(block, before);
  const int rows_a_step = work.steps < 2 ? 0 : static_cast<int>((before.rows + work.steps - 2) / (work.steps - 1));
  for (std::int64_t s = 1; s < work.steps; ++s) {
    lhs += kTileBytes;
    rhs += kTileBytes;
    multiply_step<kRowTiles, kPanels, false>(lhs, rhs, work, nullptr);
    leaving.take_rows(rows_a_step);
    prefetch.step();
  }
  leaving.take_all();
  return work.sums;
}

Pending multiply(const GemmBlock& block, const Work& work, const Pending& before, Prefetch& prefetch) {
  Pending after;
  if (work.sums.rows > kTileRows) {
    with_constant<2>(work.sums.panels, [&](auto p) { after = multiply<2, p>(block, work, before, prefetch); });
  } else {
    with_constant<4>(work.sums.panels, [&](auto p) { after = multiply<1, p>(block, work, before, prefetch); });
  }
  return after;
}

// What the last multiplication left.
void take_last(const GemmBlock& block, const Pending& pending) {
  unrolled<kSumTiles>([&](auto i) { tile_store<i>(block.scratch + i * kTileSums); });
  Leaving(block, pending).take_all();
}

// How a block is cut.
struct Cut {
  std::int64_t panels, chunk;  // in all; read by every pair of row tiles
  std::int64_t steps, piece;   // in all; in a piece of K
  std::int64_t panel_bytes;
  std::int64_t prefetch_lines;  // a step
};

Cut cut_of(const GemmBlock& block) {
  const std::int64_t panels = panels_of(block.cols), steps = steps_of(block.k);
  const std::int64_t panel_bytes = lines_of(block.k) * kLineBytes;
  const bool one_tile = block.rows <= kTileRows;  // the panels are read once: nothing to keep in a cache
  const std::int64_t fitting = kChunkBytes / panel_bytes / 4 * 4;
  const std::int64_t bounded = fitting < 4 ? 4 : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
  // Pieces as near to k_block as they come, rather than no longer: 768 is better whole than as 384 + 384.
  const std::int64_t rounded = (block.k + block.k_block / 2) / block.k_block;
  const std::int64_t pieces = one_tile || rounded < 1 ? 1 : rounded;
  const std::int64_t pairs = (block.rows + kPairRows - 1) / kPairRows;
  const std::int64_t wanted_lines = (2 * kStepLines + pairs - 1) / pairs;
  return {.panels = panels,
          .chunk = one_tile ? panels : bounded,
          .steps = steps,
          .piece = (steps + pieces - 1) / pieces,
          .panel_bytes = panel_bytes,
          .prefetch_lines = wanted_lines < kMaxPrefetchLines ? wanted_lines : kMaxPrefetchLines};
}

void gemm(const GemmBlock& block) {
  const Cut cut = cut_of(block);
  std::int32_t* const partial = block.scratch + kSumTiles * kTileSums;
  Pending pending;
  tile_configure(tile_config(block.rows));
  for (std::int64_t c0 = 0; c0 < cut.panels; c0 += cut.chunk) {
    const std::int64_t c1 = c0 + cut.chunk < cut.panels ? c0 + cut.chunk : cut.panels;
    const std::int64_t c2 = c1 + cut.chunk < cut.panels ? c1 + cut.chunk : cut.panels;
    Prefetch prefetch{block.rhs + c1 * cut.panel_bytes, block.rhs + c2 * cut.panel_bytes, cut.prefetch_lines};
    for (std::int64_t m = 0; m < block.rows; m += kPairRows) {
      const std::int64_t rows = block.rows - m < kPairRows ? block.rows - m : kPairRows;
      const std::int64_t width = rows > kTileRows ? 2 : 4;  // panels at a time
      const std::int8_t* lhs = static_cast<const std::int8_t*>(block.lhs) + m / kTileRows * cut.steps * kTileBytes;
      for (std::int64_t s = 0; s < cut.steps; s += cut.piece) {
        const std::int64_t count = cut.steps - s < cut.piece ? cut.steps - s : cut.piece;
        for (std::int64_t p = c0; p < c1; p += width) {
          const Work work{
              .lhs = lhs + s * kTileBytes,
              .row_tile_bytes = cut.steps * kTileBytes,
              .rhs = block.rhs + p * cut.panel_bytes + s * kTileBytes,
              .panel_bytes = cut.panel_bytes,
              .steps = count,
              .sums = {.row0 = m,
                       .col0 = p * kNr,
                       .rows = static_cast<int>(rows),
                       .panels = static_cast<int>(c1 - p < width ? c1 - p : width),
                       .first = s == 0,
                       .last = s + count == cut.steps,
                       .partial = partial + (p - c0) * 2 * kTileSums},
          };
          pending = multiply(block, work, pending, prefetch);
        }
      }
    }
  }
  take_last(block, pending);
  tile_release();
}

}  // namespace

extern const IntegerKernel integer_avx512vnni;
extern const Kernel kernel_amxint8;
const Kernel kernel_amxint8 = {
    .name = "amxint8",
    .features = kTileFeature | kFeatureAvx512Vnni,  // of which the vector instructions around the tiles are a part
    .nr = kNr,
    .kr = kKr,
    .mr = kPairRows,
    .panels = 2,
    .lhs_elem_bytes = 1,
    .lhs_bytes = tiled_lhs_bytes,
    .scratch_elems = scratch_elems,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemm,
    .gemv_max_rows = kTileRows,
    .multiply_adds_per_us = 1.5e6,
    .integer = &integer_avx512vnni,
    // Not measured on such a CPU, but from how many multiply-adds a cycle each instruction makes.
    .integer_costs = {12, 48, 144, 48, 600},
    .min_rows = 5,  // a tile multiplies 16 rows or 1 in the time that 4 take with VPDPBUSD
};

}  // namespace octavo
