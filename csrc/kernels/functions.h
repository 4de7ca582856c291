// The contract of octavo.functional: float32 functions of elements and of rows, the same bits on every kernel.
//
// Elements: y[i] = f(x[i]), with f as kernels/detail/float_functions.h writes it. An element's result depends on that
// element alone, not on its place.
//
// Rows: sums over a row have 16 lanes. Lane j adds the elements j, j + 16, j + 32, ... of the row in this order, from
// +0; elements that the last, shorter block lacks are left out. The lanes are then added as a fixed tree: lane j and
// lane j + 8, of these 8 lane j and lane j + 4, then j + 2, then j + 1.
//
//   softmax       m = max x, e = exp(x - m), s = sum e, y = e * (1 / s)
//   log_softmax   m and s likewise, y = (x - m) - log(s)
//   log_sum       m and s likewise; y[0] = m and y[1] = log(s), so that -log_softmax = log(s) - (x - m); both NaN
//                 where s is
//   rms_norm      s = sum of fma(x, x, s), r = 1 / sqrt(s / cols + eps), y = (x * r) * weight
//   layer_norm    a = (sum x) / cols, d = x - a, s = sum of fma(d, d, s), r = 1 / sqrt(s / cols + eps),
//                 y = d * r without weight and bias, (d * r) * weight, (d * r) + bias or fma(d * r, weight, bias)
//
// Rotation: blocks of 2^b elements are multiplied by the Hadamard matrix of that size, in Sylvester's order and without
// its factor. The signs before it are the caller's, in `factor`. From v = x, or x * factor, for h = 1, 2, 4, ... up to
// half of the block:
//
//   v[i], v[i + h] = v[i] + v[i + h], v[i] - v[i + h]      for the i of each block in which the bit h is 0
//
// In these formulas cols is a float32 number, rounded if it is above 2^24. A NaN anywhere makes its row NaN, and so
// does a maximum that is infinite.
//
// y may be x, element for element; otherwise they must not overlap. Kernel files define no symbol that another object
// could share (kernels/kernel.h); what they share stands in kernels/detail.
#pragma once

#include <cstdint>

#include "kernels/panel_product.h"

namespace octavo {

enum class Elementwise : std::uint8_t { kExp, kLog, kErf, kTanh, kSigmoid, kSin, kCos, kSilu, kGelu, kGeluTanh };
inline constexpr int kElementwiseCount = 10;

inline constexpr std::int64_t kSmallestRotation = 16, kLargestRotation = 4096;

enum class Rowwise : std::uint8_t { kSoftmax, kLogSoftmax, kLogSum, kRmsNorm, kLayerNorm };
inline constexpr int kRowwiseCount = 5;

// Rows of contiguous elements, some distance apart (in elements).
struct RowsTask {
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t rows, cols;  // cols >= 1
  const float* weight;      // cols elements, or null: norms alone
  const float* bias;        // cols elements, or null: layer_norm alone
  float eps;
};

struct FunctionKernel {
  void (*elementwise[kElementwiseCount])(const float* x, float* y, std::int64_t count);
  void (*swiglu)(const float* gate, const float* up, float* y, std::int64_t count);  // silu(gate) * up
  void (*rowwise[kRowwiseCount])(const RowsTask& task);
  // A row of a step of a recurrent cell (gemm/recurrent.h), with these sigmoid and tanh: from the products a and b, each
  // of 4 or 3 times hidden elements, and from c, which changes, or the state before, to the state h.
  void (*lstm_row)(std::int64_t hidden, const float* a, const float* b, float* c, float* h);
  void (*gru_row)(std::int64_t hidden, const float* a, const float* b, const float* before, float* h);
  void (*panel_product)(const PanelProduct& task);  // of attention
  // k is a multiple of the block, which is a power of two from kSmallestRotation on; factor is null or has k elements.
  void (*rotate)(const float* x, const float* factor, float* y, std::int64_t k, std::int64_t block);
};

}  // namespace octavo
