#include "gemm/gemm_int4.h"

#include <algorithm>
#include <limits>

#include "base/arch.h"
#include "gemm/plan.h"
#include "gemm/registry.h"
#include "gemm/verbose.h"

namespace octavo {
namespace {

// One call: floats in, floats out.
struct Product {
  const PackedInt4& rhs;
  PackedLinear::Options options;
  const float* bias;
  const float* x;
  std::int64_t m, x_stride;
  float* y;
  std::int64_t y_stride;

  bool asymmetric() const { return options.activation == ActivationScheme::kAsymmetric; }
};

// Packed rows and their parameters, in memory that a thread keeps for its next call.
struct Rows {
  AlignedBuffer packed, scale, zero_point;

  void quantize(const Int4Kernel& kernel, const Product& product, std::int64_t row0, std::int64_t rows) {
    packed.reserve(static_cast<std::size_t>(kernel.lhs_bytes(rows, product.rhs.groups())));
    scale.reserve(static_cast<std::size_t>(rows) * sizeof(float));
    zero_point.reserve(static_cast<std::size_t>(rows) * sizeof(std::int32_t));
    kernel.quantize_lhs({product.x + row0 * product.x_stride, product.x_stride, rows, product.rhs.k(),
                         product.asymmetric(), packed.as<void>(), scale.as<float>(), zero_point.as<std::int32_t>()},
                        product.rhs.groups());
  }
};

Rows& rows_of_this_thread() {
  static thread_local Rows rows;
  return rows;
}

AlignedBuffer& scratch_of_this_thread() {
  static thread_local AlignedBuffer scratch;
  return scratch;
}

// Multiplies rows that are packed already, [row0, row0 + rows), with panels [panel0, panel1).
void multiply_block(const Int4Kernel& kernel, const Product& product, const Rows& lhs, std::int64_t row0,
                    std::int64_t rows, std::int64_t panel0, std::int64_t panel1) {
  const std::int64_t col0 = panel0 * product.rhs.nr();
  AlignedBuffer& scratch = scratch_of_this_thread();
  scratch.reserve(static_cast<std::size_t>(kernel.scratch_bytes(rows)));
  Int4Block block{};
  product.rhs.set_operands(block, panel0);
  block.lhs = lhs.packed.as<const void>();
  block.rows = rows;
  block.cols = std::min(product.rhs.n(), panel1 * product.rhs.nr()) - col0;
  block.lhs_scale = lhs.scale.as<const float>();
  block.lhs_zero_point = product.asymmetric() ? lhs.zero_point.as<const std::int32_t>() : nullptr;
  block.bias = product.bias == nullptr ? nullptr : product.bias + col0;
  block.relu = product.options.relu;
  block.dst = product.y + row0 * product.y_stride + col0;
  block.dst_stride = product.y_stride;
  block.scratch = scratch.as<void>();
  (rows <= kernel.gemv_max_rows ? kernel.gemv : kernel.gemm)(block);
}

// Many rows: each task quantizes a block of rows into its own cache and multiplies it with every panel.
void split_rows(const Int4Kernel& kernel, const Product& product, int threads, CallReport& report) {
  const std::int64_t rows_per_block = plan_rows_per_block(product.m, product.rhs.k(), kernel.mr, threads);
  report.split(ceil_div(product.m, rows_per_block), "rows");
  run_tasks(threads, ceil_div(product.m, rows_per_block), [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t row0 = i * rows_per_block, rows = std::min(rows_per_block, product.m - row0);
    Rows& lhs = rows_of_this_thread();
    lhs.quantize(kernel, product, row0, rows);
    multiply_block(kernel, product, lhs, row0, rows, 0, product.rhs.panels());
  });
}

// Few rows: quantized once, here; tasks share them and split the panels.
void split_columns(const Int4Kernel& kernel, const Product& product, int threads, CallReport& report) {
  const DefaultFloatEnvironment environment;
  Rows& lhs = rows_of_this_thread();
  lhs.quantize(kernel, product, 0, product.m);
  const std::int64_t panels = product.rhs.panels(), blocks = plan_column_blocks(panels, threads);
  report.split(blocks, "columns");
  run_tasks(threads, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment worker_environment;
    multiply_block(kernel, product, lhs, 0, product.m, panels * i / blocks, panels * (i + 1) / blocks);
  });
}

}  // namespace

std::int64_t max_exact_group_k(bool lhs_wide, bool rhs_wide) {
  const std::int64_t largest_product = (lhs_wide ? 255 : 128) * (rhs_wide ? 15 : 8);
  return std::numeric_limits<std::int32_t>::max() / largest_product;
}

PackedLinearInt4::PackedLinearInt4(const Int4View& weight, const float* bias_or_null, Options options)
    : weight_(weight, options.activation == ActivationScheme::kAsymmetric),
      has_bias_(bias_or_null != nullptr),
      options_(options) {
  if (has_bias_) bias_ = padded_columns(bias_or_null, weight_.n(), weight_.padded_n());
}

void PackedLinearInt4::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                                  std::int64_t y_stride) const {
  if (m == 0 || n() == 0) return;
  CallReport report("int4 linear", m, k(), n());
  if (k() == 0) return put_empty_sums(bias(), options_.relu, m, n(), y, y_stride);
  const Product product{weight_, options_, bias(), x, m, x_stride, y, y_stride};
  const Kernel& active = active_kernel();  // asked once: another thread may force a kernel meanwhile
  const Int4Kernel& kernel = *active.int4;
  const int threads = plan_threads(active.features, m, n(), k());
  report.run_by(active.name, threads);
  if (plan_splits_rows(m, kernel.mr, threads)) {
    split_rows(kernel, product, threads, report);
  } else {
    split_columns(kernel, product, threads, report);
  }
}

}  // namespace octavo
