#include "gemm/gemm_int4.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

Int4Form form_of(const Int4View& view, bool column_sums) {
  return {view.n, view.k, view.group_k, view.half_scale != nullptr, view.zero_point != nullptr, column_sums};
}

bool has_int4(const Kernel& kernel) { return kernel.int4 != nullptr; }
std::int64_t least_rows(const Kernel& kernel) { return kernel.int4->min_rows; }

class Int4Product final : public Product {
 public:
  Int4Product(const Int4Kernel& kernel, const PackedLinearInt4& layer, const FloatCall& call)
      : kernel_(kernel), layer_(layer), call_(call) {}

  Size size() const override { return size_of(call_.m, layer_.weight(), kernel_); }
  std::int64_t lhs_bytes(std::int64_t rows) const override { return kernel_.lhs_bytes(rows, layer_.weight().groups()); }
  std::int64_t scratch_bytes(std::int64_t rows) const override { return kernel_.scratch_bytes(rows); }

  void load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const override {
    const ThreadRotation rotation(layer_.k(), layer_.inputs().rotation());
    kernel_.quantize_lhs({.src = call_.x + row0 * call_.x_stride,
                          .src_stride = call_.x_stride,
                          .rows = rows,
                          .k = layer_.k(),
                          .asymmetric = layer_.options().asymmetric(),
                          .dst = to.packed,
                          .scale = to.scale,
                          .zero_point = to.zero_point,
                          .factor = layer_.inputs().factors(),
                          .rotation = rotation.get()},
                         layer_.weight().groups());
  }

  void multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const override {
    const PackedInt4& rhs = layer_.weight();
    const ColumnRange columns(block, rhs.nr(), rhs.n());
    Int4Block task{};
    rhs.set_operands(task, block.panel0);
    task.lhs = lhs.packed;
    task.rows = block.rows;
    task.cols = columns.count;
    task.lhs_scale = lhs.scale;
    task.lhs_zero_point = layer_.options().asymmetric() ? lhs.zero_point : nullptr;
    task.bias = layer_.bias() == nullptr ? nullptr : layer_.bias() + columns.first;
    task.relu = layer_.options().relu;
    task.dst = call_.y + block.row0 * call_.y_stride + columns.first;
    task.dst_stride = call_.y_stride;
    task.scratch = scratch;
    // Zen 4 gains. On Zen 5, which has AVX-VNNI, prefetching the scales of grouped codes was slower.
    task.prefetch_scale = (cpu_features() & kFeatureAvxVnni) == 0;
    run_kernel(kernel_, task);
    apply_function(layer_.options().function, task.dst, task.rows, task.cols, task.dst_stride);
  }

 private:
  const Int4Kernel& kernel_;
  const PackedLinearInt4& layer_;
  FloatCall call_;
};

}  // namespace

std::int64_t max_exact_group_k(bool lhs_wide, bool rhs_wide) {
  const std::int64_t largest_product = (lhs_wide ? 255 : 128) * (rhs_wide ? 15 : 8);
  return std::numeric_limits<std::int32_t>::max() / largest_product;
}

PackedLinearInt4::PackedLinearInt4(Image image, const Int4Form& form, bool has_bias, Options options, PanelShape shape,
                                   const InputTransform& inputs)
    : PackedLayer(std::move(image), options, inputs, form, shape) {
  take_bias(has_bias);
}

PackedLinearInt4::PackedLinearInt4(const Int4View& weight, const float* bias_or_null, Options options,
                                   const InputTransform& inputs, PanelShape shape)
    : PackedLinearInt4(Image::zeros(image_bytes(form_of(weight, options.asymmetric()), bias_or_null != nullptr, shape)),
                       form_of(weight, options.asymmetric()), bias_or_null != nullptr, options, shape, inputs) {
  weight_.pack(weight);
  put_bias(bias_or_null);
}

std::size_t PackedLinearInt4::image_bytes(const Int4Form& form, bool has_bias, PanelShape shape) {
  return PackedInt4::image_bytes(form, shape) + (has_bias ? columns_bytes(round_up(form.n, shape.nr)) : 0);
}

PackedLinearInt4 PackedLinearInt4::repacked(PanelShape shape) const {
  const std::int64_t groups = weight_.group_count();
  const auto group_elems = static_cast<std::size_t>(n() * groups);
  const bool half = weight_.has_half_scale(), zero_points = weight_.groups().has_offsets;
  std::vector<std::int64_t> counted(static_cast<std::size_t>(std::max(n(), groups)));
  std::iota(counted.begin(), counted.end(), std::int64_t{0});
  const Indices all_n{counted.data(), n()}, all_groups{counted.data(), groups};
  std::vector<std::int8_t> values(static_cast<std::size_t>(n() * k())), zero_point(zero_points ? group_elems : 0);
  std::vector<float> scale(half ? 0 : group_elems);
  std::vector<std::uint16_t> half_scale(half ? group_elems : 0);
  weight_.unpack(values.data());
  weight_.unpack_scale(all_n, all_groups, half ? static_cast<void*>(half_scale.data()) : scale.data());
  if (zero_points) weight_.unpack_zero_point(all_n, all_groups, zero_point.data());
  // One group a row, whatever its size, is group_k 0.
  const std::int64_t group_k = groups == 1 ? 0 : weight_.groups().group_k;
  const Int4View view{values.data(),
                      n(),
                      k(),
                      group_k,
                      scale.data(),
                      half ? half_scale.data() : nullptr,
                      zero_points ? zero_point.data() : nullptr};
  return PackedLinearInt4(view, bias(), options_, inputs_.view(), shape);
}

void PackedLinearInt4::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                                  std::int64_t y_stride) const {
  if (m == 0 || n() == 0) return;
  CallReport report("int4 linear", m, k(), n());
  if (k() == 0) return put_empty_sums(bias(), options_.relu, options_.function, m, n(), y, y_stride);
  const Kernel& kernel = kernel_for(m, has_int4, least_rows);
  multiply(Int4Product(*kernel.int4, *this, {x, m, x_stride, y, y_stride}), kernel.name, report);
}

}  // namespace octavo
