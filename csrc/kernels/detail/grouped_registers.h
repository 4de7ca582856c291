// The tile of grouped codes of one level where an instruction set has 32 registers: the sums of a group and the floats
// of the tile both stay there.
//
//       R x P sums of a group | R x P floats | P codes, then P scales | the lhs broadcast
//
// Offsets of groups, rows with zero points and two levels have the loops of grouped_frame.h, as have rows and panels
// that do not fill a tile.
#pragma once

#include <cstdint>

#include "kernels/detail/grouped_frame.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

// Of int16 activations the joined sums of longer groups would not fit int32.
inline bool fits_registers(const GroupedBlock& block) {
  const GroupedForm& form = block.form;
  return !form.two_level && block.offsets == nullptr && block.sums == nullptr &&
         !(block.activations.int16 && form.group_k > kSuperK);
}

// kEach: every group of codes is a group of activations. Then y = fma(acc, by, y) follows each, and acc, which starts
// from 0, is a product: what fma makes of it, up to the sign of a zero, which y does not keep.
template <class Isa, int R, int kParts, int kBits, bool kMinimum, bool kEach>
struct GroupedRegisters {
  using Int = typename Isa::Int;
  using Float = typename Isa::Float;
  static constexpr int P = Isa::kPanels, V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V, kRows = R * kParts;

  template <class Body>
  static void each(const Body& body) {
    unrolled<P>([&](auto p) { unrolled<V>([&](auto v) { unrolled<R>([&](auto r) { body(r, p, v); }); }); });
  }

  static Float sum_of(const Int (&sums)[kRows][P][V], int r, int p, int v) {
    if constexpr (kParts == 1) {
      return Isa::to_float(sums[r][p][v]);
    } else {
      return Isa::to_float(Isa::add(Isa::shift8(sums[2 * r][p][v]), sums[2 * r + 1][p][v]));
    }
  }

  static Float floats(bool half, const std::uint8_t* at, int v) {
    return half ? Isa::load_f16(reinterpret_cast<const std::uint16_t*>(at) + v * kLanes)
                : Isa::load_f32(reinterpret_cast<const float*>(at) + v * kLanes);
  }

  // Leaves in y the floats as GroupedFlush::finish takes them.
  [[gnu::flatten, gnu::noinline]] static void multiply(const GroupedBlock& block, const GroupedTile& its_tile,
                                                       const GroupedLhs& lhs, float* y) {
    const GroupedForm form = block.form;
    const GroupedTile tile = its_tile;
    const GroupedRows<kRows> rows(tile, lhs, kParts);
    const char *const sums_at = tile.lhs + lhs.sums_at, *const scales_at = tile.lhs + lhs.scale_at;
    const std::int64_t row_bytes = lhs.row_bytes, groups = lhs.groups, record_bytes = form.group_scale_at();
    const std::int64_t activation_k = block.activations.group_k;
    const std::int64_t run_groups = activation_k == 0 ? groups + 1 : activation_k / form.group_k;
    const auto y_at = [&](int r, int p, int v) { return y + (r * P + p) * kGroupedNr + v * kLanes; };
    Float acc[R][P][V];
    each([&](auto r, auto p, auto v) { acc[r][p][v] = Isa::zerof(); });
    const auto end_run = [&](std::int64_t run) {
      each([&](auto r, auto p, auto v) {
        const Float by = Isa::set1f(read_as<float>(scales_at + r * row_bytes, run));
        Isa::store(y_at(r, p, v), Isa::fma(acc[r][p][v], by, Isa::load_f32(y_at(r, p, v))), kLanes);
        acc[r][p][v] = Isa::zerof();
      });
    };
    const std::uint8_t* record = tile.records;
    std::int64_t left = run_groups, run = 0;
    for (std::int64_t group = 0; group < groups; ++group, record += record_bytes) {
      Int sums[kRows][P][V];
      sum_group<Isa, kBits>(form, tile, rows, group, group * form.group_k, sums);
      unrolled<P>([&](auto p) {
        const std::uint8_t* const at = record + p * tile.panel_record_bytes;
        unrolled<V>([&](auto v) {
          const Float scale = floats(form.half, at, v);
          Float minimum = Isa::zerof();
          if constexpr (kMinimum) minimum = floats(form.half, at + form.floats_bytes(), v);
          unrolled<R>([&](auto r) {
            const Float sum = sum_of(sums, r, p, v);
            Float part = kEach ? Isa::mul(sum, scale) : Isa::fma(sum, scale, acc[r][p][v]);
            if constexpr (kMinimum) {
              part = Isa::fma(Isa::set1f(read_as<float>(sums_at + r * row_bytes, group)), minimum, part);
            }
            if constexpr (kEach) {
              part = Isa::fma(part, Isa::set1f(read_as<float>(scales_at + r * row_bytes, group)), acc[r][p][v]);
            }
            acc[r][p][v] = part;
          });
        });
      });
      if (!kEach && --left == 0) {
        end_run(run++);
        left = run_groups;
      }
    }
    if (kEach || activation_k == 0) {
      each([&](auto r, auto p, auto v) { Isa::store(y_at(r, p, v), acc[r][p][v], kLanes); });
    } else if (left != run_groups) {  // the last run may be shorter
      end_run(run);
    }
  }
};

template <class Isa, int R, int kParts>
void multiply_in_registers(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs) {
  alignas(64) float y[R * Isa::kPanels * kGroupedNr] = {};
  const auto run = [&](auto bits, auto minimum) {
    if constexpr (kParts == 1) {
      if (block.activations.group_k == block.form.group_k) {
        return GroupedRegisters<Isa, R, kParts, bits, minimum != 0, true>::multiply(block, tile, lhs, y);
      }
    }
    GroupedRegisters<Isa, R, kParts, bits, minimum != 0, false>::multiply(block, tile, lhs, y);
  };
  if (block.form.bits == 4) {
    block.form.has_minimum ? run(Index<4>{}, Index<1>{}) : run(Index<4>{}, Index<0>{});
  } else {
    block.form.has_minimum ? run(Index<8>{}, Index<1>{}) : run(Index<8>{}, Index<0>{});
  }
  GroupedFlush<Isa, R, Isa::kPanels, kParts>{block, tile, lhs, y}.finish();
}

// As many rows as a tile has, or all that are left; returns how many. The rows that a last tile lacks are the ones
// before it, computed once more: that takes less than tiles of one row.
template <class Isa, int kParts>
std::int64_t multiply_tile_in_registers(std::int64_t left, std::int64_t panels, const GroupedBlock& block,
                                        GroupedTile tile, const GroupedLhs& lhs) {
  constexpr std::int64_t kRows = Isa::kMr / kParts;
  const std::int64_t rows = left < kRows ? left : kRows;
  const auto move = [&](std::int64_t by) {
    tile.lhs += by * lhs.row_bytes;
    tile.row0 += by;
  };
  if (panels < Isa::kPanels) {
    for (std::int64_t done = 0, some = 0; done < rows; done += some, move(some)) {
      some = multiply_tile<Isa, kParts>(rows - done, panels, block, tile);
    }
  } else {
    move(rows - kRows);
    multiply_in_registers<Isa, kRows, kParts>(block, tile, lhs);
  }
  return rows;
}

template <class Isa>
void gemm_in_registers(const GroupedBlock& block) {
  if (!fits_registers(block) || block.rows * block.activations.parts() < Isa::kMr) return gemm_grouped<Isa>(block);
  const GroupedLhs lhs(block.form, block.activations);
  for_each_tile<Isa::kPanels>(
      block, lhs, Isa::kAheadBytes, [&](std::int64_t rows, std::int64_t panels, const GroupedTile& tile) {
        return block.activations.int16 ? multiply_tile_in_registers<Isa, 2>(rows, panels, block, tile, lhs)
                                       : multiply_tile_in_registers<Isa, 1>(rows, panels, block, tile, lhs);
      });
}

// What the object of a kernel with such tiles defines.
template <class Isa>
constexpr GroupedKernel registers_kernel(double multiply_adds_per_us) {
  GroupedKernel kernel = grouped_kernel<Isa>(multiply_adds_per_us);
  kernel.gemm = gemm_in_registers<Isa>;
  return kernel;
}

}  // namespace
}  // namespace octavo
