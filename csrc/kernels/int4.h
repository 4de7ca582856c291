// The contract for four-bit weights: groups of consecutive k with a scale, and perhaps a zero point, of their own.
//
//   f_g[m, n] = float( sum over k of group g of (lhs[m, k] - z_x[m]) * (rhs[n, k] - z_w[n, g]) ) * scale[n, g]
//   dst[m, n] = (((0 + f_0) + f_1) + ...) * lhs_scale[m]; then + bias[n]; then relu
//
// g ascending, one float32 accumulator, each sum an exact int32, no contraction: the same bits from every kernel.
//
// Packed rhs ("panels"): [N / nr][K / 64][32 / kr][nr][kr] bytes, zero-padded in N and K. A value w of -8..7 is kept as
// the nibble u = w + 8, so that unpacking is an AND, or a shift and an AND, and no sign has to be extended. The nibbles
// of k and k + 32 of a chunk of 64 k share a byte, the low nibble k. With nr = 16 and kr = 4 a line of 64 bytes is
//
//        low nibbles     k 0..3   of column 0 | k 0..3   of column 1 | ... | of column 15
//        high nibbles    k 32..35 of column 0 | k 32..35 of column 1 | ... | of column 15
//
// so its two halves are, unpacked, two lines of the int8 panels (kernel.h). Half a chunk, 32 k, is the smallest group.
//
// Arrays over groups are [panel][group][nr]: a panel's run side by side with its weights.
//
// Offsets: a nibble u stands for u - offset with offset = 8 + z_w. VPDPBUSD and VPMADDUBSW multiply unsigned by signed
// bytes, so x86 kernels take the nibbles as they are and subtract offset * (sum of the lhs over the group).
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace octavo {

inline constexpr std::int64_t kInt4Chunk = 64;  // k whose nibbles share bytes
inline constexpr std::int64_t kInt4Half = 32;   // k of the low or of the high nibbles of a chunk
inline constexpr std::int32_t kInt4Offset = 8;  // of a weight whose zero point is 0

// Column sums are int16 where a group is no longer than this, else int32: 15 * 2,184 is the most int16 holds.
inline constexpr std::int64_t kInt4NarrowSumK = 2176;

// Functions here are always inlined: otherwise an unoptimised object would hold copies that others could share
// (kernel.h).
struct Int4Groups {
  std::int64_t k;        // >= 1
  std::int64_t group_k;  // a multiple of kInt4Half; the last group may be shorter
  bool has_offsets;      // offsets of their own: else all are kInt4Offset

  [[gnu::always_inline]] std::int64_t count() const { return (k + group_k - 1) / group_k; }
  [[gnu::always_inline]] std::int64_t chunks() const { return (k + kInt4Chunk - 1) / kInt4Chunk; }
  [[gnu::always_inline]] std::int64_t halves() const { return (k + kInt4Half - 1) / kInt4Half; }
  [[gnu::always_inline]] std::int64_t halves_per_group() const { return group_k / kInt4Half; }
};

// One macro-block, as GemmBlock. Pointers start at its first row and first panel; arrays over groups may be null.
struct Int4Block {
  Int4Groups groups;
  const void* lhs;          // packed by the same kernel
  std::int64_t rows;        // >= 1
  const std::uint8_t* rhs;  // 64-byte aligned
  std::int32_t nr, kr;
  std::int64_t cols;  // >= 1; the last panel may be used in part
  const void* scale;  // float32, or float16 where half_scale
  bool half_scale;
  const std::uint8_t* offset;          // null: kInt4Offset everywhere
  const void* column_sums;             // over k of u - offset; null where no row has a zero point
  const float* lhs_scale;              // rows
  const std::int32_t* lhs_zero_point;  // rows; null where column_sums is
  const float* bias;                   // columns, padded to nr; or null
  bool relu;
  float* dst;
  std::int64_t dst_stride;
  void* scratch;  // scratch_bytes(rows), 64-byte aligned
  // Whether a kernel may prefetch the scales of groups of 32 that come from memory: not every CPU gains.
  bool prefetch_scale;

  [[gnu::always_inline]] bool wide_sums() const { return groups.group_k > kInt4NarrowSumK; }
};

struct Int4Kernel {
  std::int32_t mr;  // rows of a register tile, as Kernel::mr
  std::int64_t (*lhs_bytes)(std::int64_t rows, const Int4Groups&);
  std::int64_t (*scratch_bytes)(std::int64_t rows);
  // Rows to bytes as Kernel::quantize_lhs has it, with what the kernel needs of their groups. No FixedQuant.
  void (*quantize_lhs)(const QuantizeLhs&, const Int4Groups&);
  void (*gemm)(const Int4Block&);
  void (*gemv)(const Int4Block&);  // for at most gemv_max_rows rows
  std::int64_t gemv_max_rows;
  double multiply_adds_per_us;  // as Kernel::multiply_adds_per_us
  std::int64_t min_rows = 1;    // as Kernel::min_rows, for four-bit weights of any size
};

}  // namespace octavo
