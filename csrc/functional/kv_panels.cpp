#include "functional/kv_panels.h"

#include <algorithm>

namespace octavo {

void write_keys(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t dim, std::int64_t start,
                float* panels) {
  for (std::int64_t t = start; t < start + count; ++t, rows += stride) {
    float* const column = panels + t / kPanelColumns * kPanelColumns * dim + t % kPanelColumns;
    for (std::int64_t d = 0; d < dim; ++d) column[d * kPanelColumns] = rows[d];
  }
}

void write_values(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t dim, std::int64_t start,
                  float* panels, std::int64_t panel_stride) {
  for (std::int64_t t = start; t < start + count; ++t, rows += stride) {
    for (std::int64_t d = 0; d < dim; d += kPanelColumns) {
      const std::int64_t width = std::min(kPanelColumns, dim - d);
      std::copy_n(rows + d, width, panels + d / kPanelColumns * panel_stride + t * kPanelColumns);
    }
  }
}

}  // namespace octavo
