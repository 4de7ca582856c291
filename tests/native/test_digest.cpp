// One number for the bits of everything: integers, float layers, four-bit and grouped weights, recurrent steps.
//
// The digest is of results on shapes with tiles and tails of every kind, from inputs that owe nothing to a standard
// library.
// Each kernel on each system must give the number below, which was recorded on x86-64 with the portable kernel.
//
//     test_digest              checks
//     test_digest --record     prints what each kernel gives, for kExpected: only where a definition has changed
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "gemm/gemm_grouped.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/integers/multiply.h"
#include "gemm/recurrent.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "quantize/fake_quant.h"

namespace octavo::test {
namespace {

constexpr std::uint64_t kExpected = 0xa0378973c2370498;

// FNV-1a over values, lowest byte first, so that the order of bytes in memory has no part in it.
class Digest {
 public:
  void add(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) state_ = (state_ ^ (value >> (8 * i) & 0xff)) * 0x100000001b3u;
  }
  void add(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    add(std::isnan(value) ? 0x7fc00000u : bits, 4);  // a NaN's payload is unspecified
  }
  template <class T>
  void add(const std::vector<T>& values) {
    for (const T v : values) {
      if constexpr (sizeof(T) == 8) {
        add(static_cast<std::uint64_t>(v), 8);
      } else if constexpr (static_cast<T>(0.5) != 0) {
        add(v);
      } else {
        add(static_cast<std::uint32_t>(v), sizeof(T));
      }
    }
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

constexpr Shape kShapes[] = {{1, 64, 32}, {3, 65, 17}, {5, 160, 50}, {17, 96, 33}, {33, 256, 65}};

template <class T>
std::vector<T> integers(Random& random, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& v : values) v = static_cast<T>(std::uint64_t{random.bits()} << 33 ^ random.bits());
  return values;
}

std::vector<float> floats(Random& random, std::int64_t count, float unit) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = random.real() * unit;
  return values;
}

template <class Layer>
void add_layer(Digest& digest, const Layer& layer, const std::vector<float>& x, std::int64_t m) {
  std::vector<float> y(static_cast<std::size_t>(m * layer.n()));
  layer(x.data(), m, layer.k(), y.data(), layer.n());
  digest.add(y);
}

void add_linear(Digest& digest, Random& random, const Shape& s, LayerOptions options) {
  const std::vector<float> x = hard_rows(random, s), scale = floats(random, s.n, 0.01f), bias = floats(random, s.n, 1);
  const auto weight = integers<std::uint8_t>(random, s.n * s.k);
  const RhsView view{weight.data(), s.n, s.k, s.k, 1, false};
  add_layer(digest, PackedLinear(view, scale.data(), bias.data(), options), x, s.m);
  std::vector<std::int32_t> y(static_cast<std::size_t>(s.m * s.n));
  const auto lhs = integers<std::uint8_t>(random, s.m * s.k);
  const std::int32_t zero_points[] = {200, -7};
  matmul_integer({lhs.data(), s.m, s.k, s.k, true}, view, {zero_points, true}, {zero_points + 1, true}, y.data());
  digest.add(y);
}

void add_int4(Digest& digest, Random& random, const Shape& s, LayerOptions options) {
  const std::int64_t group_k = 32, groups = (s.k + group_k - 1) / group_k;
  const std::vector<float> x = hard_rows(random, s), scale = floats(random, s.n * groups, 0.01f);
  std::vector<std::int8_t> values(static_cast<std::size_t>(s.n * s.k)), zero_point(scale.size());
  for (std::int8_t& v : values) v = static_cast<std::int8_t>(random.between(-8, 7));
  for (std::int8_t& v : zero_point) v = static_cast<std::int8_t>(random.between(-8, 7));
  add_layer(
      digest,
      PackedLinearInt4({values.data(), s.n, s.k, group_k, scale.data(), nullptr, zero_point.data()}, nullptr, options),
      x, s.m);
}

// Groups of 32 codes with minima: activations of eight bits, then of sixteen.
void add_grouped(Digest& digest, Random& random, const Shape& s, std::int32_t bits) {
  if (s.k % 32 != 0) return;
  const std::vector<float> x = hard_rows(random, s), scale = floats(random, s.n * s.k / 32, 0.01f),
                           minimum = floats(random, s.n * s.k / 32, 0.1f);
  auto codes = integers<std::uint8_t>(random, s.n * s.k);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(code & ((1 << bits) - 1));
  GroupedView view{};
  view.n = s.n;
  view.k = s.k;
  view.group_k = 32;
  view.bits = bits;
  view.codes = codes.data();
  view.scale = reinterpret_cast<const std::byte*>(scale.data());
  view.minimum = reinterpret_cast<const std::byte*>(minimum.data());
  for (const bool int16 : {false, true}) {
    add_layer(digest, PackedLinearGrouped(view, nullptr, {{int16, false, 0}, false}), x, s.m);
  }
}

template <class T>
IntegerMatrix matrix_of(const std::vector<T>& data, std::int64_t rows, std::int64_t cols) {
  const auto item = static_cast<std::int32_t>(sizeof(T));
  return {{reinterpret_cast<const std::byte*>(data.data()), cols * item, item, item, true}, rows, cols};
}

template <class T>
void add_integers(Digest& digest, Random& random, const Shape& s) {
  const auto a = integers<T>(random, s.m * s.k), b = integers<T>(random, s.k * s.n);
  std::vector<std::int64_t> y(static_cast<std::size_t>(s.m * s.n));
  CallReport report;
  multiply_integers(matrix_of(a, s.m, s.k), matrix_of(b, s.k, s.n), {reinterpret_cast<std::byte*>(y.data()), s.n, 8},
                    report);
  digest.add(y);
}

void add_recurrent(Digest& digest, Random& random) {
  constexpr std::int64_t steps = 5, m = 3, hidden = 20;
  for (const std::int64_t gates : {3, 4}) {
    const auto weight = integers<std::uint8_t>(random, gates * hidden * hidden);
    const std::vector<float> scale = floats(random, gates * hidden, 0.003f);
    const PackedLinear layer({weight.data(), gates * hidden, hidden, hidden, 1, false}, scale.data(), nullptr, {});
    const std::vector<float> x = floats(random, steps * m * gates * hidden, 0.3f), h = floats(random, m * hidden, 0.1f);
    std::vector<float> c(h), y(static_cast<std::size_t>(steps * m * hidden));
    const RecurrentRun run{RowProduct(layer),
                           steps,
                           m,
                           hidden,
                           {x.data(), m * gates * hidden, gates * hidden},
                           h.data(),
                           {y.data(), m * hidden, hidden},
                           false};
    if (gates == 4) {
      run_lstm(run, c.data());
    } else {
      run_gru(run);
    }
    digest.add(y);
    digest.add(c);
  }
}

void add_fake_quant(Digest& digest, Random& random) {
  constexpr ChannelShape shape{4, 3, 37};
  const std::vector<float> x = floats(random, shape.size(), 1), g = floats(random, shape.size(), 1);
  const float scale[] = {0.02f, 0.05f, 0.3f};
  const std::int32_t zero_point[] = {0, -11, 100};
  const FakeQuantParams params{scale, zero_point, -128, 127};
  std::vector<float> y(x.size()), dx(x.size());
  fake_quantize(shape, params, x.data(), y.data());
  fake_quantize_backward(shape, params, x.data(), g.data(), dx.data());
  digest.add(y);
  digest.add(dx);
}

std::uint64_t digest_of(const Kernel& kernel) {
  force_kernel(&kernel);
  Digest digest;
  Random random(2026);
  for (const Shape& s : kShapes) {
    for (const auto scheme : {ActivationScheme::kSymmetric, ActivationScheme::kAsymmetric}) {
      add_linear(digest, random, s, {scheme, scheme == ActivationScheme::kAsymmetric});
      add_int4(digest, random, s, {scheme, false});
    }
    for (const std::int32_t bits : {4, 8}) add_grouped(digest, random, s, bits);
    add_integers<std::int8_t>(digest, random, s);
    add_integers<std::int16_t>(digest, random, s);
    add_integers<std::int32_t>(digest, random, s);
    add_integers<std::int64_t>(digest, random, s);
  }
  add_recurrent(digest, random);
  add_fake_quant(digest, random);
  return digest.value();
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo;
  const bool record = argc > 1 && std::strcmp(argv[1], "--record") == 0;
  for (const Kernel* kernel : all_kernels()) {
    if (!missing_features(*kernel).empty()) continue;
    const std::uint64_t digest = test::digest_of(*kernel);
    std::printf("kernel %s: digest %016llx\n", kernel->name, static_cast<unsigned long long>(digest));
    if (!record) test::check(digest == test::kExpected, std::string("digest of ") + kernel->name);
  }
  return record ? 0 : test::finish();
}
