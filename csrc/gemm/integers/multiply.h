// Exact products of integers of any width:
//
//   dst[m, n] = sum_k lhs[m, k] * rhs[k, n]        modulo 2^8, 2^16, 2^32 or 2^64, as wide as an element of dst
//
// The way of the data: look at the values (plan.h) and choose a form -> pack a piece of the rhs (packed_rhs.h) -> for
// each block of rows, on all threads: bring the rows to the form, multiply, finish the sums in cache -> dst.
//
// Memory beside the operands and the result: a piece of the rhs (kPieceBytes at most) and, for each thread, a block of
// rows and of sums (about 1 MiB).
//
// A few vectors times a matrix of the result's type go another way: streamed.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/weight_memory.h"
#include "gemm/integers/packed_rhs.h"
#include "gemm/integers/piece_product.h"
#include "gemm/verbose.h"

namespace octavo {

inline constexpr std::int64_t kPieceBytes = std::int64_t{16} << 20;

// lhs.cols == rhs.rows. dst overlaps neither. `report` learns how it was done.
void multiply_integers(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                       CallReport& report);

// `count` products, each matrix so many bytes after the one before.
struct BatchStrides {
  std::int64_t lhs, rhs, dst;
};
void multiply_integers_batch(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                             std::int64_t count, const BatchStrides& strides, CallReport& report);

// A right-hand side that is packed once for each form that its products take. Any number of threads may use it; it
// refers to the matrix, which has to stay as it is. It has no lock that another thread could hold at a fork: threads
// that need the same form at once each pack it, and the first copy that is done stays.
class PackedIntegers {
 public:
  explicit PackedIntegers(const IntegerMatrix& matrix);
  PackedIntegers(const PackedIntegers&) = delete;
  PackedIntegers& operator=(const PackedIntegers&) = delete;
  ~PackedIntegers();

  const IntegerMatrix& matrix() const { return matrix_; }
  std::size_t size_bytes() const;
  void multiply(const IntegerMatrix& lhs, const IntegerResult& dst);

 private:
  struct OwnedPiece {
    PackedPiece piece;
    WeightMemory memory;
  };
  using Pieces = std::vector<OwnedPiece>;
  const Pieces& pieces(Form form);
  Pieces pack(Form form) const;

  IntegerMatrix matrix_;
  ValueRange range_;
  std::atomic<const Pieces*> pieces_[4]{};  // by form, owned; null until it is asked for, then never changed
};

}  // namespace octavo
