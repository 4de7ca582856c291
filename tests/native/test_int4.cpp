// Four-bit weights on every kernel that this machine runs, against the definition in reference.h, to the bit.
//
// Inputs end where their memory ends and outputs stand between guard elements. The last lines name the kernels that
// ran: CI reads them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "gemm/gemm_int4.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "kernels/int4.h"
#include "reference.h"

namespace octavo::test {
namespace {

struct Options {
  std::int64_t group_k;  // 0: one group
  bool zero_points, half_scale, asymmetric, relu, bias;
  std::string text() const {
    return " g" + std::to_string(group_k) + (zero_points ? " zero points" : "") + (half_scale ? " half" : "") +
           (asymmetric ? " asymmetric" : "") + (relu ? " relu" : "") + (bias ? " bias" : "");
  }
};

Options options(int variant) {
  static constexpr std::int64_t kGroups[] = {32, 64, 128, 0, 96, 160, 512, 1024, 2176, 2208};
  return {kGroups[variant % static_cast<int>(std::size(kGroups))],
          variant / 2 % 2 != 0,
          variant / 3 % 2 != 0,
          variant % 2 != 0,
          variant / 5 % 2 != 0,
          variant / 7 % 2 != 0};
}

// A float16 in bits and in value: normal, subnormal, of both signs, never zero.
struct Half {
  std::uint16_t bits;
  float value;
};
Half random_half(Random& random) {
  const int exponent = random.between(0, 18), fraction = random.between(exponent == 0 ? 1 : 0, 1023);
  const bool negative = random.between(0, 1) != 0;
  const float magnitude = exponent == 0 ? static_cast<float>(fraction) * 0x1p-24f
                                        : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return {static_cast<std::uint16_t>((negative ? 0x8000 : 0) | exponent << 10 | fraction),
          negative ? -magnitude : magnitude};
}

void check_layer(const Kernel& kernel, const Shape& s, const Options& o) {
  Random random(static_cast<std::uint64_t>(s.m * 1000003 + s.k * 1009 + s.n * 31 + o.group_k));
  const std::vector<float> x = hard_rows(random, s);
  Int4Reference w{s.n, s.k, o.group_k == 0 ? std::max<std::int64_t>(s.k, 1) : o.group_k, {}, {}, {}};
  const auto group_elems = static_cast<std::size_t>(s.n * (o.group_k == 0 ? 1 : w.groups()));
  std::vector<std::uint16_t> half(group_elems);
  // All of them at a limit in some layers: the sums that overflow where a kernel is careless.
  const int limits = random.between(0, 3);
  for (std::int64_t i = 0; i < s.n * s.k; ++i) {
    const int value = random.between(-8, 7);
    w.q_w.push_back(static_cast<std::int8_t>(limits == 0 ? -8 : limits == 1 ? 7 : value));
  }
  for (std::uint16_t& h : half) {
    const Half scale = random_half(random);
    h = scale.bits;
    w.s_w.push_back(o.half_scale ? scale.value : static_cast<float>(random.between(1, 2000)) * -1e-4f + 0.1f);
    if (w.s_w.back() == 0.0f) w.s_w.back() = 1.0f;
    w.z_w.push_back(static_cast<std::int8_t>(!o.zero_points ? 0
                                             : limits == 0  ? 7
                                             : limits == 1  ? -8
                                                            : random.between(-8, 7)));
  }
  std::vector<float> bias(static_cast<std::size_t>(s.n));
  for (float& v : bias) v = random.real();
  const float* bias_or_null = o.bias ? bias.data() : nullptr;
  const std::string what = std::string(kernel.name) + " int4 " + s.text() + o.text();

  const Int4View view{w.q_w.data(),
                      s.n,
                      s.k,
                      o.group_k,
                      w.s_w.data(),
                      o.half_scale ? half.data() : nullptr,
                      o.zero_points ? w.z_w.data() : nullptr};
  const auto scheme = o.asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const PackedLinearInt4 layer(view, bias_or_null, {scheme, o.relu});
  std::vector<std::int8_t> values(w.q_w.size()), zero_points(group_elems);
  std::vector<float> scale(group_elems);
  std::vector<std::uint16_t> half_scale(group_elems);
  layer.weight().unpack(values.data());
  std::vector<std::int64_t> counted(std::max(static_cast<std::size_t>(s.n), group_elems));
  std::iota(counted.begin(), counted.end(), std::int64_t{0});
  const Indices all_n{counted.data(), s.n}, all_g{counted.data(), layer.weight().group_count()};
  layer.weight().unpack_zero_point(all_n, all_g, zero_points.data());
  layer.weight().unpack_scale(all_n, all_g, o.half_scale ? static_cast<void*>(half_scale.data()) : scale.data());
  check(values == w.q_w && zero_points == w.z_w, what + ": unpacked weights");
  check(o.half_scale ? half_scale == half : scale == w.s_w, what + ": unpacked scales");

  const std::int64_t stride = s.n + o.group_k % 3;
  Guarded<float> y(s.m, s.n, std::max<std::int64_t>(stride, 1));
  layer(x.data(), s.m, s.k, y.get(), stride);
  const std::vector<float> expected = linear_int4(x, s.m, w, bias_or_null, o.asymmetric, o.relu);
  bool equal = true;
  for (std::int64_t i = 0; i < s.m * s.n; ++i) {
    equal = equal && same_bits(y.at(i / s.n, i % s.n), expected[static_cast<std::size_t>(i)]);
  }
  check(equal, what + ": bits");
  check(y.intact(), what + ": guards");
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);
  const std::int64_t ms[] = {0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 15, 16, 17, 24, 25, 31, 32, 33, 63, 64, 65, 130};
  const std::int64_t ks[] = {1, 3, 4, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 200, 513, 1000, 2500};
  const std::int64_t ns[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 49};
  int variant = 0;
  for (std::int64_t m : ms) {
    for (std::size_t i = 0; i < std::size(ks); ++i, ++variant) {
      set_num_threads(1 + variant % 3);
      const std::int64_t n = ns[static_cast<std::size_t>(variant) * 5 % std::size(ns)];
      if (m * n * ks[i] > 2000000) continue;
      check_layer(kernel, {m, ks[i], n}, options(variant));
      check_layer(kernel, {m, ks[i], n}, options(variant * 3 + 1));
    }
  }
  for (int v : {3, 7, 9}) check_layer(kernel, {60, 4200, 18}, options(v));  // groups longer than a piece of K
  check_layer(kernel, {3, 0, 5}, options(1));
  check_layer(kernel, {3, 0, 5}, options(3));
  check_layer(kernel, {3, 5, 0}, options(2));
  for (int threads : {1, 2, 5}) {  // large enough for the pool: rows split, and columns split
    set_num_threads(threads);
    for (int v = 0; v < 8; ++v) {
      check_layer(kernel, {150, 260, 190}, options(v + threads));
      check_layer(kernel, {1 + v, 1100, 500}, options(v));
    }
  }
  for (int v : {0, 2, 3, 4, 7, 8})
    check_layer(kernel, {37, 20000, 35}, options(v));  // longer than what is unpacked at once
  std::printf("kernel %s int4: %d shapes\n", kernel.name, variant + 56);
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo;
  return test::check_every_kernel({argc, argv}, " int4", test::check_kernel, [](const Kernel& kernel) {
    return kernel.int4 == nullptr ? "it leaves them to the next kernel" : nullptr;
  });
}
