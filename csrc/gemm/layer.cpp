#include "gemm/layer.h"

#include <cstring>

#include "base/arch.h"
#include "gemm/registry.h"
#include "kernels/kernel.h"

namespace octavo {

std::size_t columns_bytes(std::int64_t padded_n) {
  return Image::padded(memory_bytes(padded_n * std::int64_t{sizeof(float)}));
}

Part take_columns(Image& image, std::int64_t padded_n, bool present) {
  return present ? image.take(static_cast<std::size_t>(padded_n) * sizeof(float)) : Part();
}

void put_columns(const float* values, std::int64_t n, const Part& to) {
  if (n > 0) std::memcpy(to.as<float>(), values, static_cast<std::size_t>(n) * sizeof(float));
}

HeldTransform::HeldTransform(const InputTransform& transform, std::int64_t k)
    : has_factors_(transform.factors != nullptr), rotation_(transform.rotation) {
  if (!has_factors_) return;
  factors_ = AlignedBuffer::zeros(memory_bytes((k + kFactorPad) * std::int64_t{sizeof(float)}));
  if (k > 0) std::memcpy(factors_.as<float>(), transform.factors, static_cast<std::size_t>(k) * sizeof(float));
}

ThreadRotation::ThreadRotation(std::int64_t k, std::int64_t block) {
  if (block == 0) return;
  static thread_local AlignedBuffer row;
  row.reserve(memory_bytes(k * std::int64_t{sizeof(float)}));
  rotation_ = {functions_in_use().rotate, k, block, row.as<float>()};
}

void apply_function(LayerFunction function, float* y, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  if (!function) return;
  const auto apply = functions_in_use().elementwise[static_cast<int>(*function)];
  for (std::int64_t row = 0; row < rows; ++row, y += stride) apply(y, y, cols);
}

void put_empty_sums(const float* bias_or_null, bool relu, LayerFunction function, std::int64_t m, std::int64_t n,
                    float* y, std::int64_t y_stride) {
  const DefaultFloatEnvironment environment;
  for (std::int64_t i = 0; i < m * n; ++i) {
    const float b = bias_or_null != nullptr ? bias_or_null[i % n] : 0.0f;
    y[i / n * y_stride + i % n] = relu && b <= 0.0f ? 0.0f : 0.0f + b;
  }
  apply_function(function, y, m, n, y_stride);
}

}  // namespace octavo
