// The tile of grouped codes where an instruction set has 32 registers: beside the sums of a group, what they are added
// to stays there: the floats of the tile, or with two levels the totals of a super-block.
//
//       R x P sums of a group | R x P floats or totals | P codes, then P scales | the lhs broadcast
//
// Offsets of groups and rows with zero points have the loops of grouped_frame.h, as have panels that do not fill a
// tile, and fewer rows than a tile has. One row of activations streams panels of bytes, one at a time, in the same way.
#pragma once

#include <cstdint>

#include "kernels/detail/grouped_frame.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

// Of int16 activations the joined sums of longer groups would not fit int32.
inline bool fits_registers(const GroupedBlock& block) {
  return block.offsets == nullptr && block.sums == nullptr &&
         !(block.activations.int16 && block.form.group_k > kSuperK);
}

// The floats of a tile while its groups are added, one after the other. kEach: every group of codes is a group of
// activations, so that acc, which starts from 0 in each, is added to y at once. The fma with 0 is not a product: of -0
// it makes +0.
template <class Isa, int R, int P, int kParts, bool kMinimum, bool kEach>
class RegisterFloats {
 public:
  using Int = typename Isa::Int;
  using Float = typename Isa::Float;
  static constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V, kRows = R * kParts;

  [[gnu::always_inline]] RegisterFloats(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs,
                                        float* y)
      : sums_at_(tile.lhs + lhs.sums_at),
        scales_at_(tile.lhs + lhs.scale_at),
        row_bytes_(lhs.row_bytes),
        records_(tile.records),
        record_bytes_(block.form.group_scale_at()),
        panel_record_bytes_(tile.panel_record_bytes),
        minimum_at_(block.form.floats_bytes()),
        half_(block.form.half),
        by_row_(block.activations.group_k == 0),
        run_groups_(by_row_ ? lhs.groups + 1 : block.activations.group_k / block.form.group_k),
        left_(run_groups_),
        y_(y) {
    each([&](auto r, auto p, auto v) { acc_[r][p][v] = Isa::zerof(); });
  }

  // The sums of the next group, each of which sum_at(row, panel, register) gives.
  template <class SumAt>
  [[gnu::always_inline]] void add(std::int64_t group, const SumAt& sum_at) {
    unrolled<P>([&](auto p) {
      const std::uint8_t* const at = records_ + group * record_bytes_ + p * panel_record_bytes_;
      unrolled<V>([&](auto v) {
        const Float scale = floats(at, v);
        Float minimum = Isa::zerof();
        if constexpr (kMinimum) minimum = floats(at + minimum_at_, v);
        unrolled<R>([&](auto r) {
          Float sum;
          if constexpr (kParts == 1) {
            sum = Isa::to_float(sum_at(r, p, v));
          } else {
            sum = Isa::to_float(Isa::add(Isa::shift8(sum_at(2 * r, p, v)), sum_at(2 * r + 1, p, v)));
          }
          Float part = Isa::fma(sum, scale, kEach ? Isa::zerof() : acc_[r][p][v]);
          if constexpr (kMinimum) {
            part = Isa::fma(Isa::set1f(read_as<float>(sums_at_ + r * row_bytes_, group)), minimum, part);
          }
          if constexpr (kEach) {
            part = Isa::fma(part, Isa::set1f(read_as<float>(scales_at_ + r * row_bytes_, group)), acc_[r][p][v]);
          }
          acc_[r][p][v] = part;
        });
      });
    });
    if (!kEach && --left_ == 0) {
      end_run(run_++);
      left_ = run_groups_;
    }
  }

  // Leaves in y the floats as GroupedFlush::finish takes them.
  [[gnu::always_inline]] void finish() {
    if (kEach || by_row_) {
      each([&](auto r, auto p, auto v) { Isa::store(y_at(r, p, v), acc_[r][p][v], kLanes); });
    } else if (left_ != run_groups_) {  // the last run may be shorter
      end_run(run_);
    }
  }

 private:
  template <class Body>
  static void each(const Body& body) {
    unrolled<P>([&](auto p) { unrolled<V>([&](auto v) { unrolled<R>([&](auto r) { body(r, p, v); }); }); });
  }
  float* y_at(int r, int p, int v) const { return y_ + (r * P + p) * kGroupedNr + v * kLanes; }

  Float floats(const std::uint8_t* at, int v) const {
    return half_ ? Isa::load_f16(reinterpret_cast<const std::uint16_t*>(at) + v * kLanes)
                 : Isa::load_f32(reinterpret_cast<const float*>(at) + v * kLanes);
  }
  void end_run(std::int64_t run) {
    each([&](auto r, auto p, auto v) {
      const Float by = Isa::set1f(read_as<float>(scales_at_ + r * row_bytes_, run));
      Isa::store(y_at(r, p, v), Isa::fma(acc_[r][p][v], by, Isa::load_f32(y_at(r, p, v))), kLanes);
      acc_[r][p][v] = Isa::zerof();
    });
  }

  const char *sums_at_, *scales_at_;
  std::int64_t row_bytes_;
  const std::uint8_t* records_;
  std::int64_t record_bytes_, panel_record_bytes_, minimum_at_;
  bool half_, by_row_;
  std::int64_t run_groups_, left_, run_ = 0;  // groups of codes in one of activations; those that are missing
  float* y_;
  Float acc_[R][P][V];
};

template <class Isa, int R, int P, int kParts, int kBits, bool kMinimum, bool kEach>
[[gnu::flatten, gnu::noinline]] void add_groups(const GroupedBlock& block, const GroupedTile& its_tile,
                                                const GroupedLhs& lhs, float* y) {
  const GroupedForm form = block.form;
  const GroupedTile tile = its_tile;
  const GroupedRows<R * kParts> rows(tile, lhs, kParts);
  RegisterFloats<Isa, R, P, kParts, kMinimum, kEach> floats(block, tile, lhs, y);
  using TileSums = typename Isa::Int[R * kParts][P][Isa::kVecs];
  const auto add = [&](std::int64_t group, const TileSums& sums) {
    floats.add(group, [&](int r, int p, int v) { return sums[r][p][v]; });
  };
  if constexpr (P == 1) {
    Isa::template stream_groups<kBits>(rows, form.group_k, tile.lines, 0, lhs.groups, add);
  } else {
    for (std::int64_t group = 0; group < lhs.groups; ++group) {
      TileSums sums;
      sum_group<Isa, kBits>(form, tile, rows, group, group * form.group_k, sums);
      add(group, sums);
    }
  }
  floats.finish();
}

// body(Index<bits>{}); one panel is streamed of bytes alone.
template <int P, class Body>
void with_bits(const GroupedForm& form, const Body& body) {
  if constexpr (P > 1) {
    if (form.bits == 4) return body(Index<4>{});
  }
  body(Index<8>{});
}

// Totals of super-blocks [first, end): sum of group_scale * sums over their groups, which may come in any order.
template <class Isa, int R, int P, int kBits>
[[gnu::flatten, gnu::noinline]] void total_supers(const GroupedForm& its_form, const GroupedTile& its_tile,
                                                  const GroupedRows<R>& rows, std::int64_t first, std::int64_t end,
                                                  std::int32_t* out) {
  using Int = typename Isa::Int;
  constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V;
  const GroupedForm form = its_form;
  const GroupedTile tile = its_tile;
  const std::int64_t count = kSuperK / form.group_k;
  for (std::int64_t super = first; super < end; ++super, out += R * P * kGroupedNr) {
    const std::uint8_t* const record = tile.records + super * form.record_bytes();
    Int totals[R][P][V];
    const auto each = [&](const auto& body) {
      unrolled<P>([&](auto p) { unrolled<V>([&](auto v) { unrolled<R>([&](auto r) { body(r, p, v); }); }); });
    };
    each([&](auto r, auto p, auto v) { totals[r][p][v] = Isa::zero(); });
    const auto add = [&](std::int64_t group, const Int(&sums)[R][P][V]) {
      unrolled<P>([&](auto p) {
        unrolled<V>([&](auto v) {
          const std::uint8_t* const at = record + p * tile.panel_record_bytes;
          const Int scale = GroupedFlush<Isa, R, P, 1>::group_scale(form, at, group - super * count, v);
          unrolled<R>(
              [&](auto r) { totals[r][p][v] = Isa::add(totals[r][p][v], Isa::multiply(sums[r][p][v], scale)); });
        });
      });
    };
    if constexpr (P == 1) {
      Isa::template stream_groups<kBits>(rows, form.group_k, tile.lines, super * count, (super + 1) * count, add);
    } else {
      for (std::int64_t group = super * count; group < (super + 1) * count; ++group) {
        Int sums[R][P][V];
        sum_group<Isa, kBits>(form, tile, rows, group, group * form.group_k, sums);
        add(group, sums);
      }
    }
    each([&](auto r, auto p, auto v) { Isa::store32(out + (r * P + p) * kGroupedNr + v * kLanes, totals[r][p][v]); });
  }
}

template <class Isa, int R, int P, int kParts>
void add_supers(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs, float* y) {
  constexpr int kRows = R * kParts;
  constexpr std::int64_t kSupers = 8;  // at once
  const GroupedRows<kRows> rows(tile, lhs, kParts);
  alignas(64) std::int32_t totals[kSupers * kRows * P * kGroupedNr];
  const GroupedFlush<Isa, R, P, kParts> flush{block, tile, lhs, y};
  for (std::int64_t first = 0, end = block.form.records(); first < end; first += kSupers) {
    const std::int64_t last = first + kSupers < end ? first + kSupers : end;
    with_bits<P>(block.form,
                 [&](auto bits) { total_supers<Isa, kRows, P, bits>(block.form, tile, rows, first, last, totals); });
    flush.add_totals(first, last, totals);
  }
}

// A tile of R rows, or one row of a panel that is streamed (P == 1).
template <class Isa, int R, int P, int kParts>
void multiply_in_registers(const GroupedBlock& block, const GroupedTile& tile, const GroupedLhs& lhs) {
  alignas(64) float y[R * P * kGroupedNr] = {};
  const auto run = [&](auto bits, auto minimum) {
    if constexpr (kParts == 1) {
      if (block.activations.group_k == block.form.group_k) {
        return add_groups<Isa, R, P, kParts, bits, minimum != 0, true>(block, tile, lhs, y);
      }
    }
    add_groups<Isa, R, P, kParts, bits, minimum != 0, false>(block, tile, lhs, y);
  };
  if (block.form.two_level) {
    add_supers<Isa, R, P, kParts>(block, tile, lhs, y);
  } else {
    with_bits<P>(block.form,
                 [&](auto bits) { block.form.has_minimum ? run(bits, Index<1>{}) : run(bits, Index<0>{}); });
  }
  GroupedFlush<Isa, R, P, kParts>{block, tile, lhs, y}.finish();
}

template <class Isa, int kParts>
void stream_row_in_registers(const GroupedBlock& block, const GroupedLhs& lhs) {
  for_each_panel(block, lhs,
                 [&](const GroupedTile& tile) { multiply_in_registers<Isa, 1, 1, kParts>(block, tile, lhs); });
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
    multiply_in_registers<Isa, kRows, Isa::kPanels, kParts>(block, tile, lhs);
  }
  return rows;
}

template <class Isa>
void gemm_in_registers(const GroupedBlock& block) {
  const bool few = block.rows * block.activations.parts() < Isa::kMr, one = block.rows == 1;
  // Nibbles of one row took 1.1 times as long from memory as with sums in a buffer, on Zen 5, where bytes took 0.9
  // times as long. On Zen 4 bytes of an int16 row took 1.05 times as long, too.
  const bool buffered = block.form.bits == 4 || (block.activations.int16 && !block.far_prefetch);
  if (!fits_registers(block) || block.form.in_planes() || (one ? buffered : few)) {
    return gemm_grouped<Isa>(block);
  }
  const GroupedLhs lhs(block.form, block.activations);
  if (one) {
    return block.activations.int16 ? stream_row_in_registers<Isa, 2>(block, lhs)
                                   : stream_row_in_registers<Isa, 1>(block, lhs);
  }
  for_each_tile<Isa::kPanels>(
      block, lhs, Isa::kAheadBytes, [&](std::int64_t rows, std::int64_t panels, const GroupedTile& tile) {
        return block.activations.int16 ? multiply_tile_in_registers<Isa, 2>(rows, panels, block, tile, lhs)
                                       : multiply_tile_in_registers<Isa, 1>(rows, panels, block, tile, lhs);
      });
}

// What the object of a kernel with such tiles defines.
template <class Isa>
constexpr GroupedKernel registers_kernel(double multiply_adds_per_us) {
  return grouped_kernel<Isa, gemm_in_registers<Isa>>(multiply_adds_per_us);
}

}  // namespace
}  // namespace octavo
