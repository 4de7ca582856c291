// Products of rows with grouped codes: kernels/grouped.h says what is computed, gemm.h how a product is planned.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/image.h"
#include "gemm/layer.h"
#include "gemm/pack_grouped.h"

namespace octavo {

// The longest group whose sums int32 holds, for the values that the weights' form and the activations allow.
std::int64_t max_exact_grouped_k(std::int32_t bits, bool is_signed, bool has_zero_point, bool asymmetric);

struct GroupedLayerOptions {
  GroupedActivations activations;
  bool relu;
  LayerFunction function = std::nullopt;
};

// Grouped codes (n, k) and one bias a column. Immutable: any number of threads may use it.
class PackedLinearGrouped : public PackedLayer<PackedGrouped, GroupedLayerOptions> {
 public:
  PackedLinearGrouped(const GroupedView& weight, const float* bias_or_null, Options options,
                      const InputTransform& inputs = {});
  // Uses an image taken from another layer of this class. Panels are the same for all families.
  PackedLinearGrouped(Image image, const GroupedWeightForm& form, bool has_bias, Options options,
                      const InputTransform& inputs = {});
  static std::size_t image_bytes(const GroupedWeightForm& form, bool has_bias, const Options& options);

  std::size_t size_bytes() const { return parts_bytes() + sizeof *this; }

  // As PackedLinear: m rows of k floats to m rows of n floats.
  void operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride) const;
};

}  // namespace octavo
