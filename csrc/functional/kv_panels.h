// Keys and values as the panels that attention multiplies by (kernels/panel_product.h).
//
//   keys      [position / 16][dimension][position % 16]     a block of 16 positions is one panel
//   values    [dimension / 16][position][dimension % 16]    panels of value_panel_stride elements
//
// A query's products with 16 keys, and a query's weights with 16 dimensions of the values, then read memory from one
// end to the other. Both grow at their end.
#pragma once

#include <cstdint>

#include "kernels/panel_product.h"

namespace octavo {

// Elements that `positions` keys of `dim` dimensions take, and dimensions in whole panels.
inline std::int64_t key_elems(std::int64_t positions, std::int64_t dim) {
  return (positions + kPanelColumns - 1) / kPanelColumns * kPanelColumns * dim;
}
inline std::int64_t value_panels(std::int64_t dim) { return (dim + kPanelColumns - 1) / kPanelColumns; }

// `count` rows of `dim` elements, `stride` elements apart, become the positions from `start` on. Elements of a panel
// beyond the last dimension or position are left as they are.
void write_keys(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t dim, std::int64_t start,
                float* panels);
void write_values(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t dim, std::int64_t start,
                  float* panels, std::int64_t panel_stride);

}  // namespace octavo
