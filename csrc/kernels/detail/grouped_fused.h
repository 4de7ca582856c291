// The tile of grouped codes in their common forms: one level, groups of 32 k and its multiples, one offset for all
// codes or minima. A group's sums go from registers to floats at once, without the buffer of grouped_frame.h, and
// nothing of the form is asked for in the loop. What differs is
//
//   Isa::kFusedRows                                                     rows of a tile of int8; half of it of int16
//   Isa::group_sums<kBits, kStarts>(sums, rows, group, size, panel)     the sums of a group
//
// where kStarts has them start with the rows' own starting sums. The floats of a tile are in memory: the sums need the
// registers.
#pragma once

#include <cstdint>

#include "kernels/detail/grouped_frame.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

// Of int16 activations the joined sums of longer groups would not fit int32.
inline bool is_fused(const GroupedBlock& block, std::uint32_t byte_bias) {
  const GroupedForm& form = block.form;
  const bool starts = form.offset != 0 || (byte_bias != 0 && form.bits != 4);
  return !form.two_level && form.group_k % 32 == 0 && block.offsets == nullptr && block.sums == nullptr &&
         !(form.has_minimum && starts) && !(block.activations.int16 && form.group_k > kSuperK);
}

// An address that need not lie in the same array.
inline const std::uint8_t* at_distance(const std::uint8_t* from, std::int64_t bytes) {
  return reinterpret_cast<const std::uint8_t*>(reinterpret_cast<std::intptr_t>(from) + bytes);
}

template <class Isa, int R, int kParts, int kBits, bool kMinimum>
struct GroupedFused {
  using Int = typename Isa::Int;
  using Float = typename Isa::Float;
  static constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V, kRows = R * kParts;

  // What a flush reads of the rows, and the floats of the tile.
  struct Floats {
    const char *sums, *scales;  // of the first row
    std::int64_t row_bytes;
    float *acc, *y;  // R x 16 each: of a group of activations, and of those before it, scaled
  };

  // kLast: the group of codes ends a group of activations; kFirst: it begins it, too, and does without acc. A group of
  // activations of several finds zeros in acc and leaves zeros.
  template <bool kFirst, bool kLast>
  static void flush(const Int (&sums)[kRows][V], const Float (&scale)[V], const Float (&minimum)[V], std::int64_t group,
                    std::int64_t run, const Floats& floats) {
    unrolled<R>([&](auto r) {
      Float total = Isa::zerof(), by = Isa::zerof();
      if constexpr (kMinimum) total = Isa::set1f(read_as<float>(floats.sums + r * floats.row_bytes, group));
      if constexpr (kLast) by = Isa::set1f(read_as<float>(floats.scales + r * floats.row_bytes, run));
      unrolled<V>([&](auto v) {
        Float sum, acc = Isa::zerof();
        if constexpr (kParts == 1) {
          sum = Isa::to_float(sums[r][v]);
        } else {
          sum = Isa::to_float(Isa::add(Isa::shift8(sums[2 * r][v]), sums[2 * r + 1][v]));
        }
        float* const place = floats.acc + r * kGroupedNr + v * kLanes;
        float* const scaled = floats.y + r * kGroupedNr + v * kLanes;
        if constexpr (!kFirst) acc = Isa::load_f32(place);
        acc = Isa::fma(sum, scale[v], acc);
        if constexpr (kMinimum) acc = Isa::fma(total, minimum[v], acc);
        if constexpr (kLast) Isa::store(scaled, Isa::fma(acc, by, Isa::load_f32(scaled)), kLanes);
        if constexpr (!kFirst) Isa::store(place, kLast ? Isa::zerof() : acc, kLanes);
      });
    });
  }

  [[gnu::flatten, gnu::noinline]] static void multiply(const GroupedBlock& block, const GroupedTile& tile,
                                                       const GroupedLhs& lhs, const Floats& floats_of_tile) {
    const GroupedRows<kRows> rows(tile, lhs, kParts);
    const Floats floats = floats_of_tile;
    const std::int64_t size = block.form.group_k, groups = lhs.groups, minima_at = block.form.floats_bytes();
    const std::int64_t record_bytes = block.form.group_scale_at();
    const bool half = block.form.half, in_planes = block.form.in_planes();
    // Rows of one scale have a run that never ends: they are scaled when all is added.
    const bool by_row = block.activations.group_k == 0;
    const std::int64_t run_groups = by_row ? groups + 1 : block.activations.group_k / size;
    const std::int64_t last_group = by_row ? -1 : groups - 1;  // the last run may be shorter
    const std::uint8_t *record = tile.records, *lines = tile.lines;
    std::int64_t run = 0, left = run_groups;
    const std::int64_t piece = piece_k(block.form) / size;  // groups of codes in planes that are made bytes at a time
    for (std::int64_t group = 0; group < groups; ++group, record += record_bytes) {
      if (in_planes && group % piece == 0) {
        const std::int64_t k0 = group * size, k1 = (group + piece < groups ? group + piece : groups) * size;
        widen<Isa>(block.form, tile.lines, 1, k0, k1, block.scratch, 0);
        lines = at_distance(block.scratch, -k0 * kGroupedNr);  // where the panel's first line would stand
      }
      Int sums[kRows][V];
      Isa::template group_sums<kBits, !kMinimum>(sums, rows, group, size, lines);
      Float scale[V], minimum[V];
      const auto load = [&](Float(&to)[V], const std::uint8_t* at) {
        if (half) {
          unrolled<V>([&](auto v) { to[v] = Isa::load_f16(reinterpret_cast<const std::uint16_t*>(at) + v * kLanes); });
        } else {
          unrolled<V>([&](auto v) { to[v] = Isa::load_f32(reinterpret_cast<const float*>(at) + v * kLanes); });
        }
      };
      load(scale, record);
      if constexpr (kMinimum) load(minimum, record + minima_at);
      const bool first = left == run_groups, last = --left == 0 || group == last_group;
      if (first && last) {
        flush<true, true>(sums, scale, minimum, group, run, floats);
      } else if (last) {
        flush<false, true>(sums, scale, minimum, group, run, floats);
      } else {
        flush<false, false>(sums, scale, minimum, group, run, floats);
      }
      if (last) {
        left = run_groups;
        ++run;
      }
    }
  }
};

template <class Isa, int R, int kParts>
void multiply_fused(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs) {
  alignas(64) float acc[R * kGroupedNr] = {}, y[R * kGroupedNr] = {};
  const auto run = [&](auto bits, auto minimum) {
    GroupedFused<Isa, R, kParts, bits, minimum != 0>::multiply(
        block, tile, lhs, {tile.lhs + lhs.sums_at, tile.lhs + lhs.scale_at, lhs.row_bytes, acc, y});
  };
  if (block.form.bits == 4) {
    block.form.has_minimum ? run(Index<4>{}, Index<1>{}) : run(Index<4>{}, Index<0>{});
  } else {
    block.form.has_minimum ? run(Index<8>{}, Index<1>{}) : run(Index<8>{}, Index<0>{});
  }
  GroupedFlush<Isa, R, 1, kParts>{block, tile, lhs, block.activations.group_k == 0 ? acc : y}.finish();
}

// The tallest tile of R, R / 2, ... 1 rows that `rows` fill; returns its height.
template <class Isa, int R, int kParts>
std::int64_t multiply_fused_rows(std::int64_t rows, const GroupedBlock& block, const GroupedTile& tile,
                                 const GroupedLhs& lhs) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_fused_rows<Isa, R / 2, kParts>(rows, block, tile, lhs);
  }
  multiply_fused<Isa, R, kParts>(block, tile, lhs);
  return R;
}

template <class Isa>
void gemm_fused(const GroupedBlock& block) {
  if (!is_fused(block, Isa::kByteBias)) return gemm_grouped<Isa>(block);
  constexpr int kRows = Isa::kFusedRows;
  const GroupedLhs lhs(block.form, block.activations);
  for_each_tile<1>(block, lhs, 0, [&](std::int64_t rows, std::int64_t, const GroupedTile& tile) {
    return block.activations.int16 ? multiply_fused_rows<Isa, kRows / 2, 2>(rows, block, tile, lhs)
                                   : multiply_fused_rows<Isa, kRows, 1>(rows, block, tile, lhs);
  });
}

// What the object of a kernel with fused tiles defines.
template <class Isa>
constexpr GroupedKernel fused_kernel(double multiply_adds_per_us) {
  GroupedKernel kernel = grouped_kernel<Isa, gemm_fused<Isa>>(multiply_adds_per_us);
  kernel.mr = Isa::kFusedRows;
  return kernel;
}

}  // namespace
}  // namespace octavo
