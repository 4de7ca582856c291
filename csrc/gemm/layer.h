// What layers share, whatever the format of their weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "gemm/image.h"
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

// A float for each column, in an image: what they take there, the part of all of them, and the values of the first n.
std::size_t columns_bytes(std::int64_t padded_n);
Part take_columns(Image& image, std::int64_t padded_n, bool present);
void put_columns(const float* values, std::int64_t n, const Part& to);

// What each of a layer's k inputs is multiplied by as it is quantized, with the zeros that kernels read behind them; or
// nothing.
class InputFactors {
 public:
  InputFactors(const float* values_or_null, std::int64_t k);

  const float* data() const { return is_there_ ? values_.as<const float>() : nullptr; }
  std::size_t size_bytes() const { return values_.size_bytes(); }

 private:
  AlignedBuffer values_;
  bool is_there_;
};

// Some rows of results, `stride` elements apart, to the function of themselves, if there is one.
void apply_function(LayerFunction function, float* y, std::int64_t rows, std::int64_t cols, std::int64_t stride);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, LayerFunction function, std::int64_t m, std::int64_t n,
                    float* y, std::int64_t y_stride);

}  // namespace octavo
