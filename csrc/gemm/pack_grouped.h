// Grouped codes, packed once: codes, records, offsets and column sums as kernels/grouped.h draws them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gemm/image.h"
#include "kernels/grouped.h"

namespace octavo {

// What arrays grouped weights have, and of which types.
struct GroupedWeightForm {
  std::int64_t n, k;
  std::int64_t group_k;  // 16, 32, 64, 128 or 256, which divides k; 0: one group
  std::int32_t bits;     // 4, 5, 6 or 8
  bool is_signed;        // the codes, and the zero points
  bool half;             // scales and minima are float16, else float32
  bool zero_point, minimum;
  bool two_level;     // integers for each group beside a scale for each 256 k, and likewise beside minima
  bool signed_scale;  // the groups' scales are int8, else uint8
};

// What the caller has, all row-major and contiguous. G and S are the groups and super-blocks of a row.
struct GroupedView {
  std::int64_t n, k;
  std::int64_t group_k;             // 16, 32, 64, 128 or 256, which divides k; 0: one group
  std::int32_t bits;                // 4, 5, 6 or 8
  bool is_signed;                   // the codes, and the zero points
  const std::uint8_t* codes;        // (n, k)
  const std::uint8_t* zero_point;   // (n, G), or null
  bool half;                        // scale and minimum are float16, else float32
  const std::byte* scale;           // (n, G), or (n, S) beside group_scale
  const std::byte* minimum;         // likewise, or null
  bool signed_scale;                // group_scale is int8, else uint8
  const std::uint8_t* group_scale;  // (n, G), or null
  const std::uint8_t* group_minimum;

  GroupedWeightForm form() const {
    return {.n = n,
            .k = k,
            .group_k = group_k,
            .bits = bits,
            .is_signed = is_signed,
            .half = half,
            .zero_point = zero_point != nullptr,
            .minimum = minimum != nullptr,
            .two_level = group_scale != nullptr,
            .signed_scale = signed_scale};
  }
};

class PackedGrouped {
 public:
  // Takes the next parts of an image: one that holds such weights, or one of zeros for `pack` to fill. Column sums are
  // kept if rows may have zero points.
  PackedGrouped(const GroupedWeightForm& form, bool column_sums, Image& image);
  void pack(const GroupedView& view);
  static std::size_t image_bytes(const GroupedWeightForm& form, bool column_sums);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return form_.k; }
  const GroupedForm& form() const { return form_; }
  std::int64_t panels() const { return (n_ + kGroupedNr - 1) / kGroupedNr; }
  std::int64_t panel_bytes() const { return form_.panel_bytes(); }
  std::int64_t padded_n() const { return panels() * kGroupedNr; }
  bool is_signed() const { return is_signed_; }
  std::size_t size_bytes() const;

  // Sets the arrays over weights and groups, from a panel on.
  void set_operands(GroupedBlock& block, std::int64_t panel) const;

  // Canonical, row-major: what was packed.
  void unpack(std::uint8_t* codes) const;
  // Of some n all k, (count, k), or of some k all n, (count, n).
  void unpack_rows(const std::int64_t* rows, std::int64_t count, std::uint8_t* codes) const;
  void unpack_columns(const std::int64_t* columns, std::int64_t count, std::uint8_t* codes) const;
  // Of some outputs: (rows, records), (rows, G) where there are two levels, (rows, G).
  void unpack_floats(std::span<const std::int64_t> rows, bool minimum, std::byte* floats) const;
  void unpack_levels(std::span<const std::int64_t> rows, bool minimum, std::uint8_t* integers) const;
  void unpack_zero_point(std::span<const std::int64_t> rows, std::uint8_t* zero_point) const;

 private:
  struct PartBytes {
    std::size_t data, records, offsets, sums;
  };
  explicit PackedGrouped(const GroupedWeightForm& form);
  PartBytes part_bytes(bool column_sums) const;
  std::int64_t float_bytes() const { return form_.half ? 2 : 4; }
  std::int64_t column_at(std::int64_t n) const;  // of the codes
  std::int64_t record_at(std::int64_t n, std::int64_t record) const;
  std::int64_t float_at(std::int64_t n, std::int64_t record, bool minimum) const;
  std::int64_t level_at(std::int64_t n, std::int64_t group, bool minimum) const;
  std::int64_t group_at(std::int64_t n, std::int64_t group) const;
  std::uint8_t code(std::int64_t n, std::int64_t k) const;
  void pack_codes(const GroupedView& view, std::int64_t n);
  void pack_records(const GroupedView& view, std::int64_t n);
  void pack_sums(const GroupedView& view, std::int64_t n);

  std::int64_t n_;
  GroupedForm form_;
  bool is_signed_;
  Part data_, records_, offsets_, sums_;
};

}  // namespace octavo
