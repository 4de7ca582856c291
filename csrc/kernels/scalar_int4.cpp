// The portable kernel for four-bit weights: standard C++, any panel shape, the plainest statement of kernels/int4.h.
//
// The lhs is row-major int8. Integer sums are uint32, as in scalar.cpp, and a group is finished before the next.
#include <cstdint>
#include <cstring>

#include "kernels/detail/half.h"
#include "kernels/detail/scalar_rows.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

constexpr std::int64_t kMaxNr = 64;  // of every nr

std::int64_t lhs_stride(std::int64_t k) { return (k + kInt4Chunk - 1) / kInt4Chunk * kInt4Chunk; }
std::int64_t lhs_bytes(std::int64_t rows, const Int4Groups& groups) { return rows * lhs_stride(groups.k); }
std::int64_t scratch_bytes(std::int64_t) { return 0; }

void quantize_lhs(const QuantizeLhs& task, const Int4Groups&) { quantize_rows(task, lhs_stride(task.k)); }

std::uint32_t product(std::int32_t x, std::int32_t y) {
  return static_cast<std::uint32_t>(x) * static_cast<std::uint32_t>(y);
}

// acc[j] = sum over k0 <= k < k1 of (a[k] * u[k][j]), and the sum of a[k].
std::uint32_t multiply_group(const Int4Block& block, const std::int8_t* a, const std::uint8_t* panel, std::int64_t k0,
                             std::int64_t k1, std::uint32_t* acc) {
  std::uint32_t row_sum = 0;
  for (std::int64_t j = 0; j < block.nr; ++j) acc[j] = 0;
  for (std::int64_t k = k0; k < k1; ++k) {
    const std::int64_t in_half = k % kInt4Half, shift = k % kInt4Chunk < kInt4Half ? 0 : 4;
    const std::int64_t line = k / kInt4Chunk * (kInt4Half / block.kr) + in_half / block.kr;
    const std::uint8_t* bytes = panel + line * block.nr * block.kr + in_half % block.kr;
    for (std::int64_t j = 0; j < block.nr; ++j) acc[j] += product(a[k], (bytes[j * block.kr] >> shift) & 15);
    row_sum += product(a[k], 1);
  }
  return row_sum;
}

float scale_at(const Int4Block& block, std::int64_t i) {
  if (!block.half_scale) return static_cast<const float*>(block.scale)[i];
  return float_from_half(static_cast<const std::uint16_t*>(block.scale)[i]);
}

std::int32_t column_sum_at(const Int4Block& block, std::int64_t i) {
  if (block.wide_sums()) return static_cast<const std::int32_t*>(block.column_sums)[i];
  return static_cast<const std::int16_t*>(block.column_sums)[i];
}

void multiply_row(const Int4Block& block, std::int64_t m, const std::uint8_t* rhs, std::int64_t panel, float* y) {
  const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs) + m * lhs_stride(block.groups.k);
  const std::int64_t group_k = block.groups.group_k, count = block.groups.count();
  for (std::int64_t j = 0; j < block.nr; ++j) y[j] = 0.0f;
  for (std::int64_t g = 0; g < count; ++g) {
    const std::int64_t k0 = g * group_k, k1 = k0 + group_k < block.groups.k ? k0 + group_k : block.groups.k;
    std::uint32_t acc[kMaxNr];
    const std::uint32_t row_sum = multiply_group(block, a, rhs, k0, k1, acc);
    for (std::int64_t j = 0; j < block.nr; ++j) {
      const std::int64_t at = (panel * count + g) * block.nr + j;
      acc[j] -= static_cast<std::uint32_t>(block.offset == nullptr ? kInt4Offset : block.offset[at]) * row_sum;
      if (block.column_sums != nullptr) acc[j] -= product(block.lhs_zero_point[m], column_sum_at(block, at));
      y[j] += static_cast<float>(static_cast<std::int32_t>(acc[j])) * scale_at(block, at);
    }
  }
}

void gemm(const Int4Block& block) {
  const std::int64_t panel_bytes = block.groups.chunks() * kInt4Half * block.nr;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += block.nr) {
    const std::int64_t panel = n0 / block.nr, cols = block.cols - n0 < block.nr ? block.cols - n0 : block.nr;
    for (std::int64_t m = 0; m < block.rows; ++m) {
      float y[kMaxNr];
      multiply_row(block, m, block.rhs + panel * panel_bytes, panel, y);
      float* dst = block.dst + m * block.dst_stride + n0;
      for (std::int64_t j = 0; j < cols; ++j) {
        dst[j] = y[j] * block.lhs_scale[m];
        if (block.bias != nullptr) dst[j] += block.bias[n0 + j];
        if (block.relu && dst[j] <= 0.0f) dst[j] = 0.0f;  // NaN stays
      }
    }
  }
}

}  // namespace

extern const Int4Kernel int4_scalar;
const Int4Kernel int4_scalar = {
    .mr = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_bytes = scratch_bytes,
    .quantize_lhs = quantize_lhs,
    .gemm = gemm,
    .gemv = gemm,
    .gemv_max_rows = 1,
    .multiply_adds_per_us = 5e3,
};

}  // namespace octavo
