// What layers share, whatever the format of their weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

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

// What a layer holds, whatever the format of its weights: those and the bias in an image, the rest beside it.
template <class Weight, class LayerOptions>
class PackedLayer {
 public:
  using Options = LayerOptions;

  std::int64_t n() const { return weight_.n(); }
  std::int64_t k() const { return weight_.k(); }
  const Weight& weight() const { return weight_; }
  const float* bias() const { return has_bias_ ? bias_.template as<const float>() : nullptr; }
  const float* factors() const { return factors_.data(); }  // of the inputs; or null
  const Options& options() const { return options_; }
  const Image& image() const { return image_; }

 protected:
  // The weights are made of `form` and of what they take of the image; then the bias is to be taken.
  template <class... Form>
  PackedLayer(Image image, const Options& options, const float* factors_or_null, Form&&... form)
      : image_(std::move(image)),
        weight_(std::forward<Form>(form)..., image_),
        options_(options),
        factors_(factors_or_null, weight_.k()) {}

  void take_bias(bool present) {
    has_bias_ = present;
    bias_ = take_columns(image_, weight_.padded_n(), present);
  }
  void put_bias(const float* values_or_null) {
    if (values_or_null != nullptr) put_columns(values_or_null, n(), bias_);
  }
  // Without the object itself.
  std::size_t parts_bytes() const { return weight_.size_bytes() + bias_.size_bytes() + factors_.size_bytes(); }

  Image image_;
  Weight weight_;
  bool has_bias_ = false;
  Part bias_;
  Options options_;
  InputFactors factors_;
};

// One call of a layer: m rows of floats in, m rows of floats out, so many elements apart.
struct FloatCall {
  const float* x;
  std::int64_t m, x_stride;
  float* y;
  std::int64_t y_stride;
};

// Some rows of results, `stride` elements apart, to the function of themselves, if there is one.
void apply_function(LayerFunction function, float* y, std::int64_t rows, std::int64_t cols, std::int64_t stride);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, LayerFunction function, std::int64_t m, std::int64_t n,
                    float* y, std::int64_t y_stride);

}  // namespace octavo
