#include "gemm/gemm_grouped.h"

#include <limits>
#include <utility>

#include "base/arch.h"
#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

bool has_grouped(const Kernel& kernel) { return kernel.grouped != nullptr; }
bool has_grouped_int16(const Kernel& kernel) { return has_grouped(kernel) && kernel.grouped->for_int16; }
std::int64_t least_rows(const Kernel& kernel) { return kernel.grouped->min_rows; }

class GroupedProduct final : public Product {
 public:
  GroupedProduct(const GroupedKernel& kernel, const PackedLinearGrouped& layer, const FloatCall& call)
      : kernel_(kernel), layer_(layer), call_(call) {}

  Size size() const override {
    Size size = size_of(call_.m, layer_.weight(), kernel_);
    size.multiply_adds_per_us /= activations().parts();
    size.apart_rows = 1;
    return size;
  }
  std::int64_t lhs_bytes(std::int64_t rows) const override {
    return kernel_.lhs_bytes(rows, layer_.weight().form(), activations());
  }
  std::int64_t scratch_bytes(std::int64_t) const override { return kernel_.scratch_bytes(layer_.weight().form()); }

  void load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const override {
    const ThreadRotation rotation(layer_.k(), layer_.inputs().rotation());
    kernel_.quantize_lhs({.src = call_.x + row0 * call_.x_stride,
                          .src_stride = call_.x_stride,
                          .rows = rows,
                          .form = layer_.weight().form(),
                          .activations = activations(),
                          .dst = to.packed,
                          .factor = layer_.inputs().factors(),
                          .rotation = rotation.get()});
  }

  void multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const override {
    const ColumnRange columns(block, kGroupedNr, layer_.n());
    GroupedBlock task{};
    layer_.weight().set_operands(task, block.panel0);
    task.activations = activations();
    task.lhs = lhs.packed;
    task.rows = block.rows;
    task.cols = columns.count;
    task.bias = layer_.bias() == nullptr ? nullptr : layer_.bias() + columns.first;
    task.relu = layer_.options().relu;
    task.dst = call_.y + block.row0 * call_.y_stride + columns.first;
    task.dst_stride = call_.y_stride;
    task.scratch = static_cast<std::uint8_t*>(scratch);
    // Zen 5 gains, Zen 4 loses, and other CPUs have not been measured; with AVX-VNNI they are newer than it.
    task.far_prefetch = (cpu_features() & kFeatureAvxVnni) != 0;
    kernel_.gemm(task);
    apply_function(layer_.options().function, task.dst, task.rows, task.cols, task.dst_stride);
  }

 private:
  const GroupedActivations& activations() const { return layer_.options().activations; }

  const GroupedKernel& kernel_;
  const PackedLinearGrouped& layer_;
  FloatCall call_;
};

}  // namespace

std::int64_t max_exact_grouped_k(std::int32_t bits, bool is_signed, bool has_zero_point, bool asymmetric) {
  const std::int64_t range = (std::int64_t{1} << bits) - 1;
  const std::int64_t reach = bits == 4 && !is_signed ? range + 1 : range;  // unsigned zero points go up to 16
  const std::int64_t largest = !has_zero_point ? (is_signed ? (range + 1) / 2 : range) : reach;
  return std::numeric_limits<std::int32_t>::max() / ((asymmetric ? 255 : 128) * largest);
}

PackedLinearGrouped::PackedLinearGrouped(Image image, const GroupedWeightForm& form, bool has_bias, Options options,
                                         const InputTransform& inputs)
    : PackedLayer(std::move(image), options, inputs, form, options.activations.asymmetric) {
  take_bias(has_bias);
}

PackedLinearGrouped::PackedLinearGrouped(const GroupedView& weight, const float* bias_or_null, Options options,
                                         const InputTransform& inputs)
    : PackedLinearGrouped(Image::zeros(image_bytes(weight.form(), bias_or_null != nullptr, options)), weight.form(),
                          bias_or_null != nullptr, options, inputs) {
  weight_.pack(weight);
  put_bias(bias_or_null);
}

std::size_t PackedLinearGrouped::image_bytes(const GroupedWeightForm& form, bool has_bias, const Options& options) {
  return PackedGrouped::image_bytes(form, options.activations.asymmetric) +
         (has_bias ? columns_bytes(round_up(form.n, kGroupedNr)) : 0);
}

void PackedLinearGrouped::operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y,
                                     std::int64_t y_stride) const {
  if (m == 0 || n() == 0) return;
  CallReport report("grouped linear", m, k(), n());
  if (k() == 0) return put_empty_sums(bias(), options_.relu, options_.function, m, n(), y, y_stride);
  const Kernel& kernel = kernel_for(m, options_.activations.int16 ? has_grouped_int16 : has_grouped, least_rows);
  multiply(GroupedProduct(*kernel.grouped, *this, {x, m, x_stride, y, y_stride}), kernel.name, report);
}

}  // namespace octavo
