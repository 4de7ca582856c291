// Layers whose inputs have factors or are rotated, on every kernel that this machine runs: the same bits as a layer
// without, of rows that were multiplied and rotated beforehand. The last lines name the kernels that ran.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "gemm/gemm_grouped.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "reference.h"

namespace octavo::test {
namespace {

// The definition: each block times Sylvester's Hadamard matrix, by sums and differences of elements h apart.
void rotate(std::vector<float>& x, std::int64_t block) {
  const auto count = static_cast<std::int64_t>(x.size());
  for (std::int64_t h = 1; h < block; h *= 2) {
    for (std::int64_t i = 0; i < count; ++i) {
      if ((i & h) != 0) continue;
      float &a = x[static_cast<std::size_t>(i)], &b = x[static_cast<std::size_t>(i + h)];
      const float sum = a + b, difference = a - b;
      a = sum;
      b = difference;
    }
  }
}

struct Inputs {
  std::vector<float> x, factors, scaled;
  std::int64_t rotation;

  // `put_special`: rows of infinity and NaN, and factors that make infinity and zeros of finite values. Inputs that can
  // be rotated are, with factors or without.
  Inputs(Random& random, const Shape& s, bool put_special) : rotation(0) {
    for (std::int64_t block : {16, 32, 128, 512}) {
      if (s.k % block == 0 && (s.m != 6 || block == 16)) rotation = block;
    }
    x = hard_rows(random, s);
    if (!put_special) {
      for (float& v : x) v = random.real();
    }
    for (std::int64_t i = 0; i < s.k; ++i) factors.push_back(static_cast<float>(random.between(1, 4000)) * 1e-3f);
    if (put_special) factors[static_cast<std::size_t>(s.k / 2)] = s.m % 2 == 0 ? 0x1p120f : 0x1p-126f;
    if (rotation != 0 && s.m == 14) factors.assign(factors.size(), 1.0f);
    for (std::size_t i = 0; i < x.size(); ++i) scaled.push_back(x[i] * factors[i % factors.size()]);
    rotate(scaled, rotation);
  }
  InputTransform transform() const {
    const bool alone = rotation != 0 && factors.front() == 1.0f && factors.back() == 1.0f;
    return {alone ? nullptr : factors.data(), rotation};
  }
};

// Calls with the factors, call(layer, x, y), against calls without, on what was multiplied before.
template <class Layer, class Call>
void check_pair(const std::string& what, const Shape& s, const Inputs& inputs, const Layer& with, const Layer& without,
                const Call& call) {
  Guarded<float> y(s.m, s.n, s.n), expected(s.m, s.n, s.n);
  call(with, inputs.x.data(), y.get());
  call(without, inputs.scaled.data(), expected.get());
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) equal = equal && same_bits(y.at(m, n), expected.at(m, n));
  }
  check(equal && y.intact(), what + " " + s.text());
  const InputTransform asked = inputs.transform();
  check((with.inputs().factors() != nullptr) == (asked.factors != nullptr), what + ": factors");
  check(with.inputs().rotation() == asked.rotation && without.inputs().rotation() == 0, what + ": rotation");
}

template <class Layer>
auto dynamic_call(const Shape& s) {
  return [s](const Layer& layer, const float* x, float* y) { layer(x, s.m, s.k, y, s.n); };
}

std::vector<std::int8_t> integers(Random& random, std::int64_t count, int lo, int hi) {
  std::vector<std::int8_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<std::int8_t>(random.between(lo, hi)));
  return values;
}

void check_int8(const std::string& kernel, const Shape& s, bool asymmetric) {
  Random random(static_cast<std::uint64_t>(s.m * 1009 + s.k * 31 + s.n));
  const Inputs inputs(random, s, true), plain(random, s, false);
  const std::vector<std::int8_t> q = integers(random, s.n * s.k, -128, 127);
  const std::vector<float> scale(static_cast<std::size_t>(s.n), 0.01f);
  const RhsView view{reinterpret_cast<const std::uint8_t*>(q.data()), s.n, s.k, s.k, 1, false};
  const LayerOptions options{asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric, false};
  const PackedLinear with(view, scale.data(), nullptr, options, inputs.transform());
  const PackedLinear without(view, scale.data(), nullptr, options);
  check_pair(kernel + " int8", s, inputs, with, without, dynamic_call<PackedLinear>(s));
  const PackedLinear fixed(view, scale.data(), nullptr, options, plain.transform());
  check_pair(kernel + " static", s, plain, fixed, without, [&](const PackedLinear& layer, const float* x, float* y) {
    const PackedLinear::StaticRows rows{const_cast<float*>(x), ElementType::kFloat32, s.m, s.k, 0.05f, 3, -128, 127};
    check(layer.forward_static(rows, {y, ElementType::kFloat32, s.m, s.n, 1.0f, 0, 0, 1}), "no NaN");
  });
}

void check_int4(const std::string& kernel, const Shape& s, bool asymmetric) {
  Random random(static_cast<std::uint64_t>(s.m * 1009 + s.k * 31 + s.n + 1));
  const Inputs inputs(random, s, true);
  const std::int64_t groups = (s.k + 31) / 32;
  const std::vector<std::int8_t> q = integers(random, s.n * s.k, -8, 7), z = integers(random, s.n * groups, -8, 7);
  const std::vector<float> scale(static_cast<std::size_t>(s.n * groups), 0.01f);
  const Int4View view{q.data(), s.n, s.k, 32, scale.data(), nullptr, s.m % 2 == 0 ? z.data() : nullptr};
  const LayerOptions options{asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric, false};
  const PackedLinearInt4 with(view, nullptr, options, inputs.transform());
  const PackedLinearInt4 without(view, nullptr, options);
  check_pair(kernel + " int4", s, inputs, with, without, dynamic_call<PackedLinearInt4>(s));
}

void check_grouped(const std::string& kernel, const Shape& s, const GroupedActivations& activations) {
  Random random(static_cast<std::uint64_t>(s.m * 1009 + s.k * 31 + s.n + 2));
  const Inputs inputs(random, s, true);
  const std::vector<std::int8_t> q = integers(random, s.n * s.k, -128, 127);
  const std::vector<float> scale(static_cast<std::size_t>(s.n * (s.k / 32)), 0.01f);
  GroupedView view{};
  view.n = s.n;
  view.k = s.k;
  view.group_k = 32;
  view.bits = 8;
  view.is_signed = true;
  view.codes = reinterpret_cast<const std::uint8_t*>(q.data());
  view.scale = reinterpret_cast<const std::byte*>(scale.data());
  const PackedLinearGrouped with(view, nullptr, {activations, false}, inputs.transform());
  const PackedLinearGrouped without(view, nullptr, {activations, false});
  check_pair(kernel + " grouped", s, inputs, with, without, dynamic_call<PackedLinearGrouped>(s));
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);
  const std::int64_t ks[] = {1, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 200};
  int layers = 0;
  for (std::int64_t k : ks) {
    for (std::int64_t m : {1, 6, 14}) {
      for (bool asymmetric : {false, true}) {
        check_int8(kernel.name, {m, k, 17}, asymmetric);
        check_int4(kernel.name, {m, k, 17}, asymmetric);
        layers += 3;
      }
      for (const GroupedActivations& activations :
           {GroupedActivations{false, false, 0}, {false, true, 0}, {true, false, 0}, {false, false, 64}}) {
        check_grouped(kernel.name, {m, k * 32, 17}, activations);
        ++layers;
      }
    }
  }
  set_num_threads(2);
  check_int8(kernel.name, {150, 544, 190}, false);
  check_int8(kernel.name, {16, 1024, 2000}, true);   // columns split, and rows loaded together: factors, and
  check_int8(kernel.name, {14, 1024, 2000}, false);  // rotations alone
  set_num_threads(1);
  std::printf("kernel %s factors: %d shapes\n", kernel.name, layers + 4);
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, " factors", octavo::test::check_kernel);
}
