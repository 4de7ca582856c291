// Products of rows with int8 weights, or of integers with integers.
//
//   linear:          y[m, n] = float(sum_k q_x[m, k] * q_w[n, k]) * (s_x[m] * s_w[n]) + b[n]
//                    with q_x, s_x quantized from float32 rows as they are read (kernels/kernel.h, QuantizeLhs)
//   forward_static:  the same with one s_x for all rows, fixed beforehand; then, for integers out, quantized again
//   matmul_integer:  y[m, n] = sum_k (a[m, k] - za[m]) * (b[k, n] - zb[n])         modulo 2^32
//
// How products are planned: gemm.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/image.h"
#include "gemm/layer.h"
#include "gemm/pack.h"

namespace octavo {

// The largest K for which int32 holds every sum. An operand is wide when it is uint8 or has a zero point: then |value -
// zero point| reaches 255, otherwise 128.
std::int64_t max_exact_k(bool lhs_wide, bool rhs_wide);

enum class ElementType : std::uint8_t { kFloat32, kInt8, kUint8 };

// int8 weights (n, k) with one scale and one bias a column of the product. Immutable: any number of threads may use it.
class PackedLinear : public PackedLayer<PackedRhs, LayerOptions> {
 public:
  PackedLinear(const RhsView& weight, const float* scale, const float* bias_or_null, Options options,
               const InputTransform& inputs = {}, PanelShape shape = panel_shape());
  // Of an image that another such layer gave.
  PackedLinear(Image image, std::int64_t n, std::int64_t k, bool has_bias, Options options, PanelShape shape,
               const InputTransform& inputs = {});
  static std::size_t image_bytes(std::int64_t n, std::int64_t k, bool has_bias, PanelShape shape);
  // The same layer in the panels of another family: to be unpacked or stored, not multiplied with.
  PackedLinear repacked(PanelShape shape) const;

  const float* scale() const { return scale_.as<const float>(); }
  std::size_t size_bytes() const { return parts_bytes() + scale_.size_bytes() + sizeof *this; }

  // Rows of k inputs (x) or n outputs (y) with fixed parameters. Floats are quantized on the way in; int8 and uint8 are
  // taken as they are. On the way out sums are rescaled, and for int8 and uint8 requantized in the same pass.
  struct StaticRows {
    void* data;  // of x: only read
    ElementType type;
    std::int64_t m, stride;  // elements from a row to the next
    float scale;             // scale to qmax: unused for a float32 y
    std::int32_t zero_point, qmin, qmax;
  };
  // False where a float x holds NaN, which has no integer; y then holds anything.
  bool forward_static(const StaticRows& x, const StaticRows& y) const;

  // x: m rows of k floats, x_stride elements apart; y: m rows of n floats, y_stride apart, not overlapping x.
  void operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride) const;

 private:
  Part scale_;
};

// An operand's zero points: one for all, or one for each row of a or column of b.
struct ZeroPoints {
  const std::int32_t* data;
  bool one_for_all;
  std::int32_t operator[](std::int64_t i) const { return data[one_for_all ? 0 : i]; }
};

struct LhsView {
  const std::uint8_t* data;  // m rows of k contiguous elements
  std::int64_t m, k;
  std::int64_t m_stride;
  bool is_unsigned;
};

// y: (a.m, b.n), row-major, contiguous. a.k == b.k.
void matmul_integer(const LhsView& a, const RhsView& b, ZeroPoints a_zero_point, ZeroPoints b_zero_point,
                    std::int32_t* y);

}  // namespace octavo
