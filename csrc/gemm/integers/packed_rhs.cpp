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

}  // namespace

std::int64_t PackedPiece::lines() const { return ceil_div(place_.depth, form_shape(form_).line_k); }

void PackedPiece::pack(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Place& place, Form form,
                       Digits digits, bool parallel) {
  place_ = place;
  form_ = form;
  digits_ = digits;
  kr_ = panel_shape().kr;
  const FormShape shape = form_shape(form);
  const std::int64_t panels = ceil_div(place.cols, shape.cols);
  padded_cols_ = panels * shape.cols;
  if (form == Form::kDigits) {
    panel_bytes_ = round_up(place.depth, kr_) * shape.cols;
    digit_bytes_ = round_up(panels * panel_bytes_ + kRhsSlackBytes, kWideLineBytes);
    panels_.reserve(static_cast<std::size_t>(digits.count * digit_bytes_));
    sums_.reserve(static_cast<std::size_t>(digits.count * padded_cols_) * sizeof(std::int32_t));
    std::memset(sums_.as<void>(), 0, static_cast<std::size_t>(digits.count * padded_cols_) * sizeof(std::int32_t));
    for (int d = 0; d < digits.count; ++d) {  // the slack is read, never used
      std::memset(panels_.as<std::int8_t>() + d * digit_bytes_ + panels * panel_bytes_, 0, kRhsSlackBytes);
    }
  } else {
    panel_bytes_ = lines() * kWideLineBytes;
    panels_.reserve(static_cast<std::size_t>(panels * panel_bytes_));
  }
  // Some panels at a time, and of them some rows, so that a row of the rhs is read in runs of a few lines.
  const auto pack_some = [&](std::int64_t i) {
    const std::int64_t first = i * kPanelsAtOnce, last = std::min(panels, first + kPanelsAtOnce);
    for (std::int64_t k = 0; k < place.depth; k += kRowsAtOnce) {
      for (std::int64_t p = first; p < last; ++p) {
        form == Form::kDigits ? pack_digits(kernel, rhs, p, k) : pack_elements(kernel, rhs, p, k);
      }
    }
  };
  pack_panels(ceil_div(panels, kPanelsAtOnce), parallel ? place.cols * place.depth : 0, pack_some);
}

// Elements of 32 and 64 bits are loaded to where they belong; those of 16 by pairs of rows, by way of a small block.
void PackedPiece::pack_elements(const IntegerKernel& kernel, const IntegerMatrix& rhs, std::int64_t panel,
                                std::int64_t k) {
  const FormShape shape = form_shape(form_);
  const std::int64_t col = panel * shape.cols, cols = std::min<std::int64_t>(shape.cols, place_.cols - col);
  const std::int64_t rows = std::min(kRowsAtOnce, place_.depth - k), lines = ceil_div(rows, shape.line_k);
  std::byte* const to = panels_.as<std::byte>() + panel * panel_bytes_ + k / shape.line_k * kWideLineBytes;
  const IntegerView src = rhs.view.at(place_.k0 + k, place_.col0 + col);
  if (form_ != Form::k16) {
    if (cols < shape.cols) std::memset(to, 0, static_cast<std::size_t>(lines * kWideLineBytes));
    return kernel.load({src, rows, cols, 0, to, shape.cols, shape.elem_bytes});
  }
  alignas(64) std::uint16_t elems[kRowsAtOnce * 16];
  if (cols < shape.cols || rows % 2 != 0) std::memset(elems, 0, sizeof elems);
  kernel.load({src, rows, cols, 0, elems, shape.cols, shape.elem_bytes});
  kernel.pack_pairs(elems, lines, reinterpret_cast<std::uint16_t*>(to));
}

// Columns behind the last one hold anything: nobody reads their sums.
void PackedPiece::pack_digits(const IntegerKernel& kernel, const IntegerMatrix& rhs, std::int64_t panel,
                              std::int64_t k) {
  constexpr std::int64_t kCols = form_shape(Form::kDigits).cols;
  const std::int64_t col = panel * kCols, cols = std::min(kCols, place_.cols - col);
  const std::int64_t rows = std::min(kRowsAtOnce, place_.depth - k);
  const IntegerView src = rhs.view.at(place_.k0 + k, place_.col0 + col);
  alignas(64) std::uint8_t bytes[kRowsAtOnce * kCols];
  if (cols < kCols) std::memset(bytes, 0, sizeof bytes);
  for (int d = 0; d < digits_.count; ++d) {
    kernel.load({src, rows, cols, 8 * d, bytes, kCols, 1});
    kernel.pack_digits(bytes, rows, kr_, digits_.flip(d),
                       panels_.as<std::int8_t>() + d * digit_bytes_ + panel * panel_bytes_ + k * kCols,
                       sums_.as<std::int32_t>() + d * padded_cols_ + col);
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
