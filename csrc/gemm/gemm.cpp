#include "gemm/gemm.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"
#include "gemm/plan.h"
#include "gemm/registry.h"
#include "gemm/verbose.h"

namespace octavo {
namespace {

// One product: everything but the rows of its left-hand side, which a RowSource supplies.
struct Product {
  std::int64_t m;
  const PackedRhs& rhs;
  void* dst;
  std::int64_t dst_stride;
  std::int64_t dst_elem_bytes;
  Epilogue epilogue;  // the columns' arrays; the rows' are set for each block
};

// Packed rows and what the epilogue needs of them, in memory that a thread keeps for its next call. What it keeps is
// bounded: a block of many rows is planned to fill half of the L2 cache, few rows are at most four tiles a thread.
class RowBuffers {
 public:
  void resize(const Kernel& kernel, std::int64_t rows, std::int64_t k) {
    packed_.reserve(static_cast<std::size_t>(kernel.lhs_bytes(rows, k)));
    scale_.reserve(static_cast<std::size_t>(rows) * sizeof(float));
    zero_point_.reserve(static_cast<std::size_t>(rows) * sizeof(std::int32_t));
    sum_.reserve(static_cast<std::size_t>(rows) * sizeof(std::int32_t));
  }
  void* packed() const { return packed_.as<void>(); }
  float* scale() const { return scale_.as<float>(); }
  std::int32_t* zero_point() const { return zero_point_.as<std::int32_t>(); }
  std::int32_t* sum() const { return sum_.as<std::int32_t>(); }

 private:
  AlignedBuffer packed_, scale_, zero_point_, sum_;
};

RowBuffers& row_buffers() {
  static thread_local RowBuffers buffers;
  return buffers;
}

AlignedBuffer& scratch_buffer() {
  static thread_local AlignedBuffer buffer;
  return buffer;
}

// float32 rows, quantized as they are packed: by what each row holds, or with fixed parameters.
struct FloatRows {
  const float* data;
  std::int64_t stride, k;
  bool asymmetric;
  const FixedQuant* fixed = nullptr;
  std::atomic<bool>* saw_nan = nullptr;

  void load(const Kernel& kernel, std::int64_t row0, std::int64_t rows, const RowBuffers& to,
            Epilogue& epilogue) const {
    bool nan_here = false;
    kernel.quantize_lhs({data + row0 * stride, stride, rows, k, asymmetric, to.packed(), to.scale(), to.zero_point(),
                         fixed, &nan_here});
    epilogue.lhs_scale = to.scale();
    const bool has_zero_point = fixed != nullptr ? fixed->zero_point != 0 : asymmetric;
    epilogue.lhs_zero_point = has_zero_point ? to.zero_point() : nullptr;
    if (nan_here) saw_nan->store(true, std::memory_order_relaxed);
  }
};

// int8 or uint8 rows with zero points that the caller chose.
struct IntegerRows {
  const LhsView& view;
  ZeroPoints zero_point;
  bool needs_zero_point, needs_sum;
  float scale = 0;  // of a layer's input; operators on integers have none

  void load(const Kernel& kernel, std::int64_t row0, std::int64_t rows, const RowBuffers& to,
            Epilogue& epilogue) const {
    const std::uint8_t flip = view.is_unsigned ? 0x80 : 0;
    const std::uint8_t* src = view.data + row0 * view.m_stride;
    kernel.pack_lhs({src, view.m_stride, rows, view.k, flip, to.packed()});
    if (needs_zero_point) {
      const std::int32_t shift = view.is_unsigned ? 128 : 0;
      for (std::int64_t i = 0; i < rows; ++i) to.zero_point()[i] = zero_point[row0 + i] - shift;
      epilogue.lhs_zero_point = to.zero_point();
    }
    if (scale != 0) {
      std::fill_n(to.scale(), rows, scale);
      epilogue.lhs_scale = to.scale();
    }
    if (needs_sum) {
      for (std::int64_t i = 0; i < rows; ++i) to.sum()[i] = row_sum(src + i * view.m_stride, flip);
      epilogue.lhs_sum = to.sum();
    }
  }

  std::int32_t row_sum(const std::uint8_t* row, std::uint8_t flip) const {
    std::uint32_t sum = 0;
    for (std::int64_t i = 0; i < view.k; ++i) {
      sum += static_cast<std::uint32_t>(static_cast<std::int8_t>(static_cast<std::uint8_t>(row[i] ^ flip)));
    }
    return static_cast<std::int32_t>(sum);
  }
};

// K in pieces such that a tile's panels and rows share three quarters of the L1 cache.
std::int64_t choose_k_block(const Kernel& kernel, const PackedRhs& rhs) {
  const std::int64_t bytes_per_k = kernel.panels * rhs.nr() + kernel.mr * kernel.lhs_elem_bytes;
  return std::max<std::int64_t>(64, static_cast<std::int64_t>(cache_sizes().l1d_bytes) * 3 / 4 / bytes_per_k);
}

// Multiplies rows that are packed already, [row0, row0 + rows), with panels [panel0, panel1).
void multiply_block(const Kernel& kernel, const Product& product, const RowBuffers& lhs, Epilogue epilogue,
                    std::int64_t row0, std::int64_t rows, std::int64_t panel0, std::int64_t panel1) {
  const PackedRhs& rhs = product.rhs;
  const std::int64_t col0 = panel0 * rhs.nr();
  const auto advance = [col0](auto*& array) {
    if (array != nullptr) array += col0;
  };
  advance(epilogue.rhs_scale);
  advance(epilogue.rhs_zero_point);
  advance(epilogue.rhs_sum);
  advance(epilogue.bias);
  AlignedBuffer& scratch = scratch_buffer();
  scratch.reserve(static_cast<std::size_t>(kernel.scratch_elems(rows, rhs.k())) * sizeof(std::int32_t));
  const GemmBlock block{
      .lhs = lhs.packed(),
      .rows = rows,
      .rhs = rhs.panel(panel0),
      .nr = rhs.nr(),
      .kr = rhs.kr(),
      .column_sums = rhs.column_sums() + col0,
      .cols = std::min(rhs.n(), panel1 * rhs.nr()) - col0,
      .k = rhs.k(),
      .k_block = choose_k_block(kernel, rhs),
      .dst = static_cast<std::byte*>(product.dst) + (row0 * product.dst_stride + col0) * product.dst_elem_bytes,
      .dst_stride = product.dst_stride,
      .scratch = scratch.as<std::int32_t>(),
      .epilogue = epilogue,
  };
  (rows <= kernel.gemv_max_rows ? kernel.gemv : kernel.gemm)(block);
}

// Many rows: each task quantizes a block of rows into its own cache and multiplies it with every panel.
template <class RowSource>
void split_rows(const Kernel& kernel, const Product& product, const RowSource& source, int threads,
                CallReport& report) {
  const std::int64_t k = product.rhs.k();
  const std::int64_t rows_per_block = plan_rows_per_block(product.m, k * kernel.lhs_elem_bytes, kernel.mr, threads);
  report.split(ceil_div(product.m, rows_per_block), "rows");
  run_tasks(threads, ceil_div(product.m, rows_per_block), [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t row0 = i * rows_per_block, rows = std::min(rows_per_block, product.m - row0);
    RowBuffers& lhs = row_buffers();
    lhs.resize(kernel, rows, k);
    Epilogue epilogue = product.epilogue;
    source.load(kernel, row0, rows, lhs, epilogue);
    multiply_block(kernel, product, lhs, epilogue, row0, rows, 0, product.rhs.panels());
  });
}

// Few rows: quantized once, here; tasks share them and split the panels.
template <class RowSource>
void split_columns(const Kernel& kernel, const Product& product, const RowSource& source, int threads,
                   CallReport& report) {
  const DefaultFloatEnvironment environment;
  RowBuffers& lhs = row_buffers();
  lhs.resize(kernel, product.m, product.rhs.k());
  Epilogue epilogue = product.epilogue;
  source.load(kernel, 0, product.m, lhs, epilogue);
  const std::int64_t panels = product.rhs.panels();
  const std::int64_t blocks = plan_column_blocks(panels, threads);
  report.split(blocks, "columns");
  run_tasks(threads, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment worker_environment;
    multiply_block(kernel, product, lhs, epilogue, 0, product.m, panels * i / blocks, panels * (i + 1) / blocks);
  });
}

template <class RowSource>
void multiply(const Product& product, const RowSource& source, CallReport& report) {
  const Kernel& kernel = kernel_for(product.m);
  const int threads = plan_threads(kernel.features, product.m, product.rhs.n(), product.rhs.k());
  report.run_by(kernel.name, threads);
  if (plan_splits_rows(product.m, kernel.mr, threads)) {
    split_rows(kernel, product, source, threads, report);
  } else {
    split_columns(kernel, product, source, threads, report);
  }
}

}  // namespace

std::int64_t max_exact_k(bool lhs_wide, bool rhs_wide) {
  const std::int64_t largest_product = (lhs_wide ? 255 : 128) * (rhs_wide ? 255 : 128);
  return 2147483647 / largest_product;
}

AlignedBuffer padded_columns(const float* values, std::int64_t n, std::int64_t padded_n) {
  AlignedBuffer buffer = AlignedBuffer::zeros(static_cast<std::size_t>(padded_n) * sizeof(float));
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

PackedLinear::PackedLinear(const RhsView& weight, const float* scale, const float* bias_or_null, Options options)
    : weight_(weight), has_bias_(bias_or_null != nullptr), options_(options) {
  scale_ = padded_columns(scale, weight_.n(), weight_.padded_n());
  if (has_bias_) bias_ = padded_columns(bias_or_null, weight_.n(), weight_.padded_n());
}

std::size_t PackedLinear::size_bytes() const {
  return weight_.size_bytes() + scale_.size_bytes() + bias_.size_bytes() + sizeof *this;
}

void PackedLinear::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                              std::int64_t y_stride) const {
  const std::int64_t n = weight_.n(), k = weight_.k();
  if (m == 0 || n == 0) return;
  CallReport report("linear", m, k, n);
  if (k == 0) return put_empty_sums(bias(), options_.relu, m, n, y, y_stride);
  Epilogue epilogue{.kind = DstKind::kFloat32, .relu = options_.relu};
  epilogue.rhs_scale = scale();
  epilogue.rhs_sum = weight_.column_sums();
  epilogue.bias = bias();
  const bool asymmetric = options_.activation == ActivationScheme::kAsymmetric;
  multiply(Product{m, weight_, y, y_stride, sizeof(float), epilogue}, FloatRows{x, x_stride, k, asymmetric}, report);
}

bool PackedLinear::forward_static(const StaticRows& x, const StaticRows& y) const {
  const std::int64_t n = weight_.n(), k = weight_.k();
  if (x.m == 0 || n == 0) return true;
  CallReport report("static linear", x.m, k, n);
  const DefaultFloatEnvironment environment;  // the reciprocals below round, and may be subnormal
  Epilogue epilogue{.kind = y.type == ElementType::kFloat32 ? DstKind::kFloat32 : DstKind::kByte,
                    .relu = options_.relu};
  epilogue.rhs_scale = scale();
  epilogue.rhs_sum = weight_.column_sums();
  epilogue.bias = bias();
  epilogue.dst_inverse = 1.0f / y.scale;
  epilogue.dst_lo = static_cast<float>(y.qmin - y.zero_point);
  epilogue.dst_hi = static_cast<float>(y.qmax - y.zero_point);
  epilogue.dst_zero_point = y.zero_point;
  const std::int64_t y_bytes = y.type == ElementType::kFloat32 ? 4 : 1;
  const Product product{x.m, weight_, y.data, y.stride, y_bytes, epilogue};
  if (x.type == ElementType::kFloat32) {
    // The integers are int8 inside, whatever the parameters are for.
    const std::int32_t shift = x.qmax > 127 ? 128 : 0;
    const FixedQuant fixed{x.scale, 1.0f / x.scale, x.zero_point - shift, static_cast<float>(x.qmin - x.zero_point),
                           static_cast<float>(x.qmax - x.zero_point)};
    std::atomic<bool> saw_nan{false};
    multiply(product, FloatRows{static_cast<const float*>(x.data), x.stride, k, false, &fixed, &saw_nan}, report);
    return !saw_nan.load();
  }
  const bool is_unsigned = x.type == ElementType::kUint8;
  const LhsView view{static_cast<const std::uint8_t*>(x.data), x.m, k, x.stride, is_unsigned};
  const ZeroPoints zero_point{&x.zero_point, true};
  const bool has_zero_point = x.zero_point != (is_unsigned ? 128 : 0);
  multiply(product, IntegerRows{view, zero_point, has_zero_point, false, x.scale}, report);
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
  const PackedRhs rhs(b);
  const std::int32_t a_shift = a.is_unsigned ? 128 : 0, b_shift = b.is_unsigned ? 128 : 0;
  std::vector<std::int32_t> b_zero(static_cast<std::size_t>(rhs.padded_n()));
  std::vector<std::int32_t> b_sum(static_cast<std::size_t>(rhs.padded_n()));
  bool b_has_zero_point = false, a_has_zero_point = false;
  for (std::int64_t n = 0; n < b.n; ++n) {
    const std::int32_t z = b_zero_point[n] - b_shift;
    b_zero[static_cast<std::size_t>(n)] = z;
    b_has_zero_point |= z != 0;
    // sum (a - za)(b - zb) = sum ab - za (sum b - K zb) - zb sum a: the bracket takes the place of the column's sum.
    b_sum[static_cast<std::size_t>(n)] =
        static_cast<std::int32_t>(static_cast<std::uint32_t>(rhs.column_sums()[n]) -
                                  static_cast<std::uint32_t>(b.k) * static_cast<std::uint32_t>(z));
  }
  for (std::int64_t m = 0; m < (a_zero_point.one_for_all ? 1 : a.m); ++m)
    a_has_zero_point |= a_zero_point[m] != a_shift;
  Epilogue epilogue{.kind = DstKind::kInt32};
  epilogue.rhs_sum = b_sum.data();
  if (b_has_zero_point) epilogue.rhs_zero_point = b_zero.data();
  multiply(Product{a.m, rhs, y, b.n, sizeof *y, epilogue},
           IntegerRows{a, a_zero_point, a_has_zero_point, b_has_zero_point}, report);
}

}  // namespace octavo
