// What layers share, whatever the format of their weights.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"

namespace octavo {

enum class ActivationScheme : std::uint8_t { kSymmetric, kAsymmetric };

struct LayerOptions {
  ActivationScheme activation = ActivationScheme::kSymmetric;
  bool relu = false;

  bool asymmetric() const { return activation == ActivationScheme::kAsymmetric; }
};

// The values of n columns with zeros behind them.
AlignedBuffer padded_columns(const float* values, std::int64_t n, std::int64_t padded_n);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, std::int64_t m, std::int64_t n, float* y,
                    std::int64_t y_stride);

}  // namespace octavo
