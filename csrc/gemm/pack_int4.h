// Four-bit weights, packed once: nibbles, scales, offsets and column sums as kernels/int4.h draws them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/image.h"
#include "kernels/int4.h"

namespace octavo {

// The caller's arrays, row-major and contiguous. G = ceil(k / group_k), or 1 where group_k is 0.
struct Int4View {
  const std::int8_t* values;  // (n, k) of -8..7
  std::int64_t n, k;
  std::int64_t group_k;             // a multiple of 32; 0: one group over all of k
  const float* scale;               // (n, G); ignored where half_scale is set
  const std::uint16_t* half_scale;  // (n, G) float16; or null
  const std::int8_t* zero_point;    // (n, G) of -8..7; or null
};

// What the packed form depends on beside the panels' shape.
struct Int4Form {
  std::int64_t n, k, group_k;  // as those of Int4View
  bool half_scale, zero_points, column_sums;
};

// Some indices along an axis.
struct Indices {
  const std::int64_t* first;
  std::int64_t count;
};

class PackedInt4 {
 public:
  // The next parts of an image: of one that holds such weights, or of zeros, for `pack` to fill. Column sums are kept
  // where rows may have zero points.
  PackedInt4(const Int4Form& form, PanelShape shape, Image& image);
  void pack(const Int4View& view);
  static std::size_t image_bytes(const Int4Form& form, PanelShape shape);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return groups_.k; }
  const Int4Groups& groups() const { return groups_; }
  std::int32_t nr() const { return nr_; }
  std::int32_t kr() const { return kr_; }
  std::int64_t panels() const { return panels_; }
  std::int64_t panel_bytes() const { return groups_.chunks() * kInt4Half * nr_; }
  std::int64_t padded_n() const { return panels() * nr_; }
  std::int64_t group_count() const { return group_count_; }
  bool has_half_scale() const { return half_scale_; }
  std::size_t size_bytes() const;

  // Points a block at the weights and the arrays over groups, from a panel on.
  void set_operands(Int4Block& block, std::int64_t panel) const;

  // The values as they were packed, row-major.
  void unpack(std::int8_t* values) const;
  // Some rows over all k, (count, k), or some columns over all n, (count, n).
  void unpack_rows(const std::int64_t* rows, std::int64_t count, std::int8_t* values) const;
  void unpack_columns(const std::int64_t* columns, std::int64_t count, std::int8_t* values) const;
  // Of some n and some groups: (n.count, g.count). Scales are float32, or float16 where has_half_scale().
  void unpack_scale(const Indices& n, const Indices& g, void* scale) const;
  void unpack_zero_point(const Indices& n, const Indices& g, std::int8_t* zero_point) const;

 private:
  struct PartBytes {
    std::size_t data, scale, offset, sums;
  };
  PackedInt4(const Int4Form& form, PanelShape shape);
  PartBytes part_bytes(bool column_sums) const;
  std::int64_t nibble_byte(std::int64_t n, std::int64_t k) const;
  std::int64_t group_elem(std::int64_t n, std::int64_t group) const;
  void pack_panel(const Int4View& view, std::int64_t panel);

  std::int64_t n_;
  Int4Groups groups_;
  std::int64_t group_count_;  // that of groups_, but 1 for one group without any k
  std::int32_t nr_, kr_;
  std::int64_t panels_;
  bool half_scale_, wide_sums_;
  Part data_, scale_, offset_, sums_;
};

}  // namespace octavo
