// Images of layers: every family's panels unpack to what was packed, and a layer gives the same bits in memory of
// others and beside more weights than the caches hold.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/caches.h"
#include "check.h"
#include "gemm/gemm.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/image.h"

namespace octavo::test {
namespace {

std::vector<std::int8_t> values(std::int64_t count, int low, int range) {
  std::vector<std::int8_t> found(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < found.size(); ++i)
    found[i] = static_cast<std::int8_t>(low + static_cast<int>(i * 37) % range);
  return found;
}

// A copy of an image, in memory that the layer of it does not own.
AlignedBuffer copied(const Image& image) {
  AlignedBuffer memory(image.size_bytes());
  std::memcpy(memory.as<void>(), image.data(), image.size_bytes());
  return memory;
}

template <class Layer>
std::vector<float> result(const Layer& layer, std::int64_t rows = 3) {
  std::vector<float> x(static_cast<std::size_t>(rows * layer.k())), y(static_cast<std::size_t>(rows * layer.n()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 11) - 4.5f;
  layer(x.data(), rows, layer.k(), y.data(), layer.n());
  return y;
}

void check_int8(std::int64_t n, std::int64_t k, bool has_bias) {
  const std::vector<std::int8_t> q = values(n * k, -128, 256);
  const std::vector<float> scale(static_cast<std::size_t>(n), 0.5f), bias(static_cast<std::size_t>(n), 3.0f);
  const RhsView view{reinterpret_cast<const std::uint8_t*>(q.data()), n, k, k, 1, false};
  const PackedLinear layer(view, scale.data(), has_bias ? bias.data() : nullptr, {});
  for (const Family& family : kFamilies) {
    const std::string what = std::string("int8 ") + family.name + " " + std::to_string(n) + "x" + std::to_string(k);
    const PackedLinear packed = layer.repacked(family.shape);
    std::vector<std::int8_t> unpacked(q.size());
    packed.weight().unpack(unpacked.data());
    check(unpacked == q, what + ": unpacked");
    const AlignedBuffer memory = copied(packed.image());
    const PackedLinear over(Image::over(memory.as<std::byte>(), memory.size_bytes()), n, k, has_bias, {}, family.shape);
    check(over.image().is_borrowed() && !packed.image().is_borrowed(), what + ": whose memory");
    check(result(over.repacked(own_family().shape)) == result(layer), what + ": bits");
    if (family.shape == own_family().shape) check(result(over) == result(layer), what + ": bits in place");
  }
}

void check_int4(std::int64_t n, std::int64_t k, std::int64_t group_k, bool half, bool zero_points) {
  const std::int64_t groups = n * (group_k == 0 ? 1 : (k + group_k - 1) / group_k);
  const std::vector<std::int8_t> q = values(n * k, -8, 16), z = values(groups, -8, 16);
  const std::vector<float> scale(static_cast<std::size_t>(groups), 0.25f), bias(static_cast<std::size_t>(n), 1.0f);
  const std::vector<std::uint16_t> half_scale(static_cast<std::size_t>(groups), 0x3c00);
  const Int4View view{
      q.data(), n, k, group_k, scale.data(), half ? half_scale.data() : nullptr, zero_points ? z.data() : nullptr};
  const LayerOptions options{zero_points ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric, false};
  const PackedLinearInt4 layer(view, bias.data(), options);
  for (const Family& family : kFamilies) {
    const std::string what = std::string("int4 ") + family.name + " " + std::to_string(n) + "x" + std::to_string(k);
    const PackedLinearInt4 packed = layer.repacked(family.shape);
    std::vector<std::int8_t> unpacked(q.size());
    packed.weight().unpack(unpacked.data());
    check(unpacked == q, what + ": unpacked");
    const AlignedBuffer memory = copied(packed.image());
    const Int4Form form{n, k, group_k, half, zero_points, options.asymmetric()};
    const PackedLinearInt4 over(Image::over(memory.as<std::byte>(), memory.size_bytes()), form, true, options,
                                family.shape);
    check(result(over.repacked(own_family().shape)) == result(layer), what + ": bits");
    if (family.shape == own_family().shape) check(result(over) == result(layer), what + ": bits in place");
  }
}

// Few rows of weights larger than kNearWeightBytes, which kernels prefetch in one way or another.
void check_cold() {
  constexpr std::int64_t n = 1030, k = 1050;
  const std::vector<std::int8_t> q = values(n * k, -128, 256);
  const std::vector<float> scale(static_cast<std::size_t>(n), 0.5f);
  const PackedLinear layer({reinterpret_cast<const std::uint8_t*>(q.data()), n, k, k, 1, false}, scale.data(), nullptr,
                           {});
  const std::size_t before = ImageBytes::total();
  check(before == layer.image().size_bytes() && !weights_are_cold(), "one layer is in the caches");
  for (const Kernel* kernel : all_kernels()) {
    if (!missing_features(*kernel).empty()) continue;
    force_kernel(kernel);
    for (std::int64_t rows = 1; rows <= 5; ++rows) {
      const std::vector<float> warm = result(layer, rows);
      Image others = Image::zeros(2 * cache_sizes().l3_bytes);
      const Image moved = std::move(others);
      check(ImageBytes::total() == before + moved.size_bytes() && weights_are_cold(), "more than the caches hold");
      check(result(layer, rows) == warm, std::string(kernel->name) + " cold: " + std::to_string(rows) + " rows");
    }
  }
  force_kernel(nullptr);
  check(ImageBytes::total() == before, "weights that are gone do not count");
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo::test;
  using namespace octavo;
  const bool known = std::any_of(std::begin(kFamilies), std::end(kFamilies),
                                 [](const Family& family) { return family.shape == panel_shape(); });
  check(known, "the panels of this build are those of a family");
  for (const std::int64_t n : {1, 15, 16, 17, 40}) {
    for (const std::int64_t k : {1, 3, 4, 7, 8, 9, 65, 200}) {
      check_int8(n, k, n % 2 == 0);
      check_int4(n, k, 0, n % 2 == 0, k % 2 == 0);
      check_int4(n, k, 32, n % 2 == 1, k % 2 == 0);
      check_int4(n, k, 64, n % 2 == 0, k % 2 == 1);
    }
  }
  check_cold();
  return finish();
}
