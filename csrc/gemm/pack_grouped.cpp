#include "gemm/pack_grouped.h"

#include <algorithm>
#include <cstring>

#include "gemm/pack.h"

namespace octavo {
namespace {

// Where in a panel the codes of four k lie, those of k among them: the lines of their bits, and shifts there.
class CodePlace {
 public:
  CodePlace(std::int32_t bits, std::int64_t k) : high_bits_(bits == 8 ? 0 : bits - 4), low_mask_(bits == 8 ? 255 : 15) {
    if (bits == 8) {
      low_at_ = k / kGroupedKr * kGroupedLineBytes;
      return;
    }
    const std::int64_t quad = k % kGroupedPadK / kGroupedKr;  // of the 16 of a chunk
    const std::int64_t chunk = k / kGroupedPadK * (kGroupedChunkLines + 2 * high_bits_) * kGroupedLineBytes;
    low_at_ = chunk + (2 * high_bits_ + quad % kGroupedChunkLines) * kGroupedLineBytes;
    low_shift_ = quad < kGroupedChunkLines ? 0 : 4;
    if (high_bits_ == 0) return;
    const std::int64_t fields = 8 / high_bits_;  // of a byte
    high_at_ = chunk + quad / fields * kGroupedLineBytes;
    high_shift_ = static_cast<int>(quad % fields) * high_bits_;
  }

  // The bytes are those of a column and k % 4 in the panel's first line. What is put there must be zero before.
  void put(std::uint8_t code, std::uint8_t* bytes) const {
    std::uint8_t& low = bytes[low_at_];
    low = static_cast<std::uint8_t>(low | (code & low_mask_) << low_shift_);
    if (high_bits_ == 0) return;
    std::uint8_t& high = bytes[high_at_];
    high = static_cast<std::uint8_t>(high | code >> 4 << high_shift_);
  }
  int get(const std::uint8_t* bytes) const {
    const int low = bytes[low_at_] >> low_shift_ & low_mask_;
    if (high_bits_ == 0) return low;
    return low | (bytes[high_at_] >> high_shift_ & ((1 << high_bits_) - 1)) << 4;
  }

 private:
  int high_bits_, low_mask_;
  std::int64_t low_at_ = 0, high_at_ = 0;
  int low_shift_ = 0, high_shift_ = 0;
};

// Codes are unsigned inside. A signed one is raised by half its range.
std::int32_t base_offset(std::int32_t bits, bool is_signed) { return is_signed ? 1 << (bits - 1) : 0; }

GroupedForm form_of(const GroupedView& view) {
  GroupedForm form{};
  form.k = view.k;
  form.bits = view.bits;
  form.group_k = view.group_k == 0 ? std::max(form.padded_k(), kGroupedPadK) : view.group_k;
  form.offset = base_offset(view.bits, view.is_signed);
  form.has_offsets = view.zero_point != nullptr;
  form.half = view.half;
  form.has_minimum = view.minimum != nullptr;
  form.two_level = view.group_scale != nullptr;
  form.signed_scale = view.signed_scale;
  return form;
}

std::size_t size(std::int64_t bytes) { return memory_bytes(bytes); }

}  // namespace

PackedGrouped::PackedGrouped(const GroupedView& view) : n_(view.n), form_(form_of(view)), is_signed_(view.is_signed) {}

PackedGrouped::PackedGrouped(const GroupedView& view, bool column_sums, Image& image) : PackedGrouped(view) {
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

std::size_t PackedGrouped::image_bytes(const GroupedView& view, bool column_sums) {
  const PartBytes bytes = PackedGrouped(view).part_bytes(column_sums);
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
  const std::uint8_t* row = view.codes + n * k();
  const auto raise = static_cast<std::uint8_t>(form_.offset);
  std::uint8_t* line = data_.as<std::uint8_t>() + n / kGroupedNr * form_.panel_bytes() + n % kGroupedNr * kGroupedKr;
  for (std::int64_t k0 = 0; k0 < k(); k0 += kGroupedKr) {
    const CodePlace place(form_.bits, k0);
    for (std::int64_t i = 0; i < std::min(kGroupedKr, k() - k0); ++i) {
      place.put(static_cast<std::uint8_t>(row[k0 + i] + raise), line + i);
    }
  }
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
  const std::uint8_t* panel = data_.as<const std::uint8_t>() + n / kGroupedNr * form_.panel_bytes();
  const std::int64_t in_line = n % kGroupedNr * kGroupedKr + k % kGroupedKr;
  return static_cast<std::uint8_t>(CodePlace(form_.bits, k).get(panel + in_line) - form_.offset);
}

void PackedGrouped::unpack(std::uint8_t* codes) const {
  for (std::int64_t n = 0; n < n_; ++n, codes += k()) unpack_rows(&n, 1, codes);
}

void PackedGrouped::unpack_rows(const std::int64_t* rows, std::int64_t count, std::uint8_t* codes) const {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < k(); ++j) *codes++ = code(rows[i], j);
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
