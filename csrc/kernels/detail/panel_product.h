// float32 rows times panels, over the vectors of an instruction set (kernels/detail/x86_vectors_avx2.h and its like):
// the two products of attention. See kernels/panel_product.h.
//
// A register tile is R rows by P panels of 16 columns. For each k it loads P lines of 16 columns and broadcasts R
// elements of lhs: with AVX2, 6 x 1 has 12 accumulators, 8 loads and 12 fused multiply-adds. Fewer rows take more
// panels, because an accumulator waits for its last sum, and 8 of them are needed to keep two units busy.
#pragma once

#include <cstdint>

#include "kernels/detail/unroll.h"
#include "kernels/panel_product.h"

namespace octavo {
namespace {

inline constexpr int kProductRows = 6;  // the most of a tile

// The largest power of two of panels that R rows have registers for, at most 4. Without vectors, one of each.
template <class V, int R>
constexpr int tile_panels() {
  constexpr int kAccumulators = V::kLanes == 8 ? 12 : 24;  // of 16 registers, or of 32
  int panels = 1;
  while (panels < 4 && 2 * panels * R * V::kVecs <= kAccumulators) panels *= 2;
  return panels;
}

template <class V, int R, int P>
void product_tile(const PanelProduct& task, std::int64_t row, std::int64_t panel) {
  typename V::Float sums[R][P][V::kVecs];
  const float* const lhs = task.lhs + row * task.lhs_stride;
  const float* const rhs = task.rhs + panel * task.panel_stride;
  float* const dst = task.dst + row * task.dst_stride + panel * kPanelColumns;
  const auto each = [](const auto& body) {
    unrolled<R>([&](auto r) {
      unrolled<P>(
          [&](auto p) { unrolled<V::kVecs>([&](auto v) { body(r, p, v, p * kPanelColumns + v * V::kLanes); }); });
    });
  };
  if (task.add) {
    each([&](auto r, auto p, auto v, int at) { sums[r][p][v] = V::load(dst + r * task.dst_stride + at); });
  } else {
    each([&](auto r, auto p, auto v, int) { sums[r][p][v] = V::set1(0); });
  }
  for (std::int64_t k = 0; k < task.depth; ++k) {
    typename V::Float line[P][V::kVecs];
    unrolled<P>([&](auto p) {
      const float* at = rhs + p * task.panel_stride + k * kPanelColumns;
      unrolled<V::kVecs>([&](auto v) { line[p][v] = V::load(at + v * V::kLanes); });
    });
    unrolled<R>([&](auto r) {
      const auto element = V::set1(lhs[r * task.lhs_stride + k]);
      unrolled<P>([&](auto p) {
        unrolled<V::kVecs>([&](auto v) { sums[r][p][v] = V::fma(element, line[p][v], sums[r][p][v]); });
      });
    });
  }
  const auto scale = V::set1(task.scale);
  each([&](auto r, auto p, auto v, int at) { V::store(dst + r * task.dst_stride + at, sums[r][p][v] * scale); });
}

// `rows` rows from `row` on by all panels from `panel` on, as many at a time as there are registers for.
template <class V, int R, int P>
void product_panels(const PanelProduct& task, std::int64_t row, std::int64_t panel, std::int64_t end) {
  for (; panel + P <= end; panel += P) product_tile<V, R, P>(task, row, panel);
  if constexpr (P > 1) {
    if (panel < end) product_panels<V, R, P / 2>(task, row, panel, end);
  }
}

template <class V>
void panel_product(const PanelProduct& task) {
  constexpr int kRows = V::kLanes == 1 ? 1 : kProductRows;
  // Tiles of about the same number of rows: 8 rows are 4 and 4. The panels of a step, about 16 KiB, stay in the L1
  // cache for all rows.
  const std::int64_t tiles = (task.rows + kRows - 1) / kRows;
  const std::int64_t fit = 256 / (task.depth + 1), step = fit < 4 ? 4 : fit;
  for (std::int64_t panel = 0; panel < task.panels; panel += step) {
    const std::int64_t end = panel + step < task.panels ? panel + step : task.panels;
    std::int64_t row = 0;
    for (std::int64_t i = 0; i < tiles; ++i) {
      const std::int64_t rows = (task.rows - row + tiles - i - 1) / (tiles - i);
      with_constant<kRows>(rows, [&](auto r) { product_panels<V, r, tile_panels<V, r>()>(task, row, panel, end); });
      row += rows;
    }
  }
}

}  // namespace
}  // namespace octavo
