// Exact products of integers of any width:
//
//   dst[m, n] = sum_k lhs[m, k] * rhs[k, n]        modulo 2^8, 2^16, 2^32 or 2^64, as wide as an element of dst
//
// The way of the data: look at the values (plan.h) and choose a form -> pack a piece of the rhs (packed_rhs.h) -> for
// each block of rows, on all threads: bring the rows to the form, multiply, finish the sums in cache -> dst.
//
// Memory beside the operands and the result: a piece of the rhs (kPieceBytes at most) and, for each thread, a block of
// rows and of sums (about 1 MiB).
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "gemm/integers/packed_rhs.h"
#include "gemm/integers/piece_product.h"

namespace octavo {

inline constexpr std::int64_t kPieceBytes = std::int64_t{16} << 20;

// lhs.cols == rhs.rows. dst overlaps neither.
void multiply_integers(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst);

// `count` products, each matrix so many bytes after the one before.
struct BatchStrides {
  std::int64_t lhs, rhs, dst;
};
void multiply_integers_batch(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                             std::int64_t count, const BatchStrides& strides);

// A right-hand side that is packed once for each form that its products take. Any number of threads may use it; it
// refers to the matrix, which has to stay as it is.
class PackedIntegers {
 public:
  explicit PackedIntegers(const IntegerMatrix& matrix);

  const IntegerMatrix& matrix() const { return matrix_; }
  ValueRange range() const { return range_; }
  std::size_t size_bytes() const;
  void multiply(const IntegerMatrix& lhs, const IntegerResult& dst);

 private:
  const std::vector<PackedPiece>& pieces(Form form);

  IntegerMatrix matrix_;
  ValueRange range_;
  mutable std::mutex mutex_;
  std::vector<PackedPiece> pieces_[4];  // by form; empty until it is asked for, then never changed
};

}  // namespace octavo
