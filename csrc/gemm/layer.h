// What layers share, whatever the format of their weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "gemm/image.h"
#include "kernels/functions.h"
#include "kernels/kernel.h"

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

// What a layer's k inputs go through before they are quantized: each is multiplied by a factor, if there are any; then
// blocks of `rotation` of them are rotated, if it is not 0 (kernels/functions.h).
struct InputTransform {
  const float* factors = nullptr;
  std::int64_t rotation = 0;
};

// The same, held by a layer: factors with the zeros behind them that kernels read.
class HeldTransform {
 public:
  HeldTransform(const InputTransform& transform, std::int64_t k);

  const float* factors() const { return has_factors_ ? factors_.as<const float>() : nullptr; }
  std::int64_t rotation() const { return rotation_; }
  InputTransform view() const { return {factors(), rotation_}; }
  std::size_t size_bytes() const { return factors_.size_bytes(); }

 private:
  AlignedBuffer factors_;
  bool has_factors_;
  std::int64_t rotation_;
};

// The rotation of rows that this thread quantizes now, as their task takes it. All of a thread rotate into the same
// memory: there is one at a time, and it stays on its thread.
class ThreadRotation {
 public:
  ThreadRotation(std::int64_t k, std::int64_t block);  // block 0: none

  const InputRotation* get() const { return rotation_.block == 0 ? nullptr : &rotation_; }

 private:
  InputRotation rotation_{};
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
  const HeldTransform& inputs() const { return inputs_; }
  const Options& options() const { return options_; }
  const Image& image() const { return image_; }

 protected:
  // Constructs the weights from `form` and their part of the image. The caller must take the bias next.
  template <class... Form>
  PackedLayer(Image image, const Options& options, const InputTransform& inputs, Form&&... form)
      : image_(std::move(image)),
        weight_(std::forward<Form>(form)..., image_),
        options_(options),
        inputs_(inputs, weight_.k()) {}

  void take_bias(bool present) {
    has_bias_ = present;
    bias_ = take_columns(image_, weight_.padded_n(), present);
  }
  void put_bias(const float* values_or_null) {
    if (values_or_null != nullptr) put_columns(values_or_null, n(), bias_);
  }
  // Without the object itself.
  std::size_t parts_bytes() const { return weight_.size_bytes() + bias_.size_bytes() + inputs_.size_bytes(); }

  Image image_;
  Weight weight_;
  bool has_bias_ = false;
  Part bias_;
  Options options_;
  HeldTransform inputs_;
};

// One call of a layer: m rows of floats in, m rows of floats out, so many elements apart.
struct FloatCall {
  const float* x;
  std::int64_t m, x_stride;
  float* y;
  std::int64_t y_stride;
};

// Applies the function, if there is one, in place to rows of results, `stride` elements apart.
void apply_function(LayerFunction function, float* y, std::int64_t rows, std::int64_t cols, std::int64_t stride);

// y of a layer without inputs: the bias, or zero.
void put_empty_sums(const float* bias_or_null, bool relu, LayerFunction function, std::int64_t m, std::int64_t n,
                    float* y, std::int64_t y_stride);

}  // namespace octavo
