// The contract of the two products of attention: float32 rows times panels of 16 columns.
//
//   dst[m, n] = scale * (fma over k ascending of lhs[m, k] * rhs[k, n], from 0, or from dst[m, n] where `add`)
//
// One accumulator an element, so that neither the tile of a kernel nor how K is cut into calls changes a bit.
//
// Panels are [panel][depth][16], panel_stride elements apart: keys with a panel for 16 positions, where k runs over the
// dimensions of a head, and values with a panel for 16 dimensions, where k runs over positions.
#pragma once

#include <cstdint>

namespace octavo {

inline constexpr std::int64_t kPanelColumns = 16;

struct PanelProduct {
  const float* lhs;         // rows x depth
  std::int64_t lhs_stride;  // elements from a row to the next
  std::int64_t rows;
  const float* rhs;
  std::int64_t panel_stride;
  std::int64_t panels;
  std::int64_t depth;
  float* dst;  // rows x 16 panels
  std::int64_t dst_stride;
  float scale;
  bool add;
};

}  // namespace octavo
