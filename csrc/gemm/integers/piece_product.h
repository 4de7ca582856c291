// The product of the rows of a matrix of integers with one packed piece of another, as gemm.h plans it.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm/gemm.h"
#include "gemm/integers/packed_rhs.h"
#include "gemm/integers/plan.h"
#include "kernels/integer.h"
#include "kernels/kernel.h"

namespace octavo {

// Rows of elements that lie together, a stride apart.
struct IntegerResult {
  std::byte* data;
  std::int64_t stride;      // elements
  std::int32_t elem_bytes;  // 1, 2, 4 or 8

  IntegerResult at(std::int64_t row, std::int64_t col) const {
    return {data + (row * stride + col) * elem_bytes, stride, elem_bytes};
  }
};

// Rows of the lhs whose values are looked at together.
inline constexpr std::int64_t kRangeRows = 64;

// dst (+)= lhs[:, k of the piece] piece, for all rows; dst begins with the piece's first column.
class PieceProduct final : public Product {
 public:
  struct Operands {
    const IntegerMatrix& lhs;
    const std::vector<ValueRange>& lhs_ranges;  // of each kRangeRows rows
    const PackedPiece& piece;
    ValueRange rhs_range;
    IntegerResult dst;
    bool add;
  };
  PieceProduct(const Kernel& kernel, const Choice& choice, const Operands& operands);

  Size size() const override;
  std::int64_t lhs_bytes(std::int64_t rows) const override;
  std::int64_t scratch_bytes(std::int64_t rows) const override;
  void load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const override;
  void multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const override;

 private:
  struct LhsLayout;
  struct Scratch;
  struct DigitColumns;

  std::int64_t mr() const;
  std::int64_t depth() const { return piece_.place().depth; }
  ValueRange range_of_rows(std::int64_t row0, std::int64_t rows) const;
  Digits lhs_digits(std::int64_t row0, std::int64_t rows) const {
    return digits_of(range_of_rows(row0, rows)).lowest(choice_.bytes);
  }
  bool lhs_lies_as_bytes() const { return lhs_.view.elem_bytes == 1 && lhs_.view.col_stride == 1; }
  std::int64_t sums_width(std::int64_t rows) const;

  void load_elements(std::int64_t row0, std::int64_t rows, std::byte* to) const;
  void load_digits(std::int64_t row0, std::int64_t rows, std::byte* to) const;
  void multiply_elements(const Block& block, const std::byte* lhs) const;
  void multiply_digits(const Block& block, const std::byte* lhs, const Scratch& scratch) const;
  void multiply_columns(const DigitColumns& columns, const Scratch& scratch) const;
  void multiply_pair(const DigitColumns& columns, int i, int j, const Scratch& scratch, std::int32_t* dst,
                     std::int64_t dst_stride) const;

  const Kernel& kernel_;
  Choice choice_;
  FormShape shape_;
  const IntegerMatrix& lhs_;
  const std::vector<ValueRange>& lhs_ranges_;
  const PackedPiece& piece_;
  ValueRange rhs_range_;
  IntegerResult dst_;
  bool add_;
  Digits rhs_digits_;
  int most_lhs_digits_;
};

}  // namespace octavo
