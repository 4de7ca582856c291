// AMX-INT8: TDPBSSD on tiles, detail/x86_amx_steps.h. Both operands are signed, so nothing is compensated.
//
// The last rhs tile of a panel may reach into the next one or into the slack behind the last; the lhs is zero there.
//
// Blocking, from figures of a machine with 48 KiB of L1 and 2 MiB of L2 (docs/kernels.md):
//
//   for each chunk of panels                          its share of L2, read by every pair of row tiles
//     for each pair of row tiles                      2 lhs tiles a step stay in L1
//       for each 2 panels of the chunk                2 rhs tiles a step come from L2
//         multiply, all of K                          while the next chunk is prefetched into L2
//
// A row of the result is written in runs as long as the chunk is wide. At most 16 rows take 4 panels at a time, which
// come by once, and prefetch each of them shortly before it is loaded.
//
// If rows are so long that L2 holds only a few, the weights would be read again for every few rows. In that case:
//
//   for each stripe of kStripePanels
//     for each piece of K of at most kPieceSteps      a stripe's panels and the sums so far stay in L2
//       for each pair of row tiles                    which come from beyond it
//         for each 2 panels of the stripe
//           multiply the piece, going on from the sums of those before it
#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#if defined(OCTAVO_EMULATED)
#include "amx_model.h"
#else
#include "kernels/detail/x86_amx.h"
#endif
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_amx_lhs.h"
#include "kernels/detail/x86_amx_steps.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_common.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

static_assert((kTileLines - 1) * kLineBytes <= kRhsSlackBytes);

// L2 is 2 MiB on every CPU with AMX. The lhs and the chunks, one in use and one on its way, leave kOtherBytes of it to
// results.
constexpr std::int64_t kL2Bytes = 2 << 20, kOtherBytes = 192 << 10;
constexpr std::int64_t kMostChunkBytes = 384 << 10, kMostChunkPanels = 64;

// Rows that take more than this come in pieces of K.
constexpr std::int64_t kWholeLhsBytes = 1280 << 10;
constexpr std::int64_t kPieceSteps = 32, kStripePanels = 16;
constexpr std::int64_t kStripRows = 512;  // at most at a time, so that their sums stay in L2

std::int64_t pairs_of(std::int64_t rows) { return (rows + kPairRows - 1) / kPairRows; }

bool in_pieces(std::int64_t rows, std::int64_t k) {
  return rows > kPairRows && tiled_lhs_bytes(rows, k) > kWholeLhsBytes;
}

// The sums that leave the tiles; then those of a stripe so far, [pair of row tiles][2 panels][4][16][16].
constexpr std::int64_t kExchangeSums = kSumTiles * kTileSums;
std::int64_t scratch_elems(std::int64_t rows, std::int64_t k) {
  if (!in_pieces(rows, k)) return kExchangeSums;
  return kExchangeSums * (1 + pairs_of(rows < kStripRows ? rows : kStripRows) * kStripePanels / 2);
}

void pack_lhs(const PackLhs& task) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip));
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    put_row(packed_row(task.dst, m, task.k), 0, task.k,
            [&](std::int64_t i) { return _mm_xor_si128(Avx512::load_16(x + i, task.k - i), flip); });
  }
}

// What a multiplication leaves in the tiles, where it is to be stored, and which results are to be finished from there.
struct Pending {
  std::int32_t* sums;
  std::int64_t row0 = 0, col0 = 0;
  int rows = 0, panels = 0;  // none: at first, and where K goes on
};

// Finishes rows [row, end) of any kind.
[[gnu::noinline]] void take_others(const GemmBlock& block, const Pending& of, int row, int end) {
  while (row < end) {
    const int in_tile = kTileRows - row % kTileRows, now = end - row < in_tile ? end - row : in_tile;
    for (int p = 0; p < of.panels; ++p) {
      const std::int32_t* sums = of.sums + (row / kTileRows * of.panels + p) * kTileSums + row % kTileRows * kNr;
      finish_rows<Avx512>(block, sums, kNr, of.row0 + row, now, of.col0 + kNr * p);
    }
    row += now;
  }
}

// Pending sums that have left the tiles, [row tile][panel][16][16], and are finished a few rows at a time. The common
// case, float32 results of kPanels whole panels without zero points, is finished here, among the steps.
template <int kPanels>
class Leaving {
 public:
  Leaving(const GemmBlock& block, const Pending& of)
      : block_(block),
        of_(of),
        common_(of.panels == kPanels && block.epilogue.kind == DstKind::kFloat32 &&
                block.epilogue.lhs_zero_point == nullptr && block.epilogue.rhs_zero_point == nullptr &&
                block.cols - of.col0 >= kPanels * kNr) {
    if (!common_) return;
    const Epilogue& e = block.epilogue;
    unrolled<kPanels>([&](auto p) {
      scale_[p] = _mm512_loadu_ps(e.rhs_scale + of.col0 + p * kNr);
      bias_[p] = e.bias != nullptr ? _mm512_loadu_ps(e.bias + of.col0 + p * kNr) : _mm512_setzero_ps();
    });
  }

  // Finishes the next `count` rows, as far as there are any.
  [[gnu::always_inline]] void take_rows(int count) {
    const int end = row_ + count < of_.rows ? row_ + count : of_.rows;
    if (common_) {
      for (; row_ < end; ++row_) take_row();
    } else if (row_ < end) {
      take_others(block_, of_, row_, end);
      row_ = end;
    }
  }

 private:
  [[gnu::always_inline]] void take_row() const {
    const Epilogue& e = block_.epilogue;
    const std::int32_t* sums = of_.sums + row_ / kTileRows * kPanels * kTileSums + row_ % kTileRows * kNr;
    float* const dst = static_cast<float*>(block_.dst) + (of_.row0 + row_) * block_.dst_stride + of_.col0;
    const __m512 lhs_scale = _mm512_set1_ps(e.lhs_scale[of_.row0 + row_]);
    unrolled<kPanels>([&](auto p) {
      const __m512 scale = _mm512_mul_ps(lhs_scale, scale_[p]);
      const __m512 y =
          with_bias_and_relu<Avx512>(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + p * kTileSums)), scale),
                                     bias_[p], e.bias != nullptr, e.relu);
      if (block_.stream_dst) {
        _mm512_stream_ps(dst + p * kNr, y);
      } else {
        _mm512_storeu_ps(dst + p * kNr, y);
      }
    });
  }

  const GemmBlock& block_;
  const Pending& of_;
  const bool common_;
  __m512 scale_[kPanels], bias_[kPanels];
  int row_ = 0;
};

struct Signed {
  static constexpr bool kStreamed = true;
  template <int kSums, int kLhs, int kRhs>
  static void dot() {
    tile_dot<kSums, kLhs, kRhs>();
  }
};

// A multiplication, and what becomes of its sums.
struct Work {
  TileProduct product;
  Pending sums;
};

// Multiplies, and meanwhile finishes the sums that the multiplication before has left. Returns those it leaves itself.
template <int kRowTiles, int kPanels>
Pending multiply(const GemmBlock& block, const Work& work, const Pending& before, Prefetch (&prefetch)[2]) {
  const TileProduct& of = work.product;
  exchange_sums<kRowTiles * kPanels>(before.sums, of.initial);
  Leaving<kPanels> leaving(block, before);
  const std::int8_t *lhs = of.lhs, *rhs = of.rhs;
  const int rows_a_step = of.steps < 2 ? 0 : static_cast<int>((before.rows + of.steps - 2) / (of.steps - 1));
  for (std::int64_t s = 0; s < of.steps; ++s, lhs += kTileBytes, rhs += kTileBytes) {
    multiply_step<Signed, kRowTiles, kPanels>(lhs, rhs, of);
    if (s == 0) continue;  // the sums are still on their way to memory
    leaving.take_rows(rows_a_step);
    prefetch[0].step();
    prefetch[1].step();
  }
  leaving.take_rows(before.rows);
  return work.sums;
}

Pending multiply_any(const GemmBlock& block, const Work& work, const Pending& before, Prefetch (&prefetch)[2],
                     bool pair, std::int64_t panels) {
  Pending after{};
  if (pair) {
    with_constant<2>(panels, [&](auto p) { after = multiply<2, p>(block, work, before, prefetch); });
  } else {
    with_constant<4>(panels, [&](auto p) { after = multiply<1, p>(block, work, before, prefetch); });
  }
  return after;
}

// What the last multiplication left.
void take_last(const GemmBlock& block, const Pending& pending) {
  unrolled<kSumTiles>([&](auto i) { tile_store<i>(pending.sums + i * kTileSums); });
  take_others(block, pending, 0, pending.rows);
}

// A block in tiles.
struct Extent {
  std::int64_t panels, panel_bytes, steps, pairs;

  explicit Extent(const GemmBlock& block)
      : panels(panels_of(block.cols)),
        panel_bytes(lines_of(block.k) * kLineBytes),
        steps(steps_of(block.k)),
        pairs(pairs_of(block.rows)) {}
  std::int64_t row_tile_bytes() const { return steps * kTileBytes; }
};

// Lines of two panels' tiles to prefetch in each step, so that all are there when each pair of row tiles has come by.
std::int64_t lines_a_step(std::int64_t pairs) { return (2 * kTileLines + pairs - 1) / pairs; }

// Panels of a chunk, for more than one pair of row tiles.
std::int64_t chunk_panels(const GemmBlock& block, const Extent& extent) {
  const std::int64_t room = (kL2Bytes - kOtherBytes - tiled_lhs_bytes(block.rows, block.k)) / 3;
  const std::int64_t fitting = (room < kMostChunkBytes ? room : kMostChunkBytes) / extent.panel_bytes / 2 * 2;
  return fitting < 2 ? 2 : fitting > kMostChunkPanels ? kMostChunkPanels : fitting;
}

Pending gemm_whole(const GemmBlock& block) {
  const Extent extent(block);
  const bool one_tile = block.rows <= kTileRows, near = extent.panels * extent.panel_bytes <= kNearBytes;
  const std::int64_t chunk = one_tile ? 4 : extent.pairs == 1 ? 2 : chunk_panels(block, extent);
  Pending pending{.sums = block.scratch};
  for (std::int64_t c0 = 0; c0 < extent.panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < extent.panels ? c0 + chunk : extent.panels;
    const std::int64_t c2 = c1 + chunk < extent.panels ? c1 + chunk : extent.panels;
    Prefetch prefetch[2]{{.run = block.rhs + c1 * extent.panel_bytes,
                          .runs = one_tile || near || c1 == c2 ? 0 : 1,
                          .run_bytes = (c2 - c1) * extent.panel_bytes,
                          .lines_a_step = lines_a_step(extent.pairs)},
                         {}};
    for (std::int64_t m = 0; m < block.rows; m += kPairRows) {
      const std::int64_t rows = block.rows - m < kPairRows ? block.rows - m : kPairRows;
      const std::int64_t width = rows > kTileRows ? 2 : 4;  // panels at a time
      for (std::int64_t p = c0; p < c1; p += width) {
        const std::int64_t panels = c1 - p < width ? c1 - p : width;
        const Work work{
            .product = {.lhs = static_cast<const std::int8_t*>(block.lhs) + m / kTileRows * extent.row_tile_bytes(),
                        .row_tile_bytes = extent.row_tile_bytes(),
                        .rhs = block.rhs + p * extent.panel_bytes,
                        .panel_bytes = extent.panel_bytes,
                        .steps = extent.steps,
                        .near_bytes = one_tile ? kNearAheadBytes : 0,
                        .far_lhs = extent.steps > kNearSteps},
            .sums = {.sums = block.scratch,
                     .row0 = m,
                     .col0 = p * kNr,
                     .rows = static_cast<int>(rows),
                     .panels = static_cast<int>(panels)},
        };
        pending = multiply_any(block, work, pending, prefetch, width == 2, panels);
      }
    }
  }
  return pending;
}

// A stripe's panels over a piece of K.
struct Piece {
  std::int64_t panel0, panel1;
  std::int64_t step0, step1;
  std::int64_t steps() const { return step1 - step0; }
};

// The pieces of all stripes, one stripe after the other.
struct Pieces {
  const Extent& extent;
  std::int64_t size;  // steps

  explicit Pieces(const Extent& of) : extent(of) {
    const std::int64_t count = (of.steps + kPieceSteps - 1) / kPieceSteps;
    size = (of.steps + count - 1) / count;
  }
  Piece at(std::int64_t panel0, std::int64_t step0) const {
    const std::int64_t panel1 = panel0 + kStripePanels, step1 = step0 + size;
    return {panel0, panel1 < extent.panels ? panel1 : extent.panels, step0,
            step1 < extent.steps ? step1 : extent.steps};
  }
  bool is_last(const Piece& piece) const { return piece.step1 == extent.steps; }  // of its stripe
  // Without panels behind the last.
  Piece after(const Piece& piece) const { return is_last(piece) ? at(piece.panel1, 0) : at(piece.panel0, piece.step1); }
};

// One piece, for every pair of row tiles.
Pending multiply_piece(const GemmBlock& block, const Pieces& pieces, const Piece& piece, Pending pending) {
  const Extent& extent = pieces.extent;
  const Piece next = pieces.after(piece);
  const bool first = piece.step0 == 0, last = pieces.is_last(piece);
  const auto* const lhs = static_cast<const std::int8_t*>(block.lhs);
  // Two streams: the panels' next piece, and the rows of the next pair, of which the first ones follow the last.
  Prefetch prefetch[2]{{.run = block.rhs + next.panel0 * extent.panel_bytes + next.step0 * kTileBytes,
                        .runs = next.panel1 - next.panel0,
                        .run_bytes = next.steps() * kTileBytes,
                        .stride = extent.panel_bytes,
                        .lines_a_step = lines_a_step(extent.pairs)},
                       {}};
  for (std::int64_t m = 0; m < block.rows; m += kPairRows) {
    const std::int64_t left = block.rows - m, rows = left < kPairRows ? left : kPairRows;
    const bool more = left > kPairRows;
    const std::int8_t* const from = lhs + m / kTileRows * extent.row_tile_bytes();
    prefetch[1] = {
        .run = more ? from + 2 * extent.row_tile_bytes() + piece.step0 * kTileBytes : lhs + next.step0 * kTileBytes,
        .runs = more && left <= kPairRows + kTileRows ? 1 : 2,
        .run_bytes = (more ? piece : next).steps() * kTileBytes,
        .stride = extent.row_tile_bytes(),
        .lines_a_step = 2 * kTileLines * 2 / kStripePanels};
    const std::int64_t width = rows > kTileRows ? 2 : 4;
    for (std::int64_t p = piece.panel0; p < piece.panel1; p += width) {
      const std::int64_t panels = piece.panel1 - p < width ? piece.panel1 - p : width;
      std::int32_t* const so_far =
          block.scratch + kExchangeSums * (1 + (m / kPairRows * kStripePanels + p - piece.panel0) / 2);
      Work work{.product = {.lhs = from + piece.step0 * kTileBytes,
                            .row_tile_bytes = extent.row_tile_bytes(),
                            .rhs = block.rhs + p * extent.panel_bytes + piece.step0 * kTileBytes,
                            .panel_bytes = extent.panel_bytes,
                            .steps = piece.steps(),
                            .initial = first ? nullptr : so_far,
                            .far_lhs = true},
                .sums = {.sums = so_far}};
      if (last) {
        work.sums = {.sums = block.scratch,
                     .row0 = m,
                     .col0 = p * kNr,
                     .rows = static_cast<int>(rows),
                     .panels = static_cast<int>(panels)};
      }
      pending = multiply_any(block, work, pending, prefetch, width == 2, panels);
    }
  }
  return pending;
}

Pending gemm_in_pieces(const GemmBlock& block) {
  const Extent extent(block);
  const Pieces pieces(extent);
  Pending pending{.sums = block.scratch};
  for (Piece piece = pieces.at(0, 0); piece.panel0 < extent.panels; piece = pieces.after(piece)) {
    pending = multiply_piece(block, pieces, piece, pending);
  }
  return pending;
}

// kStripRows rows of a block from row0 on, or as many as are left.
GemmBlock strip_of(const GemmBlock& block, std::int64_t row0) {
  const std::int64_t dst_elem_bytes = block.epilogue.kind == DstKind::kByte ? 1 : 4;
  GemmBlock strip = block;
  strip.rows = block.rows - row0 < kStripRows ? block.rows - row0 : kStripRows;
  strip.lhs = static_cast<const std::int8_t*>(block.lhs) + row0 / kTileRows * row_tile_bytes(block.k);
  strip.dst = static_cast<char*>(block.dst) + row0 * block.dst_stride * dst_elem_bytes;
  Epilogue& e = strip.epilogue;
  if (e.lhs_scale != nullptr) e.lhs_scale += row0;
  if (e.lhs_zero_point != nullptr) e.lhs_zero_point += row0;
  if (e.lhs_sum != nullptr) e.lhs_sum += row0;
  return strip;
}

void gemm(const GemmBlock& block) {
  const Tiles tiles(tile_config(block.rows, kStepK));
  if (in_pieces(block.rows, block.k)) {
    for (std::int64_t row0 = 0; row0 < block.rows; row0 += kStripRows) {
      const GemmBlock strip = strip_of(block, row0);
      take_last(strip, gemm_in_pieces(strip));
    }
  } else {
    take_last(block, gemm_whole(block));
  }
  if (block.stream_dst) _mm_sfence();
}

}  // namespace

extern const GroupedKernel grouped_amxint8;
extern const Int4Kernel int4_amxint8;
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
    .quantize_lhs = quantize_tiled_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemm,
    .gemv_max_rows = kTileRows,
    .multiply_adds_per_us = 1.5e6,
    .int4 = &int4_amxint8,
    .grouped = &grouped_amxint8,
    .integer = &integer_avx512vnni,
    // Not measured on such a CPU, but from how many multiply-adds a cycle each instruction makes.
    .integer_costs = {12, 48, 144, 48, 600},
    // A tile multiplies 16 rows or 1 in the time that 4 take with VPDPBUSD, which reads large weights faster.
    .min_rows = 5,
    .min_rows_near = 3,
    .apart_rows = kTileRows,
    .long_rows = true,
};

}  // namespace octavo
