// float16 to float32 in integer arithmetic, for kernels without an instruction that does it. Finite values, all exact.
#pragma once

#include <cstdint>

#include "kernels/detail/row_quant.h"

namespace octavo {
namespace {

inline float float_from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude < 0x0400u) {  // zero and subnormals: a whole number of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return float_from_bits(bits_from_float(value) | sign);
  }
  return float_from_bits(sign | ((magnitude << 13) + 0x38000000u));  // the exponent's bias is 127, not 15
}

}  // namespace
}  // namespace octavo
