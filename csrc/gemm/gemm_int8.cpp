#include "gemm/gemm_int8.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "base/result_pool.h"
#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// A product's weights, results, and what is the same for all its rows.
struct Operands {
  const PackedRhs& rhs;
  void* dst;
  std::int64_t dst_stride;
  std::int64_t dst_elem_bytes;
  Epilogue epilogue;                      // the columns' arrays; the rows' are set for each block
  LayerFunction function = std::nullopt;  // of float results
};

// float32 rows, quantized as they are packed, with parameters of each row's own or with fixed ones.
struct FloatRows {
  const float* data;
  std::int64_t stride, k;
  bool asymmetric;
  const HeldTransform& inputs;
  const FixedQuant* fixed = nullptr;
  std::atomic<bool>* saw_nan = nullptr;

  void load(const Kernel& kernel, std::int64_t row0, std::int64_t rows, const LoadedRows& to) const {
    bool nan_here = false;
    const ThreadRotation rotation(k, inputs.rotation());
    kernel.quantize_lhs({.src = data + row0 * stride,
                         .src_stride = stride,
                         .rows = rows,
                         .k = k,
                         .asymmetric = asymmetric,
                         .dst = to.packed,
                         .scale = to.scale,
                         .zero_point = to.zero_point,
                         .fixed = fixed,
                         .saw_nan = &nan_here,
                         .factor = inputs.factors(),
                         .rotation = rotation.get()});
    if (nan_here) saw_nan->store(true, std::memory_order_relaxed);
  }
  bool has_scale() const { return true; }
  bool has_zero_point() const { return fixed != nullptr ? fixed->zero_point != 0 : asymmetric; }
  bool has_sum() const { return false; }
};

// int8 or uint8 rows with zero points that the caller chose.
struct IntegerRows {
  const LhsView& view;
  ZeroPoints zero_point;
  bool needs_zero_point, needs_sum;
  float scale = 0;  // of a layer's input; 0 for operators on integers, which have none

  void load(const Kernel& kernel, std::int64_t row0, std::int64_t rows, const LoadedRows& to) const {
    const std::uint8_t flip = view.is_unsigned ? 0x80 : 0;
    const std::uint8_t* src = view.data + row0 * view.m_stride;
    kernel.pack_lhs({src, view.m_stride, rows, view.k, flip, to.packed});
    const std::int32_t shift = view.is_unsigned ? 128 : 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      if (has_scale()) to.scale[i] = scale;
      if (has_zero_point()) to.zero_point[i] = zero_point[row0 + i] - shift;
      if (has_sum()) to.sum[i] = row_sum(src + i * view.m_stride, flip);
    }
  }
  bool has_scale() const { return scale != 0; }
  bool has_zero_point() const { return needs_zero_point; }
  bool has_sum() const { return needs_sum; }

  std::int32_t row_sum(const std::uint8_t* row, std::uint8_t flip) const {
    std::uint32_t sum = 0;
    for (std::int64_t i = 0; i < view.k; ++i) {
      sum += static_cast<std::uint32_t>(static_cast<std::int8_t>(static_cast<std::uint8_t>(row[i] ^ flip)));
    }
    return static_cast<std::int32_t>(sum);
  }
};

template <class RowSource>
class Int8Product final : public Product {
 public:
  Int8Product(const Kernel& kernel, std::int64_t m, const Operands& operands, const RowSource& rows)
      : kernel_(kernel),
        m_(m),
        operands_(operands),
        rows_(rows),
        // Not where a function reads the results at once.
        streams_(operands.epilogue.kind == DstKind::kFloat32 && !operands.function &&
                 may_stream(static_cast<const float*>(operands.dst), m, operands.rhs.n(), operands.dst_stride)) {}

  Size size() const override {
    Size size = size_of(m_, operands_.rhs, kernel_);
    size.long_rows = kernel_.long_rows;
    size.apart_rows = kernel_.apart_rows;
    return size;
  }
  std::int64_t lhs_bytes(std::int64_t rows) const override { return kernel_.lhs_bytes(rows, operands_.rhs.k()); }
  std::int64_t scratch_bytes(std::int64_t rows) const override {
    return kernel_.scratch_elems(rows, operands_.rhs.k()) * static_cast<std::int64_t>(sizeof(std::int32_t));
  }
  void load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const override {
    rows_.load(kernel_, row0, rows, to);
  }

  void multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const override {
    const PackedRhs& rhs = operands_.rhs;
    const ColumnRange columns(block, rhs.nr(), rhs.n());
    const std::int64_t dst_elem = block.row0 * operands_.dst_stride + columns.first;
    run_kernel(kernel_, GemmBlock{
                            .lhs = lhs.packed,
                            .rows = block.rows,
                            .rhs = rhs.panel(block.panel0),
                            .nr = rhs.nr(),
                            .kr = rhs.kr(),
                            .column_sums = rhs.column_sums() + columns.first,
                            .cols = columns.count,
                            .k = rhs.k(),
                            .k_block = k_block_of(kernel_),
                            .dst = static_cast<std::byte*>(operands_.dst) + dst_elem * operands_.dst_elem_bytes,
                            .dst_stride = operands_.dst_stride,
                            .scratch = static_cast<std::int32_t*>(scratch),
                            .epilogue = epilogue(columns.first, lhs),
                            .stream_dst = streams_,
                            .rhs_cold = cold_,
                        });
    apply_function(operands_.function, static_cast<float*>(operands_.dst) + dst_elem, block.rows, columns.count,
                   operands_.dst_stride);
  }

 private:
  // The product's epilogue for rows in `lhs` and columns from col0 on.
  Epilogue epilogue(std::int64_t col0, const LoadedRows& lhs) const {
    Epilogue e = operands_.epilogue;
    const auto advance = [col0](auto*& array) {
      if (array != nullptr) array += col0;
    };
    advance(e.rhs_scale);
    advance(e.rhs_zero_point);
    advance(e.rhs_sum);
    advance(e.bias);
    if (rows_.has_scale()) e.lhs_scale = lhs.scale;
    if (rows_.has_zero_point()) e.lhs_zero_point = lhs.zero_point;
    if (rows_.has_sum()) e.lhs_sum = lhs.sum;
    return e;
  }

  const Kernel& kernel_;
  std::int64_t m_;
  const Operands& operands_;
  const RowSource& rows_;
  bool streams_, cold_ = weights_are_cold();
};

template <class RowSource>
void multiply_int8(std::int64_t m, const Operands& operands, const RowSource& rows, CallReport& report) {
  const PackedRhs& rhs = operands.rhs;
  const Kernel& kernel = kernel_for(
      m, [](const Kernel&) { return true; }, least_rows_of(rhs.panels() * rhs.panel_bytes()));
  multiply(Int8Product<RowSource>(kernel, m, operands, rows), kernel.name, report);
}

// What becomes of a layer's sums.
Epilogue layer_epilogue(const PackedLinear& layer, DstKind kind) {
  return {.kind = kind,
          .relu = layer.options().relu,
          .rhs_scale = layer.scale(),
          .rhs_sum = layer.weight().column_sums(),
          .bias = layer.bias()};
}

}  // namespace

std::int64_t max_exact_k(bool lhs_wide, bool rhs_wide) {
  const std::int64_t largest_product = (lhs_wide ? 255 : 128) * (rhs_wide ? 255 : 128);
  return 2147483647 / largest_product;
}

PackedLinear::PackedLinear(Image image, std::int64_t n, std::int64_t k, bool has_bias, Options options,
                           PanelShape shape, const InputTransform& inputs)
    : PackedLayer(std::move(image), options, inputs, n, k, shape),
      scale_(take_columns(image_, weight_.padded_n(), true)) {
  take_bias(has_bias);
}

PackedLinear::PackedLinear(const RhsView& weight, const float* scale, const float* bias_or_null, Options options,
                           const InputTransform& inputs, PanelShape shape)
    : PackedLinear(Image::zeros(image_bytes(weight.n, weight.k, bias_or_null != nullptr, shape)), weight.n, weight.k,
                   bias_or_null != nullptr, options, shape, inputs) {
  weight_.pack(weight);
  put_columns(scale, n(), scale_);
  put_bias(bias_or_null);
}

std::size_t PackedLinear::image_bytes(std::int64_t n, std::int64_t k, bool has_bias, PanelShape shape) {
  return PackedRhs::image_bytes(n, k, shape) + (has_bias ? 2 : 1) * columns_bytes(round_up(n, shape.nr));
}

PackedLinear PackedLinear::repacked(PanelShape shape) const {
  std::vector<std::int8_t> q(static_cast<std::size_t>(n() * k()));
  weight_.unpack(q.data());
  const RhsView view{reinterpret_cast<const std::uint8_t*>(q.data()), n(), k(), k(), 1, false};
  return PackedLinear(view, scale(), bias(), options_, inputs_.view(), shape);
}

void PackedLinear::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                              std::int64_t y_stride) const {
  const std::int64_t n = weight_.n(), k = weight_.k();
  if (m == 0 || n == 0) return;
  CallReport report("linear", m, k, n);
  if (k == 0) return put_empty_sums(bias(), options_.relu, options_.function, m, n, y, y_stride);
  multiply_int8(
      m, Operands{weight_, y, y_stride, sizeof(float), layer_epilogue(*this, DstKind::kFloat32), options_.function},
      FloatRows{.data = x, .stride = x_stride, .k = k, .asymmetric = options_.asymmetric(), .inputs = inputs_}, report);
}

bool PackedLinear::forward_static(const StaticRows& x, const StaticRows& y) const {
  const std::int64_t n = weight_.n(), k = weight_.k();
  if (x.m == 0 || n == 0) return true;
  CallReport report("static linear", x.m, k, n);
  const DefaultFloatEnvironment environment;  // the reciprocals below round, and may be subnormal
  const bool float_out = y.type == ElementType::kFloat32;
  Epilogue epilogue = layer_epilogue(*this, float_out ? DstKind::kFloat32 : DstKind::kByte);
  epilogue.dst_inverse = 1.0f / y.scale;
  epilogue.dst_lo = static_cast<float>(y.qmin - y.zero_point);
  epilogue.dst_hi = static_cast<float>(y.qmax - y.zero_point);
  epilogue.dst_zero_point = y.zero_point;
  const Operands operands{weight_, y.data, y.stride, float_out ? 4 : 1, epilogue};
  if (x.type == ElementType::kFloat32) {
    // Inside, integers are int8 even where the parameters are for uint8.
    const std::int32_t shift = x.qmax > 127 ? 128 : 0;
    const FixedQuant fixed{.scale = x.scale,
                           .inverse = 1.0f / x.scale,
                           .zero_point = x.zero_point - shift,
                           .lo = static_cast<float>(x.qmin - x.zero_point),
                           .hi = static_cast<float>(x.qmax - x.zero_point)};
    std::atomic<bool> saw_nan{false};
    const FloatRows rows{static_cast<const float*>(x.data), x.stride, k, false, inputs_, &fixed, &saw_nan};
    multiply_int8(x.m, operands, rows, report);
    return !saw_nan.load();
  }
  const bool is_unsigned = x.type == ElementType::kUint8;
  const LhsView view{static_cast<const std::uint8_t*>(x.data), x.m, k, x.stride, is_unsigned};
  const ZeroPoints zero_point{&x.zero_point, true};
  const bool has_zero_point = x.zero_point != (is_unsigned ? 128 : 0);
  multiply_int8(x.m, operands, IntegerRows{view, zero_point, has_zero_point, false, x.scale}, report);
  return true;
}

void matmul_integer(const LhsView& a, const RhsView& b, ZeroPoints a_zero_point, ZeroPoints b_zero_point,
                    std::int32_t* y) {
  if (a.m == 0 || b.n == 0) return;
  CallReport report("matmul_integer", a.m, a.k, b.n);
  if (a.k == 0) {
    std::memset(y, 0, static_cast<std::size_t>(a.m * b.n) * sizeof(std::int32_t));
    return;
  }
  const std::size_t bytes = PackedRhs::image_bytes(b.n, b.k, panel_shape());
  CallMemory memory;
  memory.reserve(bytes);
  std::memset(memory.as<void>(), 0, bytes);
  Image image = Image::over(memory.as<std::byte>(), bytes);
  PackedRhs rhs(b.n, b.k, panel_shape(), image);
  rhs.pack(b);
  const std::int32_t a_shift = a.is_unsigned ? 128 : 0, b_shift = b.is_unsigned ? 128 : 0;
  std::vector<std::int32_t> b_zero(static_cast<std::size_t>(rhs.padded_n()));
  std::vector<std::int32_t> b_sum(static_cast<std::size_t>(rhs.padded_n()));
  bool b_has_zero_point = false, a_has_zero_point = false;
  for (std::int64_t n = 0; n < b.n; ++n) {
    const std::int32_t z = b_zero_point[n] - b_shift;
    b_zero[static_cast<std::size_t>(n)] = z;
    b_has_zero_point |= z != 0;
    // sum (a - za)(b - zb) = sum ab - za (sum b - K zb) - zb sum a: the bracket replaces the column's sum.
    b_sum[static_cast<std::size_t>(n)] =
        static_cast<std::int32_t>(static_cast<std::uint32_t>(rhs.column_sums()[n]) -
                                  static_cast<std::uint32_t>(b.k) * static_cast<std::uint32_t>(z));
  }
  for (std::int64_t m = 0; m < (a_zero_point.one_for_all ? 1 : a.m); ++m)
    a_has_zero_point |= a_zero_point[m] != a_shift;
  Epilogue epilogue{.kind = DstKind::kInt32};
  epilogue.rhs_sum = b_sum.data();
  if (b_has_zero_point) epilogue.rhs_zero_point = b_zero.data();
  multiply_int8(a.m, Operands{rhs, y, b.n, sizeof *y, epilogue},
                IntegerRows{a, a_zero_point, a_has_zero_point, b_has_zero_point}, report);
}

}  // namespace octavo
