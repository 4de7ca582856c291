// Recorded results: the bits that every kernel on every architecture must give for the inputs in fixture.h.
//
// test_kernels holds each kernel against a definition that the same compiler builds for the same CPU. Here the expected
// bits come from elsewhere: recorded on x86-64, checked wherever this runs. The rows hold what conversions, minima,
// flushing of subnormal numbers and NaN could make different.
//
//     test_fixture                      checks
//     test_fixture --record > fixture.h records: on x86-64 alone, and only where the definitions have changed
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/arch.h"
#include "check.h"
#include "fixture.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"
#include "reference.h"

namespace octavo::test {
namespace {

constexpr std::int64_t kM = 15, kK = 21, kN = 18;
constexpr int kLinearVariants = 8;   // asymmetric, relu, bias
constexpr int kIntegerVariants = 4;  // unsigned lhs, unsigned rhs
constexpr int kStaticVariants = 4;   // uint8 instead of int8 out, relu

struct Inputs {
  std::vector<float> x, scale, bias;  // (m, k), (n), (n)
  std::vector<std::uint8_t> weight;   // (n, k)
};

float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return std::isnan(value) ? 0x7fc00000u : bits;  // a NaN's payload is unspecified
}

template <std::size_t kCount>
std::vector<float> floats(const std::uint32_t (&bits)[kCount]) {
  std::vector<float> values;
  for (std::uint32_t b : bits) values.push_back(float_of(b));
  return values;
}

Inputs recorded_inputs() {
  return {floats(kX), floats(kScale), floats(kBias), {std::begin(kWeight), std::end(kWeight)}};
}

// Rows of ordinary numbers and one of each special kind.
Inputs made_inputs() {
  std::mt19937 random(2026);
  const auto real = [&] { return (static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f) * 8; };
  Inputs in;
  for (std::int64_t m = 0; m < kM; ++m) {
    for (std::int64_t k = 0; k < kK; ++k) {
      float v = real();
      if (m == 2) v = v < 0 ? 0 : v;                                    // after a relu
      if (m == 3) v = -0.0f;                                            // zeros of the other sign
      if (m == 4) v *= 0x1p-110f;                                       // below the smallest range: counts as zeros
      if (m == 5) v *= 0x1p-100f;                                       // small: some results are subnormal
      if (m == 6) v *= 0x1p+120f;                                       // large
      if (m == 7) v = k == 0 ? 127.0f : static_cast<float>(k) - 10.5f;  // symmetric: halves, which round to even
      if (m == 8) v = k % 2 == 0 ? 3e38f : -3e38f;                      // the asymmetric range overflows
      if (m == 9) v = v < 0 ? v : -v;                                   // of one sign
      if (m == 10 && k == 17) v = std::numeric_limits<float>::quiet_NaN();
      if (m == 11 && k == 20) v = -std::numeric_limits<float>::infinity();
      if (m == 12) v *= static_cast<float>(k * k);   // one large value among small ones
      if (m == 13) v = k % 3 == 0 ? -1.5f : 253.5f;  // asymmetric: 254 steps from zero point -126 are one too many
      in.x.push_back(v);
    }
  }
  for (std::int64_t n = 0; n < kN; ++n) {
    in.scale.push_back(n == 5 ? 0x1p-40f : 0.001f * static_cast<float>(1 + random() % 100));
    in.bias.push_back(real());
    for (std::int64_t k = 0; k < kK; ++k)
      in.weight.push_back(n == 7 ? 0x80 : static_cast<std::uint8_t>(random() >> 24));
  }
  return in;
}

std::vector<std::uint32_t> linear_bits(const Inputs& in, int variant) {
  const bool asymmetric = (variant & 1) != 0, relu = (variant & 2) != 0, has_bias = (variant & 4) != 0;
  const RhsView view{in.weight.data(), kN, kK, kK, 1, false};
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const PackedLinear layer(view, in.scale.data(), has_bias ? in.bias.data() : nullptr, {scheme, relu});
  std::vector<float> y(static_cast<std::size_t>(kM * kN));
  layer(in.x.data(), kM, kK, y.data(), kN);
  std::vector<std::uint32_t> bits;
  for (float v : y) bits.push_back(bits_of(v));
  return bits;
}

// The weights' bytes stand on both sides: (m, k) in front, (n, k) behind.
std::vector<std::uint32_t> integer_bits(const Inputs& in, int variant) {
  const bool lhs_unsigned = (variant & 1) != 0, rhs_unsigned = (variant & 2) != 0;
  const std::int32_t lhs_zero_point = lhs_unsigned ? 200 : -128, rhs_zero_point = rhs_unsigned ? 255 : 3;
  std::vector<std::int32_t> y(static_cast<std::size_t>(kM * kN));
  matmul_integer({in.weight.data(), kM, kK, kK, lhs_unsigned}, {in.weight.data(), kN, kK, kK, 1, rhs_unsigned},
                 {&lhs_zero_point, true}, {&rhs_zero_point, true}, y.data());
  return {y.begin(), y.end()};
}

// Fixed parameters: float32 in, bytes out.
std::vector<std::uint32_t> static_bits(const Inputs& in, int variant) {
  const bool is_unsigned = (variant & 1) != 0, relu = (variant & 2) != 0;
  const RhsView view{in.weight.data(), kN, kK, kK, 1, false};
  const PackedLinear layer(view, in.scale.data(), in.bias.data(), {ActivationScheme::kSymmetric, relu});
  std::vector<float> x = in.x;
  for (float& v : x) v = std::isnan(v) ? 0.5f : v;  // no integer stands for NaN; infinity saturates
  std::vector<std::uint8_t> y(static_cast<std::size_t>(kM * kN));
  const std::int32_t qmin = is_unsigned ? 0 : -128;
  layer.forward_static(
      {x.data(), ElementType::kFloat32, kM, kK, 0.03f, 11, -128, 127},
      {y.data(), is_unsigned ? ElementType::kUint8 : ElementType::kInt8, kM, kN, 1.7f, qmin + 100, qmin, qmin + 255});
  return {y.begin(), y.end()};
}

void check_recorded(const Kernel& kernel) {
  force_kernel(&kernel);
  const Inputs in = recorded_inputs();
  const auto check_variant = [&](const char* kind, int variant, const std::vector<std::uint32_t>& bits,
                                 const auto* expected) {
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const std::int64_t m = static_cast<std::int64_t>(i) / kN, n = static_cast<std::int64_t>(i) % kN;
      char text[160];
      std::snprintf(text, sizeof text, "%s %s variant %d row %d column %d: %08x, recorded %08x", kernel.name, kind,
                    variant, static_cast<int>(m), static_cast<int>(n), bits[i], static_cast<unsigned>(expected[i]));
      check(bits[i] == expected[i], text);
    }
  };
  for (int v = 0; v < kLinearVariants; ++v) check_variant("linear", v, linear_bits(in, v), kLinear + v * kM * kN);
  for (int v = 0; v < kStaticVariants; ++v) check_variant("static", v, static_bits(in, v), kStatic + v * kM * kN);
  for (int v = 0; v < kIntegerVariants; ++v) check_variant("integers", v, integer_bits(in, v), kIntegers + v * kM * kN);
  std::printf("kernel %s: recorded results\n", kernel.name);
}

template <class Values>
void print_array(const char* type, const char* name, const Values& values, int per_line, const char* format) {
  std::printf("\ninline constexpr std::%s %s[] = {", type, name);
  int i = 0;
  for (const auto v : values) {
    std::printf(i++ % per_line == 0 ? "\n    " : " ");
    std::printf(format, static_cast<unsigned>(v));
  }
  std::printf("\n};\n");
}

void record() {
  const Inputs in = made_inputs();
  const auto bits = [](const std::vector<float>& values) {
    std::vector<std::uint32_t> all;
    for (float v : values) all.push_back(bits_of(v));
    return all;
  };
  std::vector<std::uint32_t> linear, integers, bytes;
  const auto append = [](std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& more) {
    to.insert(to.end(), more.begin(), more.end());
  };
  for (int v = 0; v < kLinearVariants; ++v) append(linear, linear_bits(in, v));
  for (int v = 0; v < kIntegerVariants; ++v) append(integers, integer_bits(in, v));
  for (int v = 0; v < kStaticVariants; ++v) append(bytes, static_bits(in, v));
  std::printf(
      "// Written by `test_fixture --record` with the kernel %s; see test_fixture.cpp. Floats are their bits.\n",
      active_kernel().name);
  std::printf("#pragma once\n\n#include <cstdint>\n\nnamespace octavo::test {\n");
  print_array("uint32_t", "kX", bits(in.x), 9, "0x%08x,");
  print_array("uint32_t", "kScale", bits(in.scale), 9, "0x%08x,");
  print_array("uint32_t", "kBias", bits(in.bias), 9, "0x%08x,");
  print_array("uint8_t", "kWeight", in.weight, 20, "%3u,");
  print_array("uint32_t", "kLinear", linear, 9, "0x%08x,");
  print_array("uint32_t", "kIntegers", integers, 9, "0x%08x,");
  print_array("uint8_t", "kStatic", bytes, 22, "%3u,");
  std::printf("\n}  // namespace octavo::test\n");
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo;
  if (argc > 1 && std::strcmp(argv[1], "--record") == 0) {
    test::record();
    return 0;
  }
  for (const Kernel* kernel : all_kernels()) {
    if (missing_features(*kernel).empty()) test::check_recorded(*kernel);
  }
  return test::finish();
}
