// The frame of the products of whole elements: loops over chunks of panels, tiles of rows and panels, and the register
// tile. What differs is a type `Form`:
//
//   Elem, Sum            what the lhs is broadcast as (a pair of 16 bits is one 32-bit Elem), and the signed sums
//   Vec, kRhs, kAccs     a vector; what a vector of the rhs is prepared to, and its accumulators, in numbers of vectors
//   kMr, kPanels         rows and panels of a tile
//   kTileBytes           bytes of a line that a tile takes: 64, or 32 for half lines; then kPanels is 1
//   zero(), load(at), store(at, Vec), broadcast(const Elem*)
//   prepare(at, Vec* rhs), multiply(Vec* accs, lhs Vec, const Vec* rhs), total(const Vec* accs)
//
//       rhs            c0 | c1 | ... | c15          one line
//       lhs broadcast   a |  a | ... |   a          one row's k
//       accumulators   c0 | c1 | ... | c15          modulo 2^32 or 2^64
#pragma once

#include <cstdint>

#include "kernels/detail/integer_passes.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/integer.h"

namespace octavo {
namespace {

// Panels that the lhs meets tile by tile: their share of the L2 cache.
constexpr std::int64_t kWideChunkBytes = 256 << 10;

template <class Form, int R, int kUsed>
void multiply_wide_tile(const WideBlock& block, const std::byte* lhs, const std::byte* panel, std::int64_t row0,
                        std::int64_t col0, std::int64_t cols) {
  using Vec = typename Form::Vec;
  using Elem = typename Form::Elem;
  using Sum = typename Form::Sum;
  constexpr int kVecBytes = sizeof(Vec), kVecs = Form::kTileBytes / kVecBytes, kLanes = kVecBytes / sizeof(Sum);
  constexpr int kAll = kUsed * kVecs, kBases = kRowBases<R>;
  constexpr int kAccs = Form::kAccs, kRhs = Form::kRhs;
  Vec acc[R][kAll * kAccs];
  unrolled<R>([&](auto r) { unrolled<kAll * kAccs>([&](auto v) { acc[r][v] = Form::zero(); }); });
  const std::byte* a[kBases];
  const std::byte* line[kUsed];
  const std::int64_t stride = block.lhs_stride;
  unrolled<kBases>([&](auto i) { a[i] = lhs + kRowsPerBase * i * stride; });
  unrolled<kUsed>([&](auto p) { line[p] = panel + p * block.panel_bytes; });
  for (std::int64_t i = 0; i < block.lines; ++i) {
    Vec b[kAll * kRhs];
    unrolled<kAll>([&](auto v) { Form::prepare(line[v / kVecs] + v % kVecs * kVecBytes, b + v * kRhs); });
    unrolled<R>([&](auto r) {
      const Vec row = Form::broadcast(reinterpret_cast<const Elem*>(a[r / kRowsPerBase] + r % kRowsPerBase * stride));
      unrolled<kAll>([&](auto v) { Form::multiply(acc[r] + v * kAccs, row, b + v * kRhs); });
    });
    unrolled<kBases>([&](auto j) { a[j] = kept_apart(a[j] + sizeof(Elem)); });
    unrolled<kUsed>([&](auto p) { line[p] += kWideLineBytes; });
  }
  alignas(64) Sum sums[R * kAll * kLanes];
  unrolled<R>([&](auto r) {
    unrolled<kAll>([&](auto v) { Form::store(sums + (r * kAll + v) * kLanes, Form::total(acc[r] + v * kAccs)); });
  });
  std::byte* const dst = static_cast<std::byte*>(block.dst) + (row0 * block.dst_stride + col0) * block.dst_bytes;
  put_rows(sums, kAll * kLanes, R, cols, dst, block.dst_stride, block.dst_bytes, block.add);
}

// The tile of `rows` rows, 1 <= rows <= R.
template <class Form, int kUsed, int R = Form::kMr>
void multiply_wide_rows(std::int64_t rows, const WideBlock& block, const std::byte* lhs, const std::byte* panel,
                        std::int64_t row0, std::int64_t col0, std::int64_t cols) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_wide_rows<Form, kUsed, R - 1>(rows, block, lhs, panel, row0, col0, cols);
  }
  multiply_wide_tile<Form, R, kUsed>(block, lhs, panel, row0, col0, cols);
}

template <class Form>
void multiply_wide(const WideBlock& block) {
  constexpr std::int64_t kMr = Form::kMr, kPanels = Form::kPanels;
  constexpr std::int64_t kCols = kWideLineBytes / sizeof(typename Form::Sum);         // of a panel
  constexpr std::int64_t kStripCols = Form::kTileBytes / sizeof(typename Form::Sum);  // of a tile in one panel
  const std::int64_t panels = (block.cols + kCols - 1) / kCols;
  const std::int64_t fitting = kWideChunkBytes / block.panel_bytes / kPanels * kPanels;
  const std::int64_t chunk = fitting < kPanels ? kPanels : fitting;
  const std::int64_t tiles = (block.rows + kMr - 1) / kMr, tile_rows = (block.rows + tiles - 1) / tiles;
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < panels ? c0 + chunk : panels;
    for (std::int64_t m = 0; m < block.rows; m += tile_rows) {
      const std::int64_t rows = block.rows - m < tile_rows ? block.rows - m : tile_rows;
      const std::byte* const lhs = static_cast<const std::byte*>(block.lhs) + m * block.lhs_stride;
      for (std::int64_t p = c0; p < c1; p += kPanels) {
        const std::byte* const panel = static_cast<const std::byte*>(block.rhs) + p * block.panel_bytes;
        if constexpr (kPanels > 1) {
          static_assert(kPanels == 2 && Form::kTileBytes == kWideLineBytes);
          const std::int64_t left = block.cols - p * kCols;
          if (c1 - p == 1) {
            multiply_wide_rows<Form, 1>(rows, block, lhs, panel, m, p * kCols, left < kCols ? left : kCols);
          } else {
            multiply_wide_rows<Form, 2>(rows, block, lhs, panel, m, p * kCols, left < 2 * kCols ? left : 2 * kCols);
          }
        } else {
          for (std::int64_t col = p * kCols; col < (p + 1) * kCols && col < block.cols; col += kStripCols) {
            const std::int64_t left = block.cols - col;
            multiply_wide_rows<Form, 1>(rows, block, lhs, panel + (col - p * kCols) * sizeof(typename Form::Sum), m,
                                        col, left < kStripCols ? left : kStripCols);
          }
        }
      }
    }
  }
}

// The table's row of an instruction set with these forms.
template <class Form16, class Form32, class Form64, class Form64Narrow>
constexpr IntegerKernel kWideKernel = {
    .mr16 = Form16::kMr,
    .mr32 = Form32::kMr,
    .mr64 = Form64::kMr,
    .load = load_any,
    .spread = spread_any,
    .row_sum = row_sum,
    .pack_digits = pack_digits,
    .pack_pairs = pack_pairs,
    .combine = combine,
    .add_rows = add_rows,
    .dot_rows = dot_rows,
    .multiply16 = multiply_wide<Form16>,
    .multiply32 = multiply_wide<Form32>,
    .multiply64 = multiply_wide<Form64>,
    .multiply64_narrow = multiply_wide<Form64Narrow>,
};

}  // namespace
}  // namespace octavo
