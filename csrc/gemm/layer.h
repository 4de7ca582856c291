// What layers share, whatever the format of their weights.
#pragma once

#include <cstdint>
#include <optional>

#include "base/aligned_buffer.h"
#include "kernels/functions.h"

namespace octavo {

// The function of elements that a layer's results go through, besides relu, which kernels apply themselves.
using LayerFunction = std::optional<Elementwise>;

enum class ActivationScheme : std::uint8_t { kSymmetric, kAsymmetric };

struct LayerOptions {
  ActivationScheme activation = ActivationScheme::kSymmetric;
  bool relu = false;
  LayerFunction function = std::nullopt;

  bool asymmetric() const { return activation == ActivationScheme::kAsymmetric; }
};

// The values of n columns with zeros behind them.
AlignedBuffer padded_columns(const float* values, std::int64_t n, std::int64_t padded_n);

// Some rows of results, `stride` elements apart, to the function of themselves, if there is one.
void apply_function(LayerFunction function, float* y, std::int64_t rows, std::int64_t cols, std::int64_t stride);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, LayerFunction function, std::int64_t m, std::int64_t n,
                    float* y, std::int64_t y_stride);

}  // namespace octavo
