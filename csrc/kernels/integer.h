// What products of integers of any width need of an instruction set, beside the int8 kernels of kernel.h.
//
//   dst[m, n] (+)= sum_k lhs[m, k] * rhs[k, n]        modulo 2^8, 2^16, 2^32 or 2^64, as wide as an element of dst
//
// Two ways lead there; gemm/integers chooses.
//
// Digits: an integer is its bytes, and products of bytes are the int8 kernels' work. Here are the passes around them:
// `load` takes digits out of a matrix, `combine` adds the sums of two digits into a block of the result.
//
// Whole elements: lhs and rhs are brought to one width and multiplied as they are, by `multiply16`, `multiply32` or
// `multiply64`. The sums of the first two are int32 modulo 2^32, those of the last int64 modulo 2^64.
//
// Packed rhs: panels of 64-byte lines, a panel's lines in a run, zero-padded in N (and, for 16 bits, in K):
//
//        16 bits   k, k+1 of column 0 | k, k+1 of column 1 | ... | column 15        a line is 2 k of 16 columns
//        32 bits   k of column 0 | k of column 1 | ... | k of column 15             a line is 1 k of 16 columns
//        64 bits   k of column 0 | k of column 1 | ... | k of column 7              a line is 1 k of 8 columns
//
// Packed lhs: rows of elements, a stride apart. For 16 bits and an odd K one more may be read, which the rhs meets with
// zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// Elements in the caller's memory, in native byte order and aligned: element (r, c) at data + r * row_stride + c *
// col_stride. 1, 2, 4 or 8 bytes.
struct IntegerView {
  const std::byte* data;
  std::int64_t row_stride, col_stride;  // bytes
  std::int32_t elem_bytes;
  bool is_signed;

  IntegerView at(std::int64_t row, std::int64_t col) const {
    return {data + row * row_stride + col * col_stride, row_stride, col_stride, elem_bytes, is_signed};
  }
};

inline constexpr std::int64_t kWideLineBytes = 64;

// Rows that are packed together: int16 holds the sum of so many bytes.
inline constexpr std::int64_t kMostPackedK = 255;

// dst[r * dst_stride + c] = src(r, c) >> shift as dst_bytes bytes: cut off, or extended by its sign or zeros.
struct LoadTask {
  IntegerView src;
  std::int64_t rows, cols;
  std::int32_t shift;  // bits, such that dst is made of bits of src alone; 0 where dst is wider than src
  void* dst;
  std::int64_t dst_stride;  // elements
  std::int32_t dst_bytes;   // 1, 2, 4 or 8
};

// Bits that some element differs from its sign in (a value of either sign: -2^b <= x < 2^b for b such bits), and
// whether there is a negative one.
struct IntegerSpread {
  std::uint64_t bits;
  bool negative;
};

// Some rows by some panels, over all lines. Any number of rows and columns.
struct WideBlock {
  const void* lhs;
  std::int64_t lhs_stride;  // bytes
  std::int64_t rows;        // >= 1
  const void* rhs;          // first panel
  std::int64_t panel_bytes;
  std::int64_t lines;  // of a panel
  std::int64_t cols;   // >= 1
  void* dst;
  std::int64_t dst_stride;  // elements
  std::int32_t dst_bytes;   // sums of 32 bits are extended by their sign to 64
  bool add;                 // to what dst holds
};

// sums * 2^shift, of one pair of digits, on the way to dst. acc holds what earlier pairs left; the last pair adds the
// terms of its row and column and writes to dst.
struct CombineTask {
  const std::int32_t* sums;
  std::int64_t sums_stride, rows, cols;
  std::int32_t shift;
  bool first, last;
  void* acc;  // rows x cols elements of acc_bytes, sums_stride apart; not used where a pair is first and last
  std::int32_t acc_bytes;         // 4 or 8
  const std::uint64_t* row_term;  // rows, or null
  const std::uint64_t* col_term;  // cols, or null
  void* dst;
  std::int64_t dst_stride;
  std::int32_t dst_bytes;
  bool add;
};

// A vector times a matrix in memory, all of 4 or 8 bytes, modulo 2^32 or 2^64; lines of the matrix are a stride apart.
struct StreamTask {
  const void* vector;  // k elements
  const std::byte* matrix;
  std::int64_t stride;  // bytes
  std::int64_t k, count;
  void* sums;  // count elements
  std::int32_t elem_bytes;
};

struct IntegerKernel {
  std::int32_t mr16, mr32, mr64;  // rows of a register tile
  void (*load)(const LoadTask&);
  IntegerSpread (*spread)(const IntegerView& view, std::int64_t rows, std::int64_t cols);
  // The sum of bytes, each XORed with flip (0 or 0x80) and taken as int8; 2^23 of them at most.
  std::int64_t (*row_sum)(const std::uint8_t* bytes, std::int64_t count, std::uint8_t flip);
  // A panel of the int8 kernels (kernel.h) from k <= kMostPackedK rows of 16 bytes, XORed with flip; adds to the sums
  // of its columns.
  void (*pack_digits)(const std::uint8_t* rows, std::int64_t stride, std::int64_t k, std::int32_t kr, std::uint8_t flip,
                      std::int8_t* panel, std::int32_t* column_sums);
  // Two rows of 16 elements of 16 bits to a line, for each pair of rows.
  void (*pack_pairs)(const std::uint16_t* rows, std::int64_t stride, std::int64_t lines, std::uint16_t* panel);
  void (*combine)(const CombineTask&);
  void (*add_rows)(const StreamTask&);  // lines of `count`, one a k: sums[c] += vector[k] * line[k][c]
  void (*dot_rows)(const StreamTask&);  // lines of k, one a sum: sums[c] = sum of vector[k] * line[c][k]
  void (*multiply16)(const WideBlock&);
  void (*multiply32)(const WideBlock&);
  void (*multiply64)(const WideBlock&);
  void (*multiply64_narrow)(const WideBlock&);  // the same, of elements that int32 holds
};

}  // namespace octavo
