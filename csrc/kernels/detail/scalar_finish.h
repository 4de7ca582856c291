// What becomes of a sum, in standard C++: the epilogue of kernel.h as it stands there. Included per kernel file;
// everything is in an anonymous namespace.
#pragma once

#include <cstdint>

#include "kernels/detail/row_quant.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

inline std::int32_t finish_int32(std::uint32_t acc, const Epilogue& e, std::int64_t m, std::int64_t n) {
  const auto product = [](std::int32_t x, std::int32_t y) {
    return static_cast<std::uint32_t>(x) * static_cast<std::uint32_t>(y);
  };
  if (e.lhs_zero_point != nullptr) acc -= product(e.lhs_zero_point[m], e.rhs_sum[n]);
  if (e.rhs_zero_point != nullptr) acc -= product(e.rhs_zero_point[n], e.lhs_sum[m]);
  return static_cast<std::int32_t>(acc);
}

inline float finish_float32(std::int32_t sum, const Epilogue& e, std::int64_t m, std::int64_t n) {
  float y = static_cast<float>(sum) * (e.lhs_scale[m] * e.rhs_scale[n]);
  if (e.bias != nullptr) y += e.bias[n];
  if (e.relu && y <= 0.0f) y = 0.0f;  // NaN stays
  return y;
}

inline std::uint8_t finish_byte(float y, const Epilogue& e) {
  const float rounded = rint_small(clamp_float(y * e.dst_inverse, e.dst_lo, e.dst_hi));
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(rounded) + e.dst_zero_point);
}

inline void store(const GemmBlock& block, std::int64_t at, std::int32_t sum, std::int64_t m, std::int64_t n) {
  const Epilogue& e = block.epilogue;
  switch (e.kind) {
    case DstKind::kInt32:
      static_cast<std::int32_t*>(block.dst)[at] = sum;
      break;
    case DstKind::kFloat32:
      static_cast<float*>(block.dst)[at] = finish_float32(sum, e, m, n);
      break;
    case DstKind::kByte:
      static_cast<std::uint8_t*>(block.dst)[at] = finish_byte(finish_float32(sum, e, m, n), e);
      break;
  }
}

// One row of a panel, from column n0 on.
inline void store_row(const GemmBlock& block, const std::uint32_t* acc, std::int64_t m, std::int64_t n0,
                      std::int64_t cols) {
  const std::int64_t at = m * block.dst_stride + n0;
  for (std::int64_t j = 0; j < cols; ++j) {
    store(block, at + j, finish_int32(acc[j], block.epilogue, m, n0 + j), m, n0 + j);
  }
}

}  // namespace
}  // namespace octavo
