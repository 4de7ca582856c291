#include "gemm/layer.h"

#include <cstring>

#include "base/arch.h"

namespace octavo {

AlignedBuffer padded_columns(const float* values, std::int64_t n, std::int64_t padded_n) {
  AlignedBuffer buffer = AlignedBuffer::zeros(memory_bytes(padded_n * std::int64_t{sizeof(float)}));
  if (n > 0) std::memcpy(buffer.as<float>(), values, static_cast<std::size_t>(n) * sizeof(float));
  return buffer;
}

void put_empty_sums(const float* bias_or_null, bool relu, std::int64_t m, std::int64_t n, float* y,
                    std::int64_t y_stride) {
  const DefaultFloatEnvironment environment;
  for (std::int64_t i = 0; i < m * n; ++i) {
    const float b = bias_or_null != nullptr ? bias_or_null[i % n] : 0.0f;
    y[i / n * y_stride + i % n] = relu && b <= 0.0f ? 0.0f : 0.0f + b;
  }
}

}  // namespace octavo
