#include "gemm/integers/piece_product.h"

#include <algorithm>

#include "base/arch.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Sums of digits' products and what they are added to, on their way to the result: their share of the L2 cache.
constexpr std::int64_t kSumsBytes = 192 << 10;

// Bytes from a row of elements to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a
// tile into few sets of the L1 cache.
std::int64_t row_stride(std::int64_t bytes) {
  const std::int64_t padded = round_up(bytes, kWideLineBytes);
  return padded % 2048 == 0 ? padded + kWideLineBytes : padded;
}

double relative_cost(const Kernel& kernel, const Choice& choice, int lhs_digits, int rhs_digits) {
  switch (choice.form) {
    case Form::kDigits:
      return pairs_of_digits(lhs_digits, rhs_digits, choice.bytes);
    case Form::k16:
      return kernel.integer_costs.of16;
    case Form::k32:
      return kernel.integer_costs.of32;
    default:
      return kernel.integer_costs.of64;
  }
}

}  // namespace

// Packed rows. Whole elements: rows, a stride apart. Digits:
//
//       sums of the rows, modulo 2^64 | digit 0, packed by the kernel | digit 1 | ... | bytes of a digit, before
//       packing
struct PieceProduct::LhsLayout {
  std::int64_t sums_bytes, digit_bytes, unpacked_bytes;

  LhsLayout(const PieceProduct& product, std::int64_t rows)
      : sums_bytes(round_up(rows * 8, kWideLineBytes)),
        digit_bytes(round_up(product.kernel_.lhs_bytes(rows, product.depth()), kWideLineBytes)),
        unpacked_bytes(product.lhs_lies_as_bytes() ? 0 : rows * product.depth()) {}

  std::uint64_t* sums(std::byte* lhs) const { return reinterpret_cast<std::uint64_t*>(lhs); }
  const std::uint64_t* sums(const std::byte* lhs) const { return reinterpret_cast<const std::uint64_t*>(lhs); }
  std::int64_t digit(int i) const { return sums_bytes + i * digit_bytes; }
};

// Scratch of a block of digits. Without memory it only knows how many bytes it takes.
struct PieceProduct::Scratch {
  std::int32_t* kernel;
  std::int32_t* sums;  // rows x width
  std::byte* acc;      // the same of 4 or 8 bytes
  std::uint64_t* row_terms;
  std::uint64_t* col_terms;
  std::int64_t width, bytes;

  Scratch(const PieceProduct& product, std::int64_t rows, void* memory) : width(product.sums_width(rows)) {
    std::int64_t at = 0;
    const auto take = [&](auto*& part, std::int64_t size) {
      using Part = std::remove_reference_t<decltype(part)>;
      part = memory == nullptr ? nullptr : reinterpret_cast<Part>(static_cast<std::byte*>(memory) + at);
      at += round_up(size, kWideLineBytes);
    };
    take(kernel, product.kernel_.scratch_elems(rows, product.depth()) * 4);
    take(sums, rows * width * 4);
    take(acc, rows * width * (product.choice_.bytes <= 4 ? 4 : 8));
    take(row_terms, rows * 8);
    take(col_terms, width * 8);
    bytes = at;
  }
};

// Some columns of a block, and what their rows are.
struct PieceProduct::DigitColumns {
  const std::byte* lhs;
  std::int64_t row0, rows;
  Digits digits;  // of the rows
  std::int64_t panel, cols;
  bool has_row_terms;
};

PieceProduct::PieceProduct(const Kernel& kernel, const Choice& choice, const Operands& operands)
    : kernel_(kernel),
      choice_(choice),
      shape_(form_shape(choice.form)),
      lhs_(operands.lhs),
      lhs_ranges_(operands.lhs_ranges),
      piece_(operands.piece),
      rhs_range_(operands.rhs_range),
      dst_(operands.dst),
      add_(operands.add),
      rhs_digits_(operands.piece.digits().lowest(choice.bytes)),
      most_lhs_digits_(1) {
  for (const ValueRange range : lhs_ranges_) {
    most_lhs_digits_ = std::max(most_lhs_digits_, digits_of(range).lowest(choice.bytes).count);
  }
}

std::int64_t PieceProduct::mr() const {
  switch (choice_.form) {
    case Form::kDigits:
      return kernel_.mr;
    case Form::k16:
      return kernel_.integer->mr16;
    case Form::k32:
      return kernel_.integer->mr32;
    default:
      return kernel_.integer->mr64;
  }
}

ValueRange PieceProduct::range_of_rows(std::int64_t row0, std::int64_t rows) const {
  ValueRange range;
  for (std::int64_t i = row0 / kRangeRows; i * kRangeRows < row0 + rows; ++i) {
    range = merged(range, lhs_ranges_[static_cast<std::size_t>(i)]);
  }
  return range;
}

Product::Size PieceProduct::size() const {
  const std::int64_t cols = piece_.place().cols;
  const double cost = relative_cost(kernel_, choice_, most_lhs_digits_, rhs_digits_.count);
  return {.m = lhs_.rows,
          .n = cols,
          .k = depth(),
          .panels = ceil_div(cols, shape_.cols),
          .panel_bytes = piece_.panel_bytes() * rhs_digits_.count,
          .mr = mr(),
          .multiply_adds_per_us = kernel_.multiply_adds_per_us / cost};
}

std::int64_t PieceProduct::lhs_bytes(std::int64_t rows) const {
  if (choice_.form != Form::kDigits) {
    return rows * row_stride(round_up(depth(), shape_.line_k) * shape_.elem_bytes);
  }
  const LhsLayout layout(*this, rows);
  return layout.digit(most_lhs_digits_) + layout.unpacked_bytes;
}

std::int64_t PieceProduct::sums_width(std::int64_t rows) const {
  const std::int64_t a_column = rows * (4 + (choice_.bytes <= 4 ? 4 : 8));
  return std::clamp(kSumsBytes / a_column / shape_.cols * shape_.cols, std::int64_t{shape_.cols},
                    round_up(piece_.place().cols, shape_.cols));
}

std::int64_t PieceProduct::scratch_bytes(std::int64_t rows) const {
  return choice_.form == Form::kDigits ? Scratch(*this, rows, nullptr).bytes : 0;
}

void PieceProduct::load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const {
  std::byte* const packed = static_cast<std::byte*>(to.packed);
  choice_.form == Form::kDigits ? load_digits(row0, rows, packed) : load_elements(row0, rows, packed);
}

void PieceProduct::multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const {
  const auto* packed = static_cast<const std::byte*>(lhs.packed);
  if (choice_.form == Form::kDigits) {
    multiply_digits(block, packed, Scratch(*this, block.rows, scratch));
  } else {
    multiply_elements(block, packed);
  }
}

// ---- whole elements ------------------------------------------------------------------------------------------------

void PieceProduct::load_elements(std::int64_t row0, std::int64_t rows, std::byte* to) const {
  const std::int64_t padded = round_up(depth(), shape_.line_k), stride = row_stride(padded * shape_.elem_bytes);
  const IntegerView src = lhs_.view.at(row0, piece_.place().k0);
  kernel_.integer->load({src, rows, depth(), 0, to, stride / shape_.elem_bytes, shape_.elem_bytes});
}

void PieceProduct::multiply_elements(const Block& block, const std::byte* lhs) const {
  const ColumnRange columns(block, shape_.cols, piece_.place().cols);
  const IntegerResult dst = dst_.at(block.row0, columns.first);
  const WideBlock wide{.lhs = lhs,
                       .lhs_stride = row_stride(round_up(depth(), shape_.line_k) * shape_.elem_bytes),
                       .rows = block.rows,
                       .rhs = piece_.panels(0) + block.panel0 * piece_.panel_bytes(),
                       .panel_bytes = piece_.panel_bytes(),
                       .lines = piece_.lines(),
                       .cols = columns.count,
                       .dst = dst.data,
                       .dst_stride = dst.stride,
                       .dst_bytes = dst.elem_bytes,
                       .add = add_};
  const IntegerKernel& kernel = *kernel_.integer;
  switch (choice_.form) {
    case Form::k16:
      return kernel.multiply16(wide);
    case Form::k32:
      return kernel.multiply32(wide);
    default:
      return (is_narrow(range_of_rows(block.row0, block.rows), rhs_range_) ? kernel.multiply64_narrow
                                                                           : kernel.multiply64)(wide);
  }
}

// ---- digits --------------------------------------------------------------------------------------------------------

void PieceProduct::load_digits(std::int64_t row0, std::int64_t rows, std::byte* to) const {
  const LhsLayout layout(*this, rows);
  const Digits digits = lhs_digits(row0, rows);
  const IntegerView src = lhs_.view.at(row0, piece_.place().k0);
  std::uint64_t* const sums = layout.sums(to);
  std::fill_n(sums, rows, 0);
  for (int d = 0; d < digits.count; ++d) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(src.data);
    std::int64_t stride = src.row_stride;
    if (!lhs_lies_as_bytes()) {
      auto* const unpacked = reinterpret_cast<std::uint8_t*>(to + layout.digit(most_lhs_digits_));
      kernel_.integer->load({src, rows, depth(), 8 * d, unpacked, depth(), 1});
      bytes = unpacked;
      stride = depth();
    }
    const std::uint8_t flip = digits.flip(d);
    kernel_.pack_lhs({bytes, stride, rows, depth(), flip, to + layout.digit(d)});
    if (rhs_digits_.offset() == 0) continue;  // nobody asks for sums
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t stored = kernel_.integer->row_sum(bytes + r * stride, depth(), flip);
      sums[r] += static_cast<std::uint64_t>(stored + (flip != 0 ? 128 * depth() : 0)) << (8 * d);
    }
  }
}

void PieceProduct::multiply_digits(const Block& block, const std::byte* lhs, const Scratch& scratch) const {
  const LhsLayout layout(*this, block.rows);
  const ColumnRange all(block, shape_.cols, piece_.place().cols);
  DigitColumns columns{.lhs = lhs,
                       .row0 = block.row0,
                       .rows = block.rows,
                       .digits = lhs_digits(block.row0, block.rows),
                       .panel = block.panel0,
                       .cols = all.count,
                       .has_row_terms = rhs_digits_.offset() != 0};
  const std::uint64_t lhs_offset = columns.digits.offset(), rhs_offset = rhs_digits_.offset();
  const bool one_pair = columns.digits.count == 1 && rhs_digits_.count == 1;
  if (one_pair && lhs_offset == 0 && rhs_offset == 0 && dst_.elem_bytes == 4 && !add_) {
    const IntegerResult dst = dst_.at(block.row0, all.first);
    return multiply_pair(columns, 0, 0, scratch, reinterpret_cast<std::int32_t*>(dst.data), dst.stride);
  }
  // Terms of a row: offset_b (sum a - K offset_a).
  const std::uint64_t shared = static_cast<std::uint64_t>(depth()) * lhs_offset;
  for (std::int64_t r = 0; r < block.rows; ++r) scratch.row_terms[r] = rhs_offset * (layout.sums(lhs)[r] - shared);
  for (std::int64_t col = 0; col < all.count; col += scratch.width) {
    columns.panel = block.panel0 + col / shape_.cols;
    columns.cols = std::min(scratch.width, all.count - col);
    multiply_columns(columns, scratch);
  }
}

// All pairs of digits, combined while the sums are in cache.
void PieceProduct::multiply_columns(const DigitColumns& columns, const Scratch& scratch) const {
  const std::int64_t col0 = columns.panel * shape_.cols;
  const std::uint64_t lhs_offset = columns.digits.offset();
  for (std::int64_t c = 0; lhs_offset != 0 && c < columns.cols; ++c) {  // terms of a column: offset_a sum b
    scratch.col_terms[c] = lhs_offset * piece_.column_sum(col0 + c);
  }
  const IntegerResult dst = dst_.at(columns.row0, col0);
  const int pairs = pairs_of_digits(columns.digits.count, rhs_digits_.count, choice_.bytes);
  int done = 0;
  for (int i = 0; i < columns.digits.count; ++i) {
    for (int j = 0; j < rhs_digits_.count && i + j < choice_.bytes; ++j, ++done) {
      multiply_pair(columns, i, j, scratch, scratch.sums, scratch.width);
      kernel_.integer->combine({.sums = scratch.sums,
                                .sums_stride = scratch.width,
                                .rows = columns.rows,
                                .cols = columns.cols,
                                .shift = 8 * (i + j),
                                .first = done == 0,
                                .last = done == pairs - 1,
                                .acc = scratch.acc,
                                .acc_bytes = choice_.bytes <= 4 ? 4 : 8,
                                .row_term = columns.has_row_terms ? scratch.row_terms : nullptr,
                                .col_term = lhs_offset != 0 ? scratch.col_terms : nullptr,
                                .dst = dst.data,
                                .dst_stride = dst.stride,
                                .dst_bytes = dst.elem_bytes,
                                .add = add_});
    }
  }
}

void PieceProduct::multiply_pair(const DigitColumns& columns, int i, int j, const Scratch& scratch, std::int32_t* dst,
                                 std::int64_t dst_stride) const {
  run_kernel(kernel_, GemmBlock{
                          .lhs = columns.lhs + LhsLayout(*this, columns.rows).digit(i),
                          .rows = columns.rows,
                          .rhs = piece_.panels(j) + columns.panel * piece_.panel_bytes(),
                          .nr = panel_shape().nr,
                          .kr = panel_shape().kr,
                          .column_sums = piece_.digit_sums(j) + columns.panel * shape_.cols,
                          .cols = columns.cols,
                          .k = depth(),
                          .k_block = k_block_of(kernel_),
                          .dst = dst,
                          .dst_stride = dst_stride,
                          .scratch = scratch.kernel,
                          .epilogue = {.kind = DstKind::kInt32},
                      });
}

}  // namespace octavo
