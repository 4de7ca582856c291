// From sums of groups to the floats of a tile: one code for every form of grouped codes. kernels/grouped.h says what it
// computes, grouped_frame.h what a type `Isa` has.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/grouped_rows.h"
#include "kernels/detail/unroll.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct GroupedTile {
  const char* lhs;  // the first row's record
  std::int64_t row0;
  const std::uint8_t* lines;    // the first panel's
  const std::uint8_t* records;  // likewise
  std::int64_t panel;           // counted in the block
  std::int64_t panel_bytes, panel_record_bytes;
  std::int64_t ahead;  // bytes from each line to the one that is prefetched with it; 0: none
  bool far_prefetch;   // where a panel is streamed
};

template <class T>
inline T read_as(const void* at, std::int64_t i = 0) {
  T value;
  std::memcpy(&value, static_cast<const char*>(at) + i * static_cast<std::int64_t>(sizeof(T)), sizeof value);
  return value;
}

// What a buffer of sums holds for each record: the sum of its one group, those of all groups of its two levels, or
// their total, each times its group's scale.
enum class Sums { kGroup, kGroups, kTotal };

// The floats of R rows by P panels of activations in kParts parts. The sums of a group are those of kSumRows rows, of
// which these are the first. Everything is held by value: what is read through a pointer the compiler would read again
// after every store.
template <class Isa, int R, int P, int kParts, int kSumRows = R* kParts>
struct GroupedFlush {
  using Int = typename Isa::Int;
  using Float = typename Isa::Float;
  static constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V, kRows = R * kParts;
  static constexpr int kGroupSums = kSumRows * P * static_cast<int>(kGroupedNr);  // from a group's to the next one's

  GroupedBlock block;
  GroupedTile tile;
  GroupedLhs lhs;
  float* y;  // R x P x 16: sums so far, scaled already where activations have groups

  const char* record(int r) const { return tile.lhs + r * lhs.row_bytes; }

  Float floats(const std::uint8_t* at, int v) const {
    if (block.form.half) return Isa::load_f16(reinterpret_cast<const std::uint16_t*>(at) + v * kLanes);
    return Isa::load_f32(reinterpret_cast<const float*>(at) + v * kLanes);
  }

  // Takes the terms of offsets and of rows' zero points into the sums of a group.
  void correct(std::int64_t group, std::int32_t* sums) const {
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < V; ++v) {
        const std::int64_t at = ((tile.panel + p) * lhs.groups + group) * kGroupedNr + v * kLanes;
        for (int r = 0; r < kRows; ++r) {
          std::int32_t* const place = sums + (r * P + p) * kGroupedNr + v * kLanes;
          Int sum = Isa::load32(place);
          if (block.offsets != nullptr) {
            const std::int64_t i = r % kParts * lhs.groups + group;
            const Int minus = Isa::set1(read_as<std::int32_t>(record(r / kParts) + lhs.minus_at, i));
            sum = Isa::add(sum, Isa::multiply(minus, Isa::load_u8(block.offsets + at)));
          }
          if (block.sums != nullptr) {
            const Int z = Isa::set1(-read_as<std::int32_t>(record(r / kParts) + lhs.zero_at));
            sum = Isa::add(sum, Isa::multiply(z, Isa::load32(block.sums + at)));
          }
          Isa::store32(place, sum);
        }
      }
    }
  }

  [[gnu::noinline]] void correct_all(std::int64_t group, std::int64_t end, std::int32_t* sums) const {
    for (; group < end; ++group, sums += kGroupSums) correct(group, sums);
  }

  static Int sum_of(const std::int32_t* sums, int r, int p, int v) {
    return Isa::load32(sums + (r * P + p) * kGroupedNr + v * kLanes);
  }

  // acc with one group of one level added, whose first panel's record is given.
  void add_group(std::int64_t group, const std::uint8_t* first, const std::int32_t* sums, Float (&acc)[R][P][V]) const {
    const bool may_overflow = block.form.group_k > kSuperK;
    unrolled<P>([&](auto p) {
      const std::uint8_t* at = first + p * tile.panel_record_bytes;
      unrolled<V>([&](auto v) {
        const Float scale = floats(at, v);
        unrolled<R>([&](auto r) {
          Float sum;
          if constexpr (kParts == 1) {
            sum = Isa::to_float(sum_of(sums, r, p, v));
          } else {
            const Int high = sum_of(sums, 2 * r, p, v), low = sum_of(sums, 2 * r + 1, p, v);
            sum = may_overflow ? Isa::join(high, low) : Isa::to_float(Isa::add(Isa::shift8(high), low));
          }
          acc[r][p][v] = Isa::fma(sum, scale, acc[r][p][v]);
        });
        if (block.form.has_minimum) {
          const Float minimum = floats(at + block.form.floats_bytes(), v);
          unrolled<R>([&](auto r) {
            const Float sum = Isa::set1f(read_as<float>(record(r) + lhs.sums_at, group));
            acc[r][p][v] = Isa::fma(sum, minimum, acc[r][p][v]);
          });
        }
      });
    });
  }

  // acc with one super-block of two levels added, a panel's register at a time.
  template <Sums kSums>
  void add_super(std::int64_t super, const std::uint8_t* first, const std::int32_t* sums, Float (&acc)[R][P][V]) const {
    const GroupedForm& form = block.form;
    const std::int64_t count = kSuperK / form.group_k, group0 = super * count;
    unrolled<P>([&](auto p) {
      const std::uint8_t* at = first + p * tile.panel_record_bytes;
      unrolled<V>([&](auto v) {
        Int totals[kRows];
        unrolled<kRows>([&](auto r) { totals[r] = kSums == Sums::kTotal ? sum_of(sums, r, p, v) : Isa::zero(); });
        for (std::int64_t g = 0; kSums == Sums::kGroups && g < count; ++g) {
          const Int scale = group_scale(form, at, g, v);
          unrolled<kRows>([&](auto r) {
            totals[r] = Isa::add(totals[r], Isa::multiply(sum_of(sums + g * kGroupSums, r, p, v), scale));
          });
        }
        const Float scale = floats(at, v);
        unrolled<R>([&](auto r) { acc[r][p][v] = Isa::fma(total(totals, r), scale, acc[r][p][v]); });
        if (!form.has_minimum) return;
        unrolled<kRows>([&](auto r) { totals[r] = Isa::zero(); });
        for (std::int64_t g = 0; g < count; g += 2) {
          const std::uint8_t* bytes = at + form.group_minimum_at() + g * kGroupedNr + 2 * v * kLanes;
          unrolled<kRows>([&](auto r) {
            const std::int64_t i = r % kParts * lhs.groups + group0 + g;
            const auto pair = read_as<std::int32_t>(record(r / kParts) + lhs.pairs_at + 2 * i);
            totals[r] = Isa::dot_pairs(totals[r], pair, bytes);
          });
        }
        const Float minimum = floats(at + form.floats_bytes(), v);
        unrolled<R>([&](auto r) { acc[r][p][v] = Isa::fnma(total(totals, r), minimum, acc[r][p][v]); });
      });
    });
  }

  static Int group_scale(const GroupedForm& form, const std::uint8_t* record, std::int64_t g, int v) {
    const std::uint8_t* bytes = record + form.group_scale_at() + g * kGroupedNr + v * kLanes;
    return form.signed_scale ? Isa::load_s8(bytes) : Isa::load_u8(bytes);
  }

  static Float total(const Int (&totals)[kRows], int r) {
    if constexpr (kParts == 1) {
      return Isa::to_float(totals[r]);
    } else {
      return Isa::join(totals[2 * r], totals[2 * r + 1]);
    }
  }

  template <class Body>
  static void each(const Body& body) {
    unrolled<R>([&](auto r) { unrolled<P>([&](auto p) { unrolled<V>([&](auto v) { body(r, p, v); }); }); });
  }
  float* y_at(int r, int p, int v) const { return y + (r * P + p) * kGroupedNr + v * kLanes; }

  // `count` records from `i` on; acc goes on from what it is.
  template <Sums kSums>
  void add_records(std::int64_t i, std::int64_t count, const std::int32_t* sums, Float (&acc)[R][P][V]) const {
    const std::int64_t bytes = block.form.record_bytes();
    const std::int64_t step = kSums == Sums::kGroups ? kSuperK / block.form.group_k * kGroupSums : kGroupSums;
    const std::uint8_t* at = tile.records + i * bytes;
    for (const std::int64_t end = i + count; i < end; ++i, at += bytes, sums += step) {
      if constexpr (kSums == Sums::kGroup) {
        add_group(i, at, sums, acc);
      } else {
        add_super<kSums>(i, at, sums, acc);
      }
    }
  }

  template <Sums kSums>
  void add_runs(std::int64_t i, std::int64_t count, const std::int32_t* sums) const {
    Float result[R][P][V];
    each([&](auto r, auto p, auto v) { result[r][p][v] = Isa::load_f32(y_at(r, p, v)); });
    if (block.activations.group_k == 0) {
      add_records<kSums>(i, count, sums, result);
    } else {
      const std::int64_t run = block.activations.group_k / block.form.record_k();
      const std::int64_t step = kSums == Sums::kGroups ? kSuperK / block.form.group_k * kGroupSums : kGroupSums;
      std::int64_t a = i / run;
      for (const std::int64_t end = i + count; i < end; i += run, sums += run * step, ++a) {
        Float acc[R][P][V];
        each([&](auto r, auto p, auto v) { acc[r][p][v] = Isa::zerof(); });
        add_records<kSums>(i, end - i < run ? end - i : run, sums, acc);
        each([&](auto r, auto p, auto v) {
          const Float scale = Isa::set1f(read_as<float>(record(r) + lhs.scale_at, a));
          result[r][p][v] = Isa::fma(acc[r][p][v], scale, result[r][p][v]);
        });
      }
    }
    each([&](auto r, auto p, auto v) { Isa::store(y_at(r, p, v), result[r][p][v], kLanes); });
  }

  // The records of k0 <= k < k1.
  [[gnu::flatten, gnu::noinline]] void add_piece(std::int64_t k0, std::int64_t k1, std::int32_t* sums) const {
    const GroupedFlush self = *this;
    const std::int64_t size = self.block.form.group_k, record_k = self.block.form.record_k();
    if (self.block.offsets != nullptr || self.block.sums != nullptr) correct_all(k0 / size, k1 / size, sums);
    if (self.block.form.two_level) {
      self.template add_runs<Sums::kGroups>(k0 / record_k, (k1 - k0) / record_k, sums);
    } else {
      self.template add_runs<Sums::kGroup>(k0 / record_k, (k1 - k0) / record_k, sums);
    }
  }

  // The same, of super-blocks [first, end) whose totals are given.
  [[gnu::flatten, gnu::noinline]] void add_totals(std::int64_t first, std::int64_t end,
                                                  const std::int32_t* totals) const {
    const GroupedFlush self = *this;
    self.template add_runs<Sums::kTotal>(first, end - first, totals);
  }

  void finish() const {
    each([&](auto r, auto p, auto v) {
      const std::int64_t col = (tile.panel + p) * kGroupedNr + v * kLanes;
      if (col >= block.cols) return;
      Float value = Isa::load_f32(y_at(r, p, v));
      if (block.activations.group_k == 0) {
        value = Isa::mul(value, Isa::set1f(read_as<float>(record(r) + lhs.scale_at)));
      }
      if (block.bias != nullptr) value = Isa::addf(value, Isa::load_f32(block.bias + col));
      if (block.relu) value = Isa::relu(value);
      Isa::store(block.dst + (tile.row0 + r) * block.dst_stride + col, value, block.cols - col);
    });
  }
};

}  // namespace
}  // namespace octavo
