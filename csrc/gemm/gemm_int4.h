// Products of rows with four-bit weights. kernels/int4.h says what is computed, gemm.h how products are planned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/image.h"
#include "gemm/layer.h"
#include "gemm/pack_int4.h"

namespace octavo {

// The longest group whose sums int32 holds: rows are wide with a zero point, weights with one of their own.
std::int64_t max_exact_group_k(bool lhs_wide, bool rhs_wide);

// Four-bit weights (n, k) with a scale a group and one bias a column. Immutable: any number of threads may use it.
class PackedLinearInt4 : public PackedLayer<PackedInt4, LayerOptions> {
 public:
  PackedLinearInt4(const Int4View& weight, const float* bias_or_null, Options options,
                   const InputTransform& inputs = {}, PanelShape shape = panel_shape());
  // Of an image that another such layer gave.
  PackedLinearInt4(Image image, const Int4Form& form, bool has_bias, Options options, PanelShape shape,
                   const InputTransform& inputs = {});
  static std::size_t image_bytes(const Int4Form& form, bool has_bias, PanelShape shape);
  // The same layer in the panels of another family: to be unpacked or stored, not multiplied with.
  PackedLinearInt4 repacked(PanelShape shape) const;

  std::size_t size_bytes() const { return parts_bytes() + sizeof *this; }

  // As PackedLinear: m rows of k floats to m rows of n floats.
  void operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride) const;
};

}  // namespace octavo
