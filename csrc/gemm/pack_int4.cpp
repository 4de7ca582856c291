#include "gemm/pack_int4.h"

#include <algorithm>

#include "gemm/pack.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

Int4Groups groups_of(const Int4Form& form) {
  const std::int64_t whole = std::max<std::int64_t>((form.k + kInt4Half - 1) / kInt4Half, 1) * kInt4Half;
  return {form.k, form.group_k == 0 ? whole : std::min(form.group_k, whole), form.zero_points};
}

// Element k is byte >> shift & 15, less the offset.
int nibble_shift(std::int64_t k) { return k % kInt4Chunk < kInt4Half ? 0 : 4; }

std::int8_t nibble(std::uint8_t byte, int shift) {
  return static_cast<std::int8_t>((byte >> shift & 15) - kInt4Offset);
}

}  // namespace

PackedInt4::PackedInt4(const Int4Form& form, PanelShape shape)
    : n_(form.n),
      groups_(groups_of(form)),
      group_count_(form.group_k == 0 ? 1 : groups_.count()),
      nr_(shape.nr),
      kr_(shape.kr),
      panels_((n_ + nr_ - 1) / nr_),
      half_scale_(form.half_scale),
      wide_sums_(groups_.group_k > kInt4NarrowSumK) {}

PackedInt4::PackedInt4(const Int4Form& form, PanelShape shape, Image& image) : PackedInt4(form, shape) {
  const PartBytes bytes = part_bytes(form.column_sums);
  data_ = image.take(bytes.data);
  scale_ = image.take(bytes.scale);
  offset_ = image.take(bytes.offset);
  sums_ = image.take(bytes.sums);
}

PackedInt4::PartBytes PackedInt4::part_bytes(bool column_sums) const {
  const std::size_t group_elems = memory_bytes(padded_n() * group_count() * 4) / 4;
  return {.data = memory_bytes(panels() * panel_bytes() + kRhsSlackBytes),
          .scale = group_elems * (half_scale_ ? 2 : 4),
          .offset = groups_.has_offsets ? group_elems : 0,
          .sums = column_sums ? group_elems * (wide_sums_ ? 4 : 2) : 0};
}

std::size_t PackedInt4::image_bytes(const Int4Form& form, PanelShape shape) {
  const PartBytes bytes = PackedInt4(form, shape).part_bytes(form.column_sums);
  return Image::padded(bytes.data) + Image::padded(bytes.scale) + Image::padded(bytes.offset) +
         Image::padded(bytes.sums);
}

void PackedInt4::pack(const Int4View& view) {
  pack_panels(panels(), n_ * k(), [&](std::int64_t panel) { pack_panel(view, panel); });
}

std::size_t PackedInt4::size_bytes() const {
  return data_.size_bytes() + scale_.size_bytes() + offset_.size_bytes() + sums_.size_bytes();
}

std::int64_t PackedInt4::nibble_byte(std::int64_t n, std::int64_t k) const {
  const std::int64_t in_half = k % kInt4Half;
  const std::int64_t line = k / kInt4Chunk * (kInt4Half / kr_) + in_half / kr_;
  return n / nr_ * panel_bytes() + (line * nr_ + n % nr_) * kr_ + in_half % kr_;
}

std::int64_t PackedInt4::group_elem(std::int64_t n, std::int64_t group) const {
  return (n / nr_ * group_count() + group) * nr_ + n % nr_;
}

void PackedInt4::pack_panel(const Int4View& view, std::int64_t panel) {
  const bool column_sums = sums_.size_bytes() != 0;
  const std::int64_t n0 = panel * nr_, n1 = std::min(n_, n0 + nr_), count = group_count();
  for (std::int64_t n = n0; n < n1; ++n) {
    const std::int8_t* row = view.values + n * k();
    for (std::int64_t g = 0; g < count; ++g) {
      const std::int64_t from = n * count + g, to = group_elem(n, g);
      const std::int32_t zero_point = view.zero_point == nullptr ? 0 : view.zero_point[from];
      if (half_scale_) {
        scale_.as<std::uint16_t>()[to] = view.half_scale[from];
      } else {
        scale_.as<float>()[to] = view.scale[from];
      }
      if (groups_.has_offsets) offset_.as<std::uint8_t>()[to] = static_cast<std::uint8_t>(kInt4Offset + zero_point);
      std::int32_t sum = 0;
      const std::int64_t k0 = g * groups_.group_k, k1 = std::min(k(), k0 + groups_.group_k);
      for (std::int64_t i = k0; i < k1; ++i) {
        const int nibble = row[i] + kInt4Offset, shift = nibble_shift(i);
        std::uint8_t& byte = data_.as<std::uint8_t>()[nibble_byte(n, i)];
        byte = static_cast<std::uint8_t>(byte | nibble << shift);
        sum += row[i] - zero_point;
      }
      if (!column_sums) continue;
      if (wide_sums_) {
        sums_.as<std::int32_t>()[to] = sum;
      } else {
        sums_.as<std::int16_t>()[to] = static_cast<std::int16_t>(sum);
      }
    }
  }
}

void PackedInt4::set_operands(Int4Block& block, std::int64_t panel) const {
  const std::int64_t at = panel * nr_ * group_count();
  block.groups = groups_;
  block.rhs = data_.as<const std::uint8_t>() + panel * panel_bytes();
  block.nr = nr_;
  block.kr = kr_;
  block.half_scale = half_scale_;
  block.scale = scale_.as<const std::byte>() + at * (half_scale_ ? 2 : 4);
  block.offset = groups_.has_offsets ? offset_.as<const std::uint8_t>() + at : nullptr;
  block.column_sums = sums_.size_bytes() != 0 ? sums_.as<const std::byte>() + at * (wide_sums_ ? 4 : 2) : nullptr;
}

void PackedInt4::unpack(std::int8_t* values) const {
  for (std::int64_t n = 0; n < n_; ++n, values += k()) unpack_rows(&n, 1, values);
}

void PackedInt4::unpack_rows(const std::int64_t* rows, std::int64_t count, std::int8_t* values) const {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t k0 = 0; k0 < k(); k0 += kr_) {
      const std::uint8_t* src = data_.as<const std::uint8_t>() + nibble_byte(rows[i], k0);
      const std::int64_t depth = std::min<std::int64_t>(kr_, k() - k0);
      const int shift = nibble_shift(k0);
      for (std::int64_t j = 0; j < depth; ++j) *values++ = nibble(src[j], shift);
    }
  }
}

void PackedInt4::unpack_columns(const std::int64_t* columns, std::int64_t count, std::int8_t* values) const {
  for (std::int64_t i = 0; i < count; ++i) {
    const int shift = nibble_shift(columns[i]);
    for (std::int64_t n0 = 0; n0 < n_; n0 += nr_) {
      const std::uint8_t* src = data_.as<const std::uint8_t>() + nibble_byte(n0, columns[i]);
      const std::int64_t cols = std::min<std::int64_t>(nr_, n_ - n0);
      for (std::int64_t j = 0; j < cols; ++j) *values++ = nibble(src[j * kr_], shift);
    }
  }
}

void PackedInt4::unpack_scale(const Indices& n, const Indices& g, void* scale) const {
  for (std::int64_t r = 0, to = 0; r < n.count; ++r) {
    for (std::int64_t c = 0; c < g.count; ++c, ++to) {
      const std::int64_t from = group_elem(n.first[r], g.first[c]);
      if (half_scale_) {
        static_cast<std::uint16_t*>(scale)[to] = scale_.as<const std::uint16_t>()[from];
      } else {
        static_cast<float*>(scale)[to] = scale_.as<const float>()[from];
      }
    }
  }
}

void PackedInt4::unpack_zero_point(const Indices& n, const Indices& g, std::int8_t* zero_point) const {
  for (std::int64_t r = 0, to = 0; r < n.count; ++r) {
    for (std::int64_t c = 0; c < g.count; ++c, ++to) {
      const std::int64_t from = group_elem(n.first[r], g.first[c]);
      const int offset = groups_.has_offsets ? offset_.as<const std::uint8_t>()[from] : kInt4Offset;
      zero_point[to] = static_cast<std::int8_t>(offset - kInt4Offset);
    }
  }
}

}  // namespace octavo
