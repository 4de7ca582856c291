// What layers share, whatever the format of their weights.
#pragma once

#include <cstdint>

#include "gemm/image.h"

namespace octavo {

enum class ActivationScheme : std::uint8_t { kSymmetric, kAsymmetric };

struct LayerOptions {
  ActivationScheme activation = ActivationScheme::kSymmetric;
  bool relu = false;

  bool asymmetric() const { return activation == ActivationScheme::kAsymmetric; }
};

// A float for each column, in an image: what they take there, the part of all of them, and the values of the first n.
std::size_t columns_bytes(std::int64_t padded_n);
Part take_columns(Image& image, std::int64_t padded_n, bool present);
void put_columns(const float* values, std::int64_t n, const Part& to);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, std::int64_t m, std::int64_t n, float* y,
                    std::int64_t y_stride);

}  // namespace octavo
