// AMX-INT8, grouped codes: TDPBSUD, which multiplies signed bytes of the lhs by unsigned bytes of the rhs.
//
//       lhs tile        up to 64 k of a group, of 16 rows, packed as for avx512vnni
//       rhs tile        their lines of a panel, as they lie where codes are bytes; others are made bytes, some panels
//                       at a time
//       sums            16 rows of 16 columns of a group
//
// Where all codes count from one offset, TDPBSSD multiplies the lhs by a tile of it, with its sign changed, into the
// same sums: the vector units have no time left for it.
//
// Sums leave the tiles where a group ends, and while the next group is multiplied, what they give the floats is added:
// those of 16 rows by a panel stay in registers. Offsets of groups, rows with zero points and two levels have the loops
// of grouped_flush.h, some groups at a time. Fewer rows than a tile has, int16 activations, and groups so long that a
// tile waits for itself are avx512vnni's. docs/kernels.md counts what bounds it; it has not run on hardware.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#if defined(OCTAVO_EMULATED)
#include "amx_model.h"
#else
#include "kernels/detail/x86_amx.h"
#endif
#include "kernels/detail/grouped_registers.h"
#include "kernels/detail/x86_amx_steps.h"
#include "kernels/detail/x86_grouped_avx512.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/grouped.h"

namespace octavo {

extern const GroupedKernel grouped_avx512vnni;

namespace {

struct AmxGrouped : GroupedVectors {
  static constexpr int kTallestTile = 0;
  static constexpr bool kWidensNibbles = true;
};

constexpr int kOffsetTile = kRhsTile + 1;

// The products of groups with one tile of rows.
class GroupTiles {
 public:
  GroupTiles(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs, bool subtract)
      : q_(tile.lhs),
        row_bytes_(lhs.row_bytes),
        lines_(tile.lines),
        ahead_(tile.ahead),
        group_k_(block.form.group_k),
        subtract_(subtract) {}

  [[gnu::always_inline]] void multiply(std::int64_t group, std::int32_t* sums) const {
    group % 2 == 0 ? multiply_into<0>(group, sums) : multiply_into<1>(group, sums);
  }

 private:
  template <int kSums>
  [[gnu::always_inline]] void multiply_into(std::int64_t group, std::int32_t* sums) const {
    tile_zero<kSums>();
    const std::int64_t end = (group + 1) * group_k_;
    for (std::int64_t k = group * group_k_; k < end; k += kStepK) {
      const std::uint8_t* const lines = lines_ + k * kGroupedNr;
      for (std::int64_t i = 0; i < kTileLines && ahead_ != 0; ++i) {
        prefetch_to_l2(lines + i * kGroupedLineBytes + ahead_);
      }
      tile_load<kRhsTile>(lines);
      tile_load_apart<kLhsTile>(q_ + k, row_bytes_);
      tile_dot_unsigned<kSums, kLhsTile, kRhsTile>();
      if (subtract_) tile_dot<kSums, kLhsTile, kOffsetTile>();
    }
    tile_store<kSums>(sums);
  }

  const char* const q_;
  const std::int64_t row_bytes_;
  const std::uint8_t* const lines_;
  const std::int64_t ahead_, group_k_;
  const bool subtract_;
};

// A block of at least a tile of rows, whose codes are bytes.
class Gemm {
 public:
  explicit Gemm(const GroupedBlock& block)
      : block_(block),
        lhs_(block.form, block.activations),
        one_offset_(block.offsets == nullptr && block.form.offset != 0),
        in_registers_(fits_registers(block) && !block.form.two_level) {}

  void run() const {
    const std::int64_t group_k = block_.form.group_k;
    const Tiles tiles(tile_config(kTileRows, static_cast<int>(group_k < kStepK ? group_k : kStepK)));
    alignas(kTileRowBytes) std::int8_t offsets[kTileBytes];
    std::memset(offsets, -block_.form.offset, sizeof offsets);
    tile_load<kOffsetTile>(offsets);
    const bool widened = block_.rhs == block_.scratch;  // and so in L2
    for_each_tile<1>(block_, lhs_, widened ? 0 : kAheadBytes,
                     [&](std::int64_t left, std::int64_t, GroupedTile tile) -> std::int64_t {
                       if (left >= kTileRows) {
                         multiply(tile);
                         return kTileRows;
                       }
                       tile.lhs -= (kTileRows - left) *
                                   lhs_.row_bytes;  // what a last tile lacks are the rows before it, once more
                       tile.row0 -= kTileRows - left;
                       multiply(tile);
                       return left;
                     });
  }

 private:
  static constexpr int kSums = kTileRows * static_cast<int>(kGroupedNr), kHalfRows = kTileRows / 2;
  using HalfFlush = GroupedFlush<AmxGrouped, kHalfRows, 1, 1, kTileRows>;

  void multiply(const GroupedTile& tile) const {
    alignas(64) float y[kSums] = {};
    if (!in_registers_) {
      add_pieces(tile, y);
    } else if (block_.activations.group_k == block_.form.group_k) {
      block_.form.has_minimum ? add_groups<true, true>(tile, y) : add_groups<false, true>(tile, y);
    } else {
      block_.form.has_minimum ? add_groups<true, false>(tile, y) : add_groups<false, false>(tile, y);
    }
    for_each_half(tile, y, [](const HalfFlush& flush, std::int64_t) { flush.finish(); });
  }

  template <bool kMinimum, bool kEach>
  [[gnu::flatten, gnu::noinline]] void add_groups(const GroupedTile& tile, float* y) const {
    const GroupTiles tiles(block_, tile, lhs_, one_offset_);
    RegisterFloats<AmxGrouped, kTileRows, 1, 1, kMinimum, kEach> floats(block_, tile, lhs_, y);
    alignas(64) std::int32_t sums[2][kSums];
    const std::int64_t groups = lhs_.groups;
    tiles.multiply(0, sums[0]);
    for (std::int64_t group = 0; group < groups; ++group) {
      if (group + 1 < groups) tiles.multiply(group + 1, sums[(group + 1) % 2]);
      const std::int32_t* const from = sums[group % 2];
      floats.add(group, [&](int r, int, int) { return AmxGrouped::load32(from + r * kGroupedNr); });
    }
    floats.finish();
  }

  void add_pieces(const GroupedTile& tile, float* y) const {
    const GroupedForm& form = block_.form;
    // Rows with zero points start their sums with more than their offset.
    const bool subtract = one_offset_ && block_.sums == nullptr, starts = one_offset_ && !subtract;
    const GroupTiles tiles(block_, tile, lhs_, subtract);
    alignas(64) std::int32_t sums[kPieceGroups * kSums];
    const std::int64_t step = piece_k(form), end = lhs_.groups * form.group_k;
    for (std::int64_t k0 = 0; k0 < end; k0 += step) {
      const std::int64_t k1 = k0 + step < end ? k0 + step : end;
      std::int32_t* to = sums;
      for (std::int64_t group = k0 / form.group_k; group * form.group_k < k1; ++group, to += kSums) {
        tiles.multiply(group, to);
        if (starts) add_starts(tile, group, to);
      }
      for_each_half(
          tile, y, [&](const HalfFlush& flush, std::int64_t row) { flush.add_piece(k0, k1, sums + row * kGroupedNr); });
    }
  }

  void add_starts(const GroupedTile& tile, std::int64_t group, std::int32_t* sums) const {
    for (int r = 0; r < kTileRows; ++r, sums += kGroupedNr) {
      const char* const starts = tile.lhs + r * lhs_.row_bytes + lhs_.starts_at;
      const __m512i start = AmxGrouped::set1(read_as<std::int32_t>(starts, group));
      AmxGrouped::store32(sums, AmxGrouped::add(AmxGrouped::load32(sums), start));
    }
  }

  // body(flush, its first row): of 8 rows, which take half the code of 16.
  template <class Body>
  void for_each_half(const GroupedTile& tile, float* y, const Body& body) const {
    for (std::int64_t row = 0; row < kTileRows; row += kHalfRows) {
      GroupedTile half = tile;
      half.lhs += row * lhs_.row_bytes;
      half.row0 += row;
      body(HalfFlush{block_, half, lhs_, y + row * kGroupedNr}, row);
    }
  }

  const GroupedBlock& block_;
  const GroupedLhs lhs_;
  const bool one_offset_, in_registers_;
};

void multiply_bytes(const GroupedBlock& block) { Gemm(block).run(); }

void gemm_grouped_tiles(const GroupedBlock& block) {
  if (block.rows < kTileRows || block.activations.int16 || block.form.group_k > kSuperK) {
    return grouped_avx512vnni.gemm(block);
  }
  gemm_of_bytes<AmxGrouped, multiply_bytes>(block);
}

std::int64_t lhs_bytes(std::int64_t rows, const GroupedForm& form, const GroupedActivations& activations) {
  return grouped_avx512vnni.lhs_bytes(rows, form, activations);
}

void quantize_lhs(const QuantizeGroupedLhs& task) { grouped_avx512vnni.quantize_lhs(task); }

}  // namespace

extern const GroupedKernel grouped_amxint8;
constexpr GroupedKernel grouped_amxint8 = {
    .mr = kTileRows,
    .multiply_adds_per_us = 3e5,
    .lhs_bytes = lhs_bytes,
    .scratch_bytes = grouped_scratch_bytes<AmxGrouped>,
    .quantize_lhs = quantize_lhs,
    .gemm = gemm_grouped_tiles,
    .min_rows = kTileRows,
    .for_int16 = false,
};

}  // namespace octavo
