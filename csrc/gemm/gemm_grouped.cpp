#include "gemm/gemm_grouped.h"

#include <limits>

#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

bool has_grouped(const Kernel& kernel) { return kernel.grouped != nullptr; }

// One call: floats in, floats out.
struct Call {
  const float* x;
  std::int64_t m, x_stride;
  float* y;
  std::int64_t y_stride;
};

class GroupedProduct final : public Product {
 public:
  GroupedProduct(const GroupedKernel& kernel, const PackedLinearGrouped& layer, const Call& call)
      : kernel_(kernel), layer_(layer), call_(call) {}

  Size size() const override {
    Size size = size_of(call_.m, layer_.weight(), kernel_);
    size.multiply_adds_per_us /= activations().parts();
    return size;
  }
  std::int64_t lhs_bytes(std::int64_t rows) const override {
    return kernel_.lhs_bytes(rows, layer_.weight().form(), activations());
  }
  std::int64_t scratch_bytes(std::int64_t) const override { return 0; }

  void load_rows(std::int64_t row0, std::int64_t rows, const RowBuffers& to) const override {
    kernel_.quantize_lhs({.src = call_.x + row0 * call_.x_stride,
                          .src_stride = call_.x_stride,
                          .rows = rows,
                          .form = layer_.weight().form(),
                          .activations = activations(),
                          .dst = to.packed()});
  }

  void multiply_block(const Block& block, const RowBuffers& lhs, void*) const override {
    const ColumnRange columns(block, kGroupedNr, layer_.n());
    GroupedBlock task{};
    layer_.weight().set_operands(task, block.panel0);
    task.activations = activations();
    task.lhs = lhs.packed();
    task.rows = block.rows;
    task.cols = columns.count;
    task.bias = layer_.bias() == nullptr ? nullptr : layer_.bias() + columns.first;
    task.relu = layer_.options().relu;
    task.dst = call_.y + block.row0 * call_.y_stride + columns.first;
    task.dst_stride = call_.y_stride;
    kernel_.gemm(task);
    apply_function(layer_.options().function, task.dst, task.rows, task.cols, task.dst_stride);
  }

 private:
  const GroupedActivations& activations() const { return layer_.options().activations; }

  const GroupedKernel& kernel_;
  const PackedLinearGrouped& layer_;
  Call call_;
};

}  // namespace

std::int64_t max_exact_grouped_k(std::int32_t bits, bool is_signed, bool has_zero_point, bool asymmetric) {
  const std::int64_t range = (std::int64_t{1} << bits) - 1;
  const std::int64_t largest = is_signed && !has_zero_point ? (range + 1) / 2 : range;
  return std::numeric_limits<std::int32_t>::max() / ((asymmetric ? 255 : 128) * largest);
}

PackedLinearGrouped::PackedLinearGrouped(const GroupedView& weight, const float* bias_or_null, Options options)
    : weight_(weight, options.activations.asymmetric), has_bias_(bias_or_null != nullptr), options_(options) {
  if (has_bias_) bias_ = padded_columns(bias_or_null, weight_.n(), weight_.padded_n());
}

void PackedLinearGrouped::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                                     std::int64_t y_stride) const {
  if (m == 0 || n() == 0) return;
  CallReport report("grouped linear", m, k(), n());
  if (k() == 0) return put_empty_sums(bias(), options_.relu, options_.function, m, n(), y, y_stride);
  const Kernel& kernel = kernel_for(m, has_grouped);
  multiply(GroupedProduct(*kernel.grouped, *this, {x, m, x_stride, y, y_stride}), kernel.name, report);
}

}  // namespace octavo
