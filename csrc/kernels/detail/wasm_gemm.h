// What the kernels for WebAssembly share: their lhs, their loops and their row of the table. An instruction set says
// how it spreads a value over two bytes and how a tile is multiplied.
//
// The lhs is row-major, two bytes a value, each row padded with zeros. A tile is up to 4 rows by 4 columns, which are
// 16 bytes of a line of the panel (16 columns by 4 k), over all of K. WebAssembly promises 16 registers to nobody;
// engines on x86-64 have as many, and a tile takes 11 or 13. Included per kernel file; everything is in an anonymous
// namespace.
#pragma once

#include <wasm_simd128.h>

#include <cstdint>

#include "kernels/detail/scalar_finish.h"
#include "kernels/detail/scalar_rows.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {

extern const IntegerKernel integer_scalar;

namespace {

constexpr std::int64_t kLhsPad = 16;
constexpr std::int64_t kNr = 16, kKr = 4;
constexpr int kTileRows = 4;
constexpr std::int64_t kTileCols = 4;

// Bytes of a row, of which the values before they are spread take the first half.
inline std::int64_t lhs_stride(std::int64_t k) { return 2 * ((k + kLhsPad - 1) / kLhsPad * kLhsPad); }
inline std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }
inline std::int64_t scratch_elems(std::int64_t, std::int64_t) { return 0; }

template <class Isa>
void quantize_lhs(const QuantizeLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  quantize_rows(task, stride);
  for (std::int64_t m = 0; m < task.rows; ++m)
    Isa::spread(static_cast<std::int8_t*>(task.dst) + m * stride, stride / 2);
}

template <class Isa>
void pack_lhs(const PackLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::int8_t* q = static_cast<std::int8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; ++i) q[i] = static_cast<std::int8_t>(x[i] ^ task.flip);
    for (std::int64_t i = task.k; i < stride; ++i) q[i] = 0;
    Isa::spread(q, stride / 2);
  }
}

template <class Isa>
void gemm(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k), groups = (block.k + kKr - 1) / kKr;
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kKr * kNr) {
    const std::int64_t cols = block.cols - n0 < kNr ? block.cols - n0 : kNr;
    for (std::int64_t m = 0; m < block.rows; m += kTileRows) {
      const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs) + m * stride;
      const std::int64_t rows = block.rows - m < kTileRows ? block.rows - m : kTileRows;
      std::uint32_t acc[kTileRows][kNr];
      for (std::int64_t col = 0; col < cols; col += kTileCols) {
        with_constant<kTileRows>(rows, [&](auto row_count) {
          Isa::template multiply<row_count>(a, stride, panel + col * kKr, groups, &acc[0][col]);
        });
      }
      for (std::int64_t r = 0; r < rows; ++r) store_row(block, acc[r], m + r, n0, cols);
    }
  }
}

// The row of the table. Speeds were measured on no engine.
template <class Isa>
constexpr Kernel wasm_kernel(const char* name, std::uint32_t features, double multiply_adds_per_us) {
  return {
      .name = name,
      .features = features,
      .nr = kNr,
      .kr = kKr,
      .mr = kTileRows,
      .panels = 1,
      .lhs_elem_bytes = 2,
      .lhs_bytes = lhs_bytes,
      .scratch_elems = scratch_elems,
      .quantize_lhs = quantize_lhs<Isa>,
      .pack_lhs = pack_lhs<Isa>,
      .gemm = gemm<Isa>,
      .gemv = gemm<Isa>,
      .gemv_max_rows = kTileRows,
      .multiply_adds_per_us = multiply_adds_per_us,
      .integer = &integer_scalar,
      .integer_costs = {1, 4, 8, 8, 10},
  };
}

}  // namespace
}  // namespace octavo
