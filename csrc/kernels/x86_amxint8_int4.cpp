// AMX-INT8, four-bit weights: TDPBSUD, which multiplies signed bytes of the lhs by unsigned bytes of the rhs, on tiles
// as detail/x86_amx_steps.h has them. Nibbles u = w + 8 (or w + 8 + zero point) stay unsigned; what is too much in the
// sums, the offset times the sum of the row over the group, is subtracted where a group ends.
//
//   for each chunk of panels                  unpacked once, to lines like those of int8 panels, in L2
//     for each pair of row tiles
//       for each 2 panels of the chunk
//         for each group of k                 while its tiles are multiplied, the group before it is finished:
//           multiply                          y += float(sums - offset * row sum) * scale, in L1
//
// Sums are int32, at most 15 * 128 a product. Groups of an odd number of halves (32, 96, ... k) take steps of 32 k,
// with tiles of half the depth, because a step must not reach into the next group.
//
// Where even two unpacked panels are too large, K is cut into pieces, and y of all rows is kept; a group that goes on
// in the next piece goes on from its sums.
//
// Packed lhs: tiles (detail/x86_amx_lhs.h), then for each row and group -f * (sum of the group's q), f as in
// detail/x86_int4.h: the offset if it is the same for all weights, else 1.
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
#include "kernels/detail/x86_int4_columns.h"
#include "kernels/detail/x86_load_once.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/int4.h"

namespace octavo {

extern const Kernel kernel_amxint8;

namespace {

constexpr int kWidth = 2;                             // panels at a time: for up to 16 rows 2 were faster than 4
constexpr std::int64_t kHalfBytes = kInt4Half * kNr;  // of a panel, unpacked; of a chunk, packed
static_assert(kStepK == kInt4Chunk && 2 * kHalfBytes == kTileBytes);

// Room for unpacked panels, in L2, and the most that are unpacked at a time.
constexpr std::int64_t kPlainBytes = 600 << 10, kMostChunkPanels = 16;

// Of a pair of row tiles by kWidth panels: int32 sums, or y.
constexpr std::int64_t kPairBytes = kSumTiles * kTileBytes;

std::int64_t pairs_of(std::int64_t rows) { return (rows + kPairRows - 1) / kPairRows; }

struct TiledLhs {
  std::int64_t tile_bytes, groups;

  TiledLhs(std::int64_t rows, const Int4Groups& g) : tile_bytes(tiled_lhs_bytes(rows, g.k)), groups(g.count()) {}
  std::int64_t bytes(std::int64_t rows) const {
    return tile_bytes + rows * groups * static_cast<std::int64_t>(sizeof(std::int32_t));
  }
  std::int32_t* starts(const void* lhs) const {
    return reinterpret_cast<std::int32_t*>(static_cast<std::int8_t*>(const_cast<void*>(lhs)) + tile_bytes);
  }
};

std::int64_t lhs_bytes_int4(std::int64_t rows, const Int4Groups& groups) { return TiledLhs(rows, groups).bytes(rows); }

// The sum of 32 signed bytes, as unsigned ones of 128 more.
std::int32_t sum_of_32(const std::int8_t* q) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
  const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m128i twos = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
  return _mm_cvtsi128_si32(_mm_add_epi64(twos, _mm_unpackhi_epi64(twos, twos))) - 32 * 128;
}

void quantize_lhs_int4(const QuantizeLhs& task, const Int4Groups& groups) {
  kernel_amxint8.quantize_lhs(task);
  const std::int32_t factor = groups.has_offsets ? 1 : kInt4Offset;
  const std::int64_t halves = groups.halves(), size = groups.halves_per_group();
  std::int32_t* start = TiledLhs(task.rows, groups).starts(task.dst);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::int8_t* q = packed_row(task.dst, m, task.k);
    for (std::int64_t half = 0, end = size; half < halves; end += size) {
      std::int32_t sum = 0;
      for (; half < end && half < halves; ++half) sum += sum_of_32(q + half / 2 * kTileBytes + half % 2 * kInt4Half);
      *start++ = -factor * sum;
    }
  }
}

std::int64_t scratch_bytes_int4(std::int64_t rows) { return kPairBytes * (1 + 2 * pairs_of(rows)) + kPlainBytes; }

// What is the same for a whole block.
struct Context {
  const Int4Block& block;
  const Int4Groups& groups;
  TiledLhs lhs;
  const std::int32_t* starts;
  std::int64_t step_halves;  // of 32 k

  explicit Context(const Int4Block& of)
      : block(of),
        groups(of.groups),
        lhs(of.rows, groups),
        starts(lhs.starts(of.lhs)),
        step_halves(lhs.groups > 1 && groups.halves_per_group() % 2 != 0 ? 1 : 2) {}
};

// What a multiplication leaves in the tiles: one group of some rows by some panels, or, without rows, a group that goes
// on.
struct Pending {
  std::int32_t* sums;  // where they are to be stored
  float* y = nullptr;  // [row][kWidth panels][16]
  std::int64_t row0 = 0, panel = 0, group = 0;
  int rows = 0, panels = 0;
};

// Pending sums that have left the tiles: a group is added to y a few rows at a time. The last one's rows are finished.
template <int kPanels>
class Leaving {
 public:
  Leaving(const Context& context, const Pending& of) : context_(context), of_(of) {
    if (of.rows == 0) return;
    const Int4Block& block = context.block;
    unrolled<kPanels>([&](auto p) {
      const Int4Columns<Avx512> columns{block, ((of.panel + p) * context.lhs.groups + of.group) * kNr};
      scale_[p] = columns.scale();
      if (block.offset != nullptr) offset_[p] = columns.offset();
      if (block.column_sums != nullptr) column_sum_[p] = columns.sum();
    });
  }

  [[gnu::always_inline]] void take_rows(int count) {
    const int end = row_ + count < of_.rows ? row_ + count : of_.rows;
    for (; row_ < end; ++row_) take_row();
  }

 private:
  [[gnu::always_inline]] void take_row() const {
    const Int4Block& block = context_.block;
    const std::int64_t m = of_.row0 + row_;
    const std::int32_t* sums = of_.sums + row_ / kTileRows * kPanels * kTileSums + row_ % kTileRows * kNr;
    const __m512i start = _mm512_set1_epi32(context_.starts[m * context_.lhs.groups + of_.group]);
    float* const y = of_.y + row_ * kWidth * kNr;
    unrolled<kPanels>([&](auto p) {
      __m512i sum = Avx512::load(sums + p * kTileSums);
      sum = Avx512::add(sum, block.offset != nullptr ? Avx512::multiply(start, offset_[p]) : start);
      if (block.column_sums != nullptr) {
        sum = Avx512::sub(sum, Avx512::multiply(Avx512::broadcast(block.lhs_zero_point[m]), column_sum_[p]));
      }
      const __m512 f = Avx512::multiply(Avx512::to_floats(sum), scale_[p]);
      const __m512 total = Avx512::add(of_.group == 0 ? Avx512::zero_floats() : Avx512::load_floats(y + p * kNr), f);
      if (of_.group + 1 < context_.lhs.groups) {
        Avx512::store(y + p * kNr, total);
      } else {
        finish(m, (of_.panel + p) * kNr, total);
      }
    });
  }

  [[gnu::always_inline]] void finish(std::int64_t m, std::int64_t col, __m512 y) const {
    const Int4Block& block = context_.block;
    const bool has_bias = block.bias != nullptr;
    const __m512 bias = has_bias ? Avx512::load_floats(block.bias + col) : Avx512::zero_floats();
    const __m512 scaled = Avx512::multiply(y, Avx512::broadcast(block.lhs_scale[m]));
    const __m512 line[1] = {with_bias_and_relu<Avx512>(scaled, bias, has_bias, block.relu)};
    Avx512::store_floats(block.dst + m * block.dst_stride + col, block.cols - col, line);
  }

  const Context& context_;
  const Pending& of_;
  __m512 scale_[kPanels];
  __m512i offset_[kPanels], column_sum_[kPanels];
  int row_ = 0;
};

[[gnu::noinline]] void take_all(const Context& context, const Pending& pending) {
  with_constant<kWidth>(pending.panels, [&](auto p) { Leaving<p>(context, pending).take_rows(pending.rows); });
}

struct Unsigned {
  static constexpr bool kStreamed = false;  // it is in scratch
  template <int kSums, int kLhs, int kRhs>
  static void dot() {
    tile_dot_unsigned<kSums, kLhs, kRhs>();
  }
};

// Consecutive steps within a group, and what becomes of their sums. Steps of 32 k take turns in the halves of a row.
struct Work {
  TileProduct product;
  std::int64_t lhs_ahead, lhs_turn;  // to the next step; both distances of two steps together
  std::int64_t rhs_ahead;
  Pending sums;
};

// Multiplies, and meanwhile takes the group before. Returns what it leaves itself.
template <int kRowTiles, int kPanels>
Pending multiply(const Context& context, const Work& work, const Pending& before) {
  const TileProduct& of = work.product;
  exchange_sums<kRowTiles * kPanels>(before.sums, of.initial);
  const std::int8_t *lhs = of.lhs, *rhs = of.rhs;
  std::int64_t lhs_ahead = work.lhs_ahead;
  const bool same_panels = before.panels == kPanels;
  if (!same_panels) take_all(context, before);
  const Pending none{.sums = before.sums};
  Leaving<kPanels> leaving(context, same_panels ? before : none);
  const int rows_a_step = static_cast<int>((before.rows + of.steps - 1) / of.steps);
  for (std::int64_t s = 0; s < of.steps; ++s) {
    multiply_step<Unsigned, kRowTiles, kPanels>(lhs, rhs, of);
    leaving.take_rows(rows_a_step);
    lhs += lhs_ahead;
    lhs_ahead = work.lhs_turn - lhs_ahead;
    rhs += work.rhs_ahead;
  }
  return work.sums;
}

// Some panels over a piece of K, unpacked.
struct Plain {
  std::int64_t panel0, panel1;
  std::int64_t half0, half1;  // from an even one on
  std::uint8_t* lines;

  std::int64_t panel_bytes() const { return (half1 - half0 + 1) / 2 * kTileBytes; }
};

void unpack(const Int4Block& block, const Plain& plain) {
  const std::int64_t chunks = (plain.half1 - plain.half0 + 1) / 2, panel_bytes = block.groups.chunks() * kHalfBytes;
  const __m512i mask = _mm512_set1_epi8(15);
  std::uint8_t* dst = plain.lines;
  for (std::int64_t panel = plain.panel0; panel < plain.panel1; ++panel) {
    const std::uint8_t* src = block.rhs + panel * panel_bytes + plain.half0 / 2 * kHalfBytes;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk, dst += kHalfBytes) {
      for (std::int64_t i = 0; i < kHalfBytes; i += kLineBytes, src += kLineBytes, dst += kLineBytes) {
        _mm_prefetch(reinterpret_cast<const char*>(src + kAheadBytes), _MM_HINT_T0);
        const __m512i both = load_once(src);
        _mm512_store_si512(dst, _mm512_and_si512(both, mask));
        _mm512_store_si512(dst + kHalfBytes, _mm512_and_si512(_mm512_srli_epi16(both, 4), mask));
      }
    }
  }
}

class Gemm {
 public:
  explicit Gemm(const Int4Block& block)
      : context_(block),
        panels_(panels_of(block.cols)),
        halves_(block.groups.halves()),
        exchange_(static_cast<std::int32_t*>(block.scratch)),
        y_(static_cast<float*>(block.scratch) + kPairElems),
        carried_(exchange_ + kPairElems * (1 + pairs_of(block.rows))),
        plain_(reinterpret_cast<std::uint8_t*>(carried_ + kPairElems * pairs_of(block.rows))) {}

  void run() const {
    const Int4Block& block = context_.block;
    const Tiles tiles(tile_config(block.rows, static_cast<int>(context_.step_halves * kInt4Half)));
    constexpr std::int64_t kMostHalves = kPlainBytes / (kWidth * kHalfBytes) / 2 * 2;
    const std::int64_t piece = halves_ < kMostHalves ? halves_ : kMostHalves;
    const std::int64_t fitting = kPlainBytes / (block.groups.chunks() * kTileBytes) / kWidth * kWidth;
    const std::int64_t chunk = fitting < kWidth ? kWidth : fitting > kMostChunkPanels ? kMostChunkPanels : fitting;
    Pending pending{.sums = exchange_};
    for (std::int64_t c0 = 0; c0 < panels_; c0 += chunk) {
      for (std::int64_t half = 0; half < halves_; half += piece) {
        const Plain plain{c0, c0 + chunk < panels_ ? c0 + chunk : panels_, half,
                          half + piece < halves_ ? half + piece : halves_, plain_};
        unpack(block, plain);
        for (std::int64_t m = 0; m < block.rows; m += kPairRows) {
          for (std::int64_t p = c0; p < plain.panel1; p += kWidth) pending = multiply_groups(plain, m, p, pending);
        }
      }
    }
    unrolled<kSumTiles>([&](auto i) { tile_store<i>(pending.sums + i * kTileSums); });
    take_all(context_, pending);
  }

 private:
  static constexpr std::int64_t kPairElems = kPairBytes / static_cast<std::int64_t>(sizeof(float));

  // A pair of row tiles by kWidth panels, or fewer, over the groups of a piece.
  Pending multiply_groups(const Plain& plain, std::int64_t m, std::int64_t panel, Pending pending) const {
    const Int4Block& block = context_.block;
    const std::int64_t left = block.rows - m, rows = left < kPairRows ? left : kPairRows;
    const std::int64_t panels = plain.panel1 - panel < kWidth ? plain.panel1 - panel : kWidth;
    const std::int64_t size = block.groups.halves_per_group(), step_halves = context_.step_halves;
    // Rows wait for the next piece each at their own place. Where there is one piece, all use the same.
    const bool whole = plain.half0 == 0 && plain.half1 == halves_;
    const std::int64_t place = whole ? 0 : m / kPairRows * kPairElems;
    const auto* const lhs = static_cast<const std::int8_t*>(block.lhs) + m / kTileRows * row_tile_bytes(block.groups.k);
    const auto* const rhs =
        reinterpret_cast<const std::int8_t*>(plain.lines) + (panel - plain.panel0) * plain.panel_bytes();
    std::int64_t group = plain.half0 / size;
    for (std::int64_t half = plain.half0; half < plain.half1; ++group) {
      const std::int64_t begin = group * size, whole_end = begin + size;
      const std::int64_t group_end = whole_end < halves_ ? whole_end : halves_;
      const std::int64_t end = group_end < plain.half1 ? group_end : plain.half1;
      const bool ends = end == group_end;
      const std::int64_t lhs_turn = step_halves == 1 ? kTileBytes : 2 * kTileBytes;
      const std::int64_t in_row = half % 2 * kInt4Half;
      Work work{.product = {.lhs = lhs + half / 2 * kTileBytes + in_row,
                            .row_tile_bytes = row_tile_bytes(block.groups.k),
                            .rhs = rhs + (half - plain.half0) * kHalfBytes,
                            .panel_bytes = plain.panel_bytes(),
                            .steps = (end - half + step_halves - 1) / step_halves,
                            .initial = half == begin ? nullptr : carried_ + place,
                            .far_lhs = block.groups.chunks() > kNearSteps},
                .lhs_ahead = step_halves == 2 ? kTileBytes
                             : in_row == 0    ? kInt4Half
                                              : kTileBytes - kInt4Half,
                .lhs_turn = lhs_turn,
                .rhs_ahead = step_halves * kHalfBytes,
                .sums = {.sums = carried_ + place}};
      if (ends) {
        work.sums = {.sums = exchange_,
                     .y = y_ + place,
                     .row0 = m,
                     .panel = panel,
                     .group = group,
                     .rows = static_cast<int>(rows),
                     .panels = static_cast<int>(panels)};
      }
      with_constant<kWidth>(panels, [&](auto p) {
        pending = rows > kTileRows ? multiply<2, p>(context_, work, pending) : multiply<1, p>(context_, work, pending);
      });
      half = end;
    }
    return pending;
  }

  const Context context_;
  const std::int64_t panels_, halves_;
  std::int32_t* const exchange_;
  float* const y_;
  std::int32_t* const carried_;
  std::uint8_t* const plain_;
};

void gemm_int4(const Int4Block& block) { Gemm(block).run(); }

}  // namespace

extern const Int4Kernel int4_amxint8;
constexpr Int4Kernel int4_amxint8 = {
    .mr = kPairRows,
    .lhs_bytes = lhs_bytes_int4,
    .scratch_bytes = scratch_bytes_int4,
    .quantize_lhs = quantize_lhs_int4,
    .gemm = gemm_int4,
    .gemv = gemm_int4,
    .gemv_max_rows = kTileRows,
    .multiply_adds_per_us = 4.5e5,
    .min_rows = 16,
};

}  // namespace octavo
