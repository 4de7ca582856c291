// Right-hand sides of products of integers, packed: pieces of at most some columns by some k, each in one form.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "gemm/integers/plan.h"
#include "kernels/integer.h"

namespace octavo {

// A matrix in the caller's memory.
struct IntegerMatrix {
  IntegerView view;
  std::int64_t rows, cols;
};

// Multiply-adds of a product.
inline double work_of(const IntegerMatrix& lhs, const IntegerMatrix& rhs) {
  return static_cast<double>(lhs.rows) * static_cast<double>(lhs.cols) * static_cast<double>(rhs.cols);
}

// K of a piece: 8 KiB of an lhs row, and sums of digits' products far from int32's limits.
constexpr std::int64_t piece_k(Form form) { return 8192 / form_shape(form).elem_bytes; }

// One piece: columns [col0, col0 + cols) by k in [k0, k0 + depth) of a matrix.
class PackedPiece {
 public:
  struct Place {
    std::int64_t k0, depth, col0, cols;
  };

  // Packs it, with all threads if `parallel`. Memory that the object has is used again.
  void pack(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Place& place, Form form, Digits digits,
            bool parallel);

  const Place& place() const { return place_; }
  Digits digits() const { return digits_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  std::int64_t lines() const;
  const std::int8_t* panels(int digit) const { return panels_.as<const std::int8_t>() + digit * digit_bytes_; }
  // Digits: sums of the packed bytes, one a column; sums of the values modulo 2^64.
  const std::int32_t* digit_sums(int digit) const { return sums_.as<const std::int32_t>() + digit * padded_cols_; }
  std::uint64_t column_sum(std::int64_t col) const;
  std::size_t size_bytes() const { return panels_.size_bytes() + sums_.size_bytes(); }

 private:
  // Some rows of some panels, which are packed together.
  struct Tile {
    std::int64_t k, rows, panel0, panel1;
  };
  IntegerView view_of(const IntegerMatrix& rhs, const Tile& tile) const;
  std::int64_t cols_of(const Tile& tile) const;
  void pack_elements(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);
  void pack_pairs(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);
  void pack_digits(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);

  Place place_{};
  Form form_ = Form::kDigits;
  Digits digits_;
  std::int32_t kr_ = 0;
  std::int64_t padded_cols_ = 0, panel_bytes_ = 0, digit_bytes_ = 0;
  AlignedBuffer panels_, sums_;
};

}  // namespace octavo
