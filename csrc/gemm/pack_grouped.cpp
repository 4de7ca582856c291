#include "gemm/pack_grouped.h"

#include <algorithm>
#include <cstring>

#include "gemm/pack.h"

namespace octavo {
namespace {

// Codes of one column of a panel, whose first byte in the first line is given, with so many bits. Lines as
// kernels/grouped.h draws them: each function names the place of a code once.
template <int kBits>
class Column {
  static constexpr int kHighBits = kBits == 8 ? 0 : kBits - 4, kFields = kHighBits == 0 ? 1 : 8 / kHighBits;
  static constexpr int kQuads = static_cast<int>(kGroupedPadK / kGroupedKr);  // of a chunk
  static constexpr int kNibbleLines = static_cast<int>(kGroupedChunkLines);
  static constexpr std::int64_t kChunkBytes = kGroupedPadK * kGroupedNr * kBits / 8;

  static constexpr int low_line(int quad) { return kBits == 8 ? quad : 2 * kHighBits + quad % kNibbleLines; }
  static constexpr int low_shift(int quad) { return kBits == 8 || quad < kNibbleLines ? 0 : 4; }
  static constexpr int high_line(int quad) { return quad / kFields; }
  static constexpr int high_shift(int quad) { return quad % kFields * kHighBits; }
  static constexpr std::uint32_t kEach = 0x01010101, kLowMask = kBits == 8 ? 255 : 15, kHighMask = (1 << kHighBits) - 1;
  static constexpr int kLines = kQuads * kBits / 8;  // of a chunk

 public:
  static void pack(const std::uint8_t* codes, std::int64_t k, std::uint8_t raise, std::uint8_t* column) {
    for (; k > 0; k -= kGroupedPadK, codes += kGroupedPadK, column += kChunkBytes) {
      std::uint8_t raised[kGroupedPadK] = {};
      for (std::int64_t i = 0; i < std::min(kGroupedPadK, k); ++i)
        raised[i] = static_cast<std::uint8_t>(codes[i] + raise);
      std::uint32_t lines[kLines] = {};  // four bytes of each
      for (int quad = 0; quad < kQuads; ++quad) {
        std::uint32_t four;
        std::memcpy(&four, raised + quad * kGroupedKr, sizeof four);
        lines[low_line(quad)] |= (four & kLowMask * kEach) << low_shift(quad);
        if constexpr (kHighBits != 0) lines[high_line(quad)] |= (four >> 4 & kHighMask * kEach) << high_shift(quad);
      }
      for (int line = 0; line < kLines; ++line)
        std::memcpy(column + line * kGroupedLineBytes, lines + line, kGroupedKr);
    }
  }
  // The code of k: a chunk's, of the quad, at i.
  static std::uint8_t code(const std::uint8_t* column, int quad, std::int64_t i) {
    const int low = column[low_line(quad) * kGroupedLineBytes + i] >> low_shift(quad) & static_cast<int>(kLowMask);
    if constexpr (kHighBits == 0) return static_cast<std::uint8_t>(low);
    const int high = column[high_line(quad) * kGroupedLineBytes + i] >> high_shift(quad) & static_cast<int>(kHighMask);
    return static_cast<std::uint8_t>(low | high << 4);
  }
  static void unpack(const std::uint8_t* column, std::int64_t k, int raise, std::uint8_t* codes) {
    for (; k > 0; k -= kGroupedPadK, codes += kGroupedPadK, column += kChunkBytes) {
      for (int quad = 0; quad < kQuads && quad * kGroupedKr < k; ++quad) {
        for (std::int64_t i = 0; i < std::min(kGroupedKr, k - quad * kGroupedKr); ++i) {
          codes[quad * kGroupedKr + i] = static_cast<std::uint8_t>(code(column, quad, i) - raise);
        }
      }
    }
  }
  static std::uint8_t one(const std::uint8_t* column, std::int64_t k) {
    const auto quad = static_cast<int>(k % kGroupedPadK / kGroupedKr);
    return code(column + k / kGroupedPadK * kChunkBytes, quad, k % kGroupedKr);
  }
};

// body(Column<bits>{})
template <class Body>
auto with_column(std::int32_t bits, const Body& body) {
  switch (bits) {
    case 4:
      return body(Column<4>{});
    case 5:
      return body(Column<5>{});
    case 6:
      return body(Column<6>{});
    default:
      return body(Column<8>{});
  }
}

// Codes are unsigned inside. A signed one is raised by half its range.
std::int32_t base_offset(std::int32_t bits, bool is_signed) { return is_signed ? 1 << (bits - 1) : 0; }

// The form as kernels have it.
GroupedForm packed_form(const GroupedWeightForm& of) {
  GroupedForm form{};
  form.k = of.k;
  form.bits = of.bits;
  form.group_k = of.group_k == 0 ? std::max(form.padded_k(), kGroupedPadK) : of.group_k;
  form.offset = base_offset(of.bits, of.is_signed);
  form.has_offsets = of.zero_point;
  form.half = of.half;
  form.has_minimum = of.minimum;
  form.two_level = of.two_level;
  form.signed_scale = of.signed_scale;
  return form;
}

std::size_t size(std::int64_t bytes) { return memory_bytes(bytes); }

}  // namespace

PackedGrouped::PackedGrouped(const GroupedWeightForm& form)
    : n_(form.n), form_(packed_form(form)), is_signed_(form.is_signed) {}

PackedGrouped::PackedGrouped(const GroupedWeightForm& form, bool column_sums, Image& image) : PackedGrouped(form) {
  const PartBytes bytes = part_bytes(column_sums);
  data_ = image.take(bytes.data);
  records_ = image.take(bytes.records);
  offsets_ = image.take(bytes.offsets);
  sums_ = image.take(bytes.sums);
}

PackedGrouped::PartBytes PackedGrouped::part_bytes(bool column_sums) const {
  const std::size_t group_elems = size(padded_n() * form_.groups());
  return {.data = size(panels() * form_.panel_bytes()),
          .records = size(panels() * form_.records() * form_.record_bytes()),
          .offsets = form_.has_offsets ? group_elems : 0,
          .sums = column_sums ? group_elems * sizeof(std::int32_t) : 0};
}

std::size_t PackedGrouped::image_bytes(const GroupedWeightForm& form, bool column_sums) {
  const PartBytes bytes = PackedGrouped(form).part_bytes(column_sums);
  return Image::padded(bytes.data) + Image::padded(bytes.records) + Image::padded(bytes.offsets) +
         Image::padded(bytes.sums);
}

void PackedGrouped::pack(const GroupedView& view) {
  pack_panels(panels(), n_ * k(), [&](std::int64_t panel) {
    for (std::int64_t n = panel * kGroupedNr; n < std::min(n_, (panel + 1) * kGroupedNr); ++n) {
      pack_codes(view, n);
      pack_records(view, n);
      if (sums_.size_bytes() != 0) pack_sums(view, n);
    }
  });
}

std::size_t PackedGrouped::size_bytes() const {
  return data_.size_bytes() + records_.size_bytes() + offsets_.size_bytes() + sums_.size_bytes();
}

std::int64_t PackedGrouped::column_at(std::int64_t n) const {
  return n / kGroupedNr * form_.panel_bytes() + n % kGroupedNr * kGroupedKr;
}

std::int64_t PackedGrouped::record_at(std::int64_t n, std::int64_t record) const {
  return (n / kGroupedNr * form_.records() + record) * form_.record_bytes();
}

std::int64_t PackedGrouped::float_at(std::int64_t n, std::int64_t record, bool minimum) const {
  return record_at(n, record) + (minimum ? form_.floats_bytes() : 0) + n % kGroupedNr * float_bytes();
}

std::int64_t PackedGrouped::level_at(std::int64_t n, std::int64_t group, bool minimum) const {
  const std::int64_t count = kSuperK / form_.group_k, g = group % count, column = n % kGroupedNr;
  const std::int64_t record = record_at(n, group / count);
  if (!minimum) return record + form_.group_scale_at() + g * kGroupedNr + column;
  return record + form_.group_minimum_at() + g / 2 * (2 * kGroupedNr) + 2 * column + g % 2;
}

std::int64_t PackedGrouped::group_at(std::int64_t n, std::int64_t group) const {
  return (n / kGroupedNr * form_.groups() + group) * kGroupedNr + n % kGroupedNr;
}

void PackedGrouped::pack_codes(const GroupedView& view, std::int64_t n) {
  const auto raise = static_cast<std::uint8_t>(form_.offset);
  std::uint8_t* const column = data_.as<std::uint8_t>() + column_at(n);
  with_column(form_.bits, [&](auto format) { format.pack(view.codes + n * k(), k(), raise, column); });
}

void PackedGrouped::pack_records(const GroupedView& view, std::int64_t n) {
  const std::int64_t records = form_.records(), groups = form_.groups();
  std::byte* const to = records_.as<std::byte>();
  for (std::int64_t i = 0; i < records; ++i) {
    const std::int64_t from = (n * records + i) * float_bytes();
    std::memcpy(to + float_at(n, i, false), view.scale + from, size(float_bytes()));
    if (form_.has_minimum) std::memcpy(to + float_at(n, i, true), view.minimum + from, size(float_bytes()));
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t from = n * groups + g;
    if (form_.two_level) to[level_at(n, g, false)] = static_cast<std::byte>(view.group_scale[from]);
    if (form_.two_level && form_.has_minimum) {
      to[level_at(n, g, true)] = static_cast<std::byte>(view.group_minimum[from]);
    }
    if (form_.has_offsets) {
      offsets_.as<std::uint8_t>()[group_at(n, g)] = static_cast<std::uint8_t>(view.zero_point[from] + form_.offset);
    }
  }
}

void PackedGrouped::pack_sums(const GroupedView& view, std::int64_t n) {
  const auto raise = static_cast<std::uint8_t>(form_.offset);
  for (std::int64_t g = 0; g < form_.groups(); ++g) {
    const std::int64_t k0 = g * form_.group_k, k1 = std::min(k(), k0 + form_.group_k);
    std::uint32_t sum = 0;
    for (std::int64_t i = k0; i < k1; ++i) sum += static_cast<std::uint8_t>(view.codes[n * k() + i] + raise);
    sums_.as<std::uint32_t>()[group_at(n, g)] = sum;
  }
}

void PackedGrouped::set_operands(GroupedBlock& block, std::int64_t panel) const {
  const std::int64_t groups_before = panel * kGroupedNr * form_.groups();
  block.form = form_;
  block.rhs = data_.as<const std::uint8_t>() + panel * form_.panel_bytes();
  block.records = records_.as<const std::uint8_t>() + panel * form_.records() * form_.record_bytes();
  block.offsets = form_.has_offsets ? offsets_.as<const std::uint8_t>() + groups_before : nullptr;
  block.sums = sums_.size_bytes() != 0 ? sums_.as<const std::int32_t>() + groups_before : nullptr;
}

std::uint8_t PackedGrouped::code(std::int64_t n, std::int64_t k) const {
  const std::uint8_t* const column = data_.as<const std::uint8_t>() + column_at(n);
  return with_column(form_.bits,
                     [&](auto format) { return static_cast<std::uint8_t>(format.one(column, k) - form_.offset); });
}

void PackedGrouped::unpack(std::uint8_t* codes) const {
  for (std::int64_t n = 0; n < n_; ++n, codes += k()) unpack_rows(&n, 1, codes);
}

void PackedGrouped::unpack_rows(const std::int64_t* rows, std::int64_t count, std::uint8_t* codes) const {
  for (std::int64_t i = 0; i < count; ++i, codes += k()) {
    const std::uint8_t* const column = data_.as<const std::uint8_t>() + column_at(rows[i]);
    with_column(form_.bits, [&](auto format) { format.unpack(column, k(), form_.offset, codes); });
  }
}

void PackedGrouped::unpack_columns(const std::int64_t* columns, std::int64_t count, std::uint8_t* codes) const {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < n_; ++j) *codes++ = code(j, columns[i]);
  }
}

void PackedGrouped::unpack_floats(std::span<const std::int64_t> rows, bool minimum, std::byte* floats) const {
  for (const std::int64_t n : rows) {
    for (std::int64_t i = 0; i < form_.records(); ++i, floats += float_bytes()) {
      std::memcpy(floats, records_.as<const std::byte>() + float_at(n, i, minimum), size(float_bytes()));
    }
  }
}

void PackedGrouped::unpack_levels(std::span<const std::int64_t> rows, bool minimum, std::uint8_t* integers) const {
  for (const std::int64_t n : rows) {
    for (std::int64_t g = 0; g < form_.groups(); ++g) {
      *integers++ = records_.as<const std::uint8_t>()[level_at(n, g, minimum)];
    }
  }
}

void PackedGrouped::unpack_zero_point(std::span<const std::int64_t> rows, std::uint8_t* zero_point) const {
  for (const std::int64_t n : rows) {
    for (std::int64_t g = 0; g < form_.groups(); ++g) {
      *zero_point++ = static_cast<std::uint8_t>(offsets_.as<const std::uint8_t>()[group_at(n, g)] - form_.offset);
    }
  }
}

}  // namespace octavo
