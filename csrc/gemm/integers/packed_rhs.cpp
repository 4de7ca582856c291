#include "gemm/integers/packed_rhs.h"

#include <algorithm>
#include <cstring>

#include "gemm/gemm.h"
#include "gemm/pack.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Rows of the rhs taken at a time, so that what is read and written stays in cache.
constexpr std::int64_t kRowsAtOnce = 64;

// Panels of a task.
constexpr std::int64_t kPanelsAtOnce = 8;
static_assert(kRowsAtOnce <= kMostPackedK);

}  // namespace

std::int64_t PackedPiece::panel_and_sums_bytes() const {
  if (form_ != Form::kDigits) return panel_bytes_;
  return digits_.count * (panel_bytes_ + form_shape(form_).cols * std::int64_t{sizeof(std::int32_t)});
}

std::int64_t PackedPiece::lines() const { return ceil_div(place_.depth, form_shape(form_).line_k); }

PackedPiece::PackedPiece(const Place& place, Form form, Digits digits)
    : place_(place), form_(form), digits_(digits), kr_(panel_shape().kr) {
  const FormShape shape = form_shape(form);
  const std::int64_t panels = ceil_div(place.cols, shape.cols);
  padded_cols_ = panels * shape.cols;
  if (form == Form::kDigits) {
    panel_bytes_ = round_up(place.depth, kr_) * shape.cols;
    digit_bytes_ = round_up(panels * panel_bytes_ + kRhsSlackBytes, kWideLineBytes);
    sums_at_ = digits.count * digit_bytes_;
    sums_bytes_ = digits.count * padded_cols_ * std::int64_t{sizeof(std::int32_t)};
  } else {
    panel_bytes_ = lines() * kWideLineBytes;
    digit_bytes_ = sums_at_ = panels * panel_bytes_;
  }
}

void PackedPiece::pack(const IntegerKernel& kernel, const IntegerMatrix& rhs, void* memory, bool parallel) {
  memory_ = static_cast<std::byte*>(memory);
  const std::int64_t panels = padded_cols_ / form_shape(form_).cols;
  if (form_ == Form::kDigits) {
    std::memset(sums(), 0, static_cast<std::size_t>(sums_bytes_));
    for (int d = 0; d < digits_.count; ++d) {  // the slack is read, never used
      std::memset(panels_as<std::byte>() + d * digit_bytes_ + panels * panel_bytes_, 0, kRhsSlackBytes);
    }
  }
  if (form_ == Form::kDigits && rhs.view.elem_bytes == 1 && rhs.view.row_stride == 1) {
    return pack_panels(panels, parallel ? place_.cols * place_.depth : 0,
                       [&](std::int64_t panel) { pack_bytes(kernel, rhs, panel); });
  }
  const auto pack_some = [&](std::int64_t i) {
    for (std::int64_t k = 0; k < place_.depth; k += kRowsAtOnce) {
      const Tile tile{k, std::min(kRowsAtOnce, place_.depth - k), i * kPanelsAtOnce,
                      std::min(panels, (i + 1) * kPanelsAtOnce)};
      switch (form_) {
        case Form::kDigits:
          pack_digits(kernel, rhs, tile);
          break;
        case Form::k16:
          pack_pairs(kernel, rhs, tile);
          break;
        default:
          pack_elements(kernel, rhs, tile);
      }
    }
  };
  pack_panels(ceil_div(panels, kPanelsAtOnce), parallel ? place_.cols * place_.depth : 0, pack_some);
}

IntegerView PackedPiece::view_of(const IntegerMatrix& rhs, const Tile& tile) const {
  return rhs.view.at(place_.k0 + tile.k, place_.col0 + tile.panel0 * form_shape(form_).cols);
}

std::int64_t PackedPiece::cols_of(const Tile& tile) const {
  const std::int64_t cols = form_shape(form_).cols;
  return std::min(place_.cols, tile.panel1 * cols) - tile.panel0 * cols;
}

// Elements of 32 and 64 bits are loaded to where they belong.
void PackedPiece::pack_elements(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile) {
  const FormShape shape = form_shape(form_);
  for (std::int64_t p = tile.panel0; p < tile.panel1; ++p) {
    const std::int64_t cols = std::min<std::int64_t>(shape.cols, place_.cols - p * shape.cols);
    std::byte* const to = panels_as<std::byte>() + p * panel_bytes_ + tile.k * kWideLineBytes;
    if (cols < shape.cols) std::memset(to, 0, static_cast<std::size_t>(tile.rows * kWideLineBytes));
    const IntegerView src = rhs.view.at(place_.k0 + tile.k, place_.col0 + p * shape.cols);
    kernel.load({src, tile.rows, cols, 0, to, shape.cols, shape.elem_bytes});
  }
}

// Smaller ones by way of a block in the L1 cache: so the rhs is read in runs of some lines. Columns behind the last one
// hold anything: nobody reads their sums.
void PackedPiece::pack_pairs(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile) {
  constexpr std::int64_t kCols = form_shape(Form::k16).cols, kStride = kPanelsAtOnce * kCols;
  alignas(64) std::uint16_t rows[(kRowsAtOnce + 1) * kStride];
  const std::int64_t cols = cols_of(tile), lines = ceil_div(tile.rows, 2);
  if (cols % kCols != 0) std::memset(rows, 0, sizeof rows);
  std::memset(rows + tile.rows * kStride, 0, kStride * sizeof *rows);  // of a last pair that is half
  kernel.load({view_of(rhs, tile), tile.rows, cols, 0, rows, kStride, 2});
  for (std::int64_t p = tile.panel0; p < tile.panel1; ++p) {
    std::byte* const to = panels_as<std::byte>() + p * panel_bytes_ + tile.k / 2 * kWideLineBytes;
    kernel.pack_pairs(rows + (p - tile.panel0) * kCols, kStride, lines, reinterpret_cast<std::uint16_t*>(to));
  }
}

// Bytes whose k lie side by side, as those of a matrix that is turned.
void PackedPiece::pack_bytes(const IntegerKernel& kernel, const IntegerMatrix& rhs, std::int64_t panel) {
  constexpr std::int64_t kCols = form_shape(Form::kDigits).cols;
  const std::int64_t col = panel * kCols;
  const IntegerView src = rhs.view.at(place_.k0, place_.col0 + col);
  const ByteColumns columns{reinterpret_cast<const std::uint8_t*>(src.data), src.col_stride,
                            std::min(kCols, place_.cols - col), place_.depth};
  pack_columns(kernel, columns, digits_.flip(0), panel_shape(), panels_as<std::int8_t>() + panel * panel_bytes_,
               sums() + col);
}

void PackedPiece::pack_digits(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile) {
  constexpr std::int64_t kCols = form_shape(Form::kDigits).cols, kStride = kPanelsAtOnce * kCols;
  alignas(64) std::uint8_t rows[kRowsAtOnce * kStride];
  const std::int64_t cols = cols_of(tile);
  if (cols % kCols != 0) std::memset(rows, 0, sizeof rows);
  for (int d = 0; d < digits_.count; ++d) {
    kernel.load({view_of(rhs, tile), tile.rows, cols, 8 * d, rows, kStride, 1});
    for (std::int64_t p = tile.panel0; p < tile.panel1; ++p) {
      kernel.pack_digits(rows + (p - tile.panel0) * kCols, kStride, tile.rows, kr_, digits_.flip(d),
                         panels_as<std::int8_t>() + d * digit_bytes_ + p * panel_bytes_ + tile.k * kCols,
                         sums() + d * padded_cols_ + p * kCols);
    }
  }
}

std::uint64_t PackedPiece::column_sum(std::int64_t col) const {
  std::uint64_t sum = 0;
  for (int d = 0; d < digits_.count; ++d) {
    const std::int64_t stored = digit_sums(d)[col];
    const std::int64_t whole = stored + (digits_.flip(d) != 0 ? 128 * place_.depth : 0);
    sum += static_cast<std::uint64_t>(whole) << (8 * d);
  }
  return sum;
}

}  // namespace octavo
