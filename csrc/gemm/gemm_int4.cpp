#include "gemm/gemm_int4.h"

#include <limits>

#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

bool has_int4(const Kernel& kernel) { return kernel.int4 != nullptr; }

// One call: floats in, floats out.
struct Call {
  const float* x;
  std::int64_t m, x_stride;
  float* y;
  std::int64_t y_stride;
};

class Int4Product final : public Product {
 public:
  Int4Product(const Int4Kernel& kernel, const PackedLinearInt4& layer, const Call& call)
      : kernel_(kernel), layer_(layer), call_(call) {}

  Size size() const override { return size_of(call_.m, layer_.weight(), kernel_); }
  std::int64_t lhs_bytes(std::int64_t rows) const override { return kernel_.lhs_bytes(rows, layer_.weight().groups()); }
  std::int64_t scratch_bytes(std::int64_t rows) const override { return kernel_.scratch_bytes(rows); }

  void load_rows(std::int64_t row0, std::int64_t rows, const RowBuffers& to) const override {
    kernel_.quantize_lhs({.src = call_.x + row0 * call_.x_stride,
                          .src_stride = call_.x_stride,
                          .rows = rows,
                          .k = layer_.k(),
                          .asymmetric = layer_.options().asymmetric(),
                          .dst = to.packed(),
                          .scale = to.scale(),
                          .zero_point = to.zero_point()},
                         layer_.weight().groups());
  }

  void multiply_block(const Block& block, const RowBuffers& lhs, void* scratch) const override {
    const PackedInt4& rhs = layer_.weight();
    const ColumnRange columns(block, rhs.nr(), rhs.n());
    Int4Block task{};
    rhs.set_operands(task, block.panel0);
    task.lhs = lhs.packed();
    task.rows = block.rows;
    task.cols = columns.count;
    task.lhs_scale = lhs.scale();
    task.lhs_zero_point = layer_.options().asymmetric() ? lhs.zero_point() : nullptr;
    task.bias = layer_.bias() == nullptr ? nullptr : layer_.bias() + columns.first;
    task.relu = layer_.options().relu;
    task.dst = call_.y + block.row0 * call_.y_stride + columns.first;
    task.dst_stride = call_.y_stride;
    task.scratch = scratch;
    run_kernel(kernel_, task);
    apply_function(layer_.options().function, task.dst, task.rows, task.cols, task.dst_stride);
  }

 private:
  const Int4Kernel& kernel_;
  const PackedLinearInt4& layer_;
  Call call_;
};

}  // namespace

std::int64_t max_exact_group_k(bool lhs_wide, bool rhs_wide) {
  const std::int64_t largest_product = (lhs_wide ? 255 : 128) * (rhs_wide ? 15 : 8);
  return std::numeric_limits<std::int32_t>::max() / largest_product;
}

PackedLinearInt4::PackedLinearInt4(const Int4View& weight, const float* bias_or_null, Options options)
    : weight_(weight, options.asymmetric()), has_bias_(bias_or_null != nullptr), options_(options) {
  if (has_bias_) bias_ = padded_columns(bias_or_null, weight_.n(), weight_.padded_n());
}

void PackedLinearInt4::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                                  std::int64_t y_stride) const {
  if (m == 0 || n() == 0) return;
  CallReport report("int4 linear", m, k(), n());
  if (k() == 0) return put_empty_sums(bias(), options_.relu, options_.function, m, n(), y, y_stride);
  const Kernel& kernel = kernel_for(m, has_int4);
  multiply(Int4Product(*kernel.int4, *this, {x, m, x_stride, y, y_stride}), kernel.name, report);
}

}  // namespace octavo
