// Right-hand sides of products of integers, packed: pieces of at most some columns by some k, each in one form.
#pragma once

#include <cstdint>

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

// One piece: columns [col0, col0 + cols) by k in [k0, k0 + depth) of a matrix. In memory of the caller's:
//
//       panels of digit 0 | panels of digit 1 | ... | sums of the digits' columns
class PackedPiece {
 public:
  struct Place {
    std::int64_t k0, depth, col0, cols;
  };

  PackedPiece(const Place& place, Form form, Digits digits);
  std::int64_t bytes() const { return sums_at_ + sums_bytes_; }
  // What one of its panels adds to that.
  std::int64_t panel_and_sums_bytes() const;
  // Packs it into so many bytes, aligned to 64, with all threads if `parallel`.
  void pack(const IntegerKernel& kernel, const IntegerMatrix& rhs, void* memory, bool parallel);

  const Place& place() const { return place_; }
  Digits digits() const { return digits_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  std::int64_t lines() const;
  const std::int8_t* panels(int digit) const { return panels_as<const std::int8_t>() + digit * digit_bytes_; }
  // Digits: sums of the packed bytes, one a column; sums of the values modulo 2^64.
  const std::int32_t* digit_sums(int digit) const { return sums() + digit * padded_cols_; }
  std::uint64_t column_sum(std::int64_t col) const;

 private:
  // Some rows of some panels, which are packed together.
  struct Tile {
    std::int64_t k, rows, panel0, panel1;
  };
  IntegerView view_of(const IntegerMatrix& rhs, const Tile& tile) const;
  std::int64_t cols_of(const Tile& tile) const;
  void pack_elements(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);
  void pack_pairs(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);
  void pack_bytes(const IntegerKernel& kernel, const IntegerMatrix& rhs, std::int64_t panel);
  void pack_digits(const IntegerKernel& kernel, const IntegerMatrix& rhs, const Tile& tile);

  template <class T>
  T* panels_as() const {
    return reinterpret_cast<T*>(memory_);
  }
  std::int32_t* sums() const { return reinterpret_cast<std::int32_t*>(memory_ + sums_at_); }

  Place place_;
  Form form_;
  Digits digits_;
  std::int32_t kr_;
  std::int64_t panel_bytes_, digit_bytes_, padded_cols_, sums_at_, sums_bytes_ = 0;
  std::byte* memory_ = nullptr;
};

}  // namespace octavo
