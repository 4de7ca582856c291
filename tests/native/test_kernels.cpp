// Every kernel that this machine runs, against the definitions in reference.h: integers exact, floats equal to the bit.
//
// Inputs end where their memory ends and outputs stand between guard elements, so that a read or write outside the
// caller's arrays shows (under AddressSanitizer at once). The last lines name the kernels that ran: CI reads them.
#include <algorithm>
#include <cfenv>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "reference.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo::test {
namespace {

// The rows, depths and columns where tiles begin and end, paired so that each value meets several of the others.
std::vector<Shape> shapes() {
  const std::int64_t ms[] = {0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130};
  const std::int64_t ks[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 1000, 1024, 2051};
  const std::int64_t ns[] = {1, 2, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65};
  std::vector<Shape> all;
  for (std::int64_t m : ms) {
    for (std::size_t i = 0; i < std::size(ks); ++i) {
      const std::size_t at = (static_cast<std::size_t>(m) * 7 + i * 5) % std::size(ns);
      all.push_back({m, ks[i], ns[at]});
      if (ks[i] <= 100) all.push_back({m, ks[i], ns[(at + 3) % std::size(ns)]});
    }
  }
  all.push_back({1, 0, 5});
  all.push_back({3, 4, 0});
  return all;
}

enum class Fill { kRandom, kLowest, kHighest };

std::vector<std::uint8_t> bytes(Random& random, std::int64_t count, bool is_unsigned, Fill fill) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(count));
  for (auto& v : values) {
    if (fill == Fill::kRandom) v = static_cast<std::uint8_t>(random.between(0, 255));
    if (fill == Fill::kLowest) v = is_unsigned ? 0 : 0x80;
    if (fill == Fill::kHighest) v = is_unsigned ? 255 : 127;
  }
  return values;
}

std::int32_t value_of(std::uint8_t byte, bool is_unsigned) {
  return is_unsigned ? byte : static_cast<std::int8_t>(byte);
}

void check_linear(const Kernel& kernel, const Shape& s, int variant) {
  Random random(static_cast<std::uint64_t>(s.m * 1000003 + s.k * 1009 + s.n * 31 + variant));
  const std::vector<float> x = hard_rows(random, s);
  std::vector<std::int8_t> q_w(static_cast<std::size_t>(s.n * s.k));
  for (std::size_t i = 0; i < q_w.size(); ++i) {
    const std::int64_t k = static_cast<std::int64_t>(i) % s.k;
    const int lowest = k / 8 % 3 == s.m % 4 ? -128 : -60;  // of the whole range, and small: kernels tell them apart
    q_w[i] = static_cast<std::int8_t>(random.between(lowest, -1 - lowest));
  }
  std::vector<float> s_w(static_cast<std::size_t>(s.n)), bias(static_cast<std::size_t>(s.n));
  for (float& v : s_w) v = static_cast<float>(random.between(1, 1000)) * 1e-4f;
  for (float& v : bias) v = random.real();
  const bool asymmetric = (variant & 1) != 0, relu = (variant & 2) != 0, has_bias = (variant & 4) != 0;
  const float* bias_or_null = has_bias ? bias.data() : nullptr;

  const RhsView view{reinterpret_cast<const std::uint8_t*>(q_w.data()), s.n, s.k, s.k, 1, false};
  const auto scheme = asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric;
  const PackedLinear layer(view, s_w.data(), bias_or_null, {scheme, relu});
  const std::string what = std::string(kernel.name) + " linear " + s.text() + " variant " + std::to_string(variant);

  std::vector<std::int8_t> unpacked(q_w.size());
  layer.weight().unpack(unpacked.data());
  check(unpacked == q_w, what + ": unpacked weights");

  const std::int64_t stride = s.n + (variant % 3);
  Guarded<float> y(s.m, s.n, std::max<std::int64_t>(stride, 1));
  layer(x.data(), s.m, s.k, y.get(), stride);
  const std::vector<float> expected = linear(x, s.m, s.k, s.n, q_w, s_w, bias_or_null, asymmetric, relu);
  bool equal = true;
  for (std::int64_t i = 0; i < s.m * s.n; ++i) {
    equal = equal && same_bits(y.at(i / s.n, i % s.n), expected[static_cast<std::size_t>(i)]);
  }
  check(equal, what + ": bits");
  check(y.intact(), what + ": guards");
}

// Fixed parameters: float32, int8 and uint8 in, float32, int8 and uint8 out.
void check_static(const Kernel& kernel, const Shape& s, int variant) {
  if (s.k == 0) return;
  Random random(static_cast<std::uint64_t>(s.m * 53 + s.k * 59 + s.n * 61 + variant));
  const auto x_type = static_cast<ElementType>(variant % 3), y_type = static_cast<ElementType>(variant / 3 % 3);
  const bool relu = variant % 2 != 0, x_unsigned = x_type == ElementType::kUint8 || variant % 4 == 0;
  const std::int32_t x_qmin = x_unsigned && x_type != ElementType::kInt8 ? 0 : -128, x_qmax = x_qmin + 255;
  const std::int32_t y_qmin = y_type == ElementType::kUint8 ? 0 : -128, y_qmax = y_qmin + 255;
  const float x_scale = 0.0625f, y_scale = 3.3f;
  const std::int32_t x_zero = random.between(x_qmin, x_qmax), y_zero = random.between(y_qmin, y_qmax);
  std::vector<std::int8_t> q_w(static_cast<std::size_t>(s.n * s.k));
  for (auto& v : q_w) v = static_cast<std::int8_t>(random.between(-128, 127));
  std::vector<float> s_w(static_cast<std::size_t>(s.n)), bias(static_cast<std::size_t>(s.n));
  for (float& v : s_w) v = static_cast<float>(random.between(1, 1000)) * 1e-4f;
  for (float& v : bias) v = random.real();

  std::vector<float> x(static_cast<std::size_t>(s.m * s.k));
  std::vector<std::uint8_t> x_bytes(x.size());
  std::vector<std::int32_t> q_x(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = random.real();
    if (i % 37 == 5) x[i] = std::numeric_limits<float>::infinity();
    q_x[i] = x_type == ElementType::kFloat32 ? quantize(x[i], x_scale, x_zero, x_qmin, x_qmax)
                                             : random.between(x_qmin, x_qmax);
    x_bytes[i] = static_cast<std::uint8_t>(q_x[i]);
  }
  const RhsView view{reinterpret_cast<const std::uint8_t*>(q_w.data()), s.n, s.k, s.k, 1, false};
  const PackedLinear layer(view, s_w.data(), bias.data(), {ActivationScheme::kSymmetric, relu});
  Guarded<float> y_float(s.m, s.n, s.n);
  Guarded<std::uint8_t> y_bytes(s.m, s.n, s.n + 1);
  const bool float_out = y_type == ElementType::kFloat32;
  void* x_data = x_type == ElementType::kFloat32 ? static_cast<void*>(x.data()) : x_bytes.data();
  void* y_data = float_out ? static_cast<void*>(y_float.get()) : y_bytes.get();
  const bool finite =
      layer.forward_static({x_data, x_type, s.m, s.k, x_scale, x_zero, x_qmin, x_qmax},
                           {y_data, y_type, s.m, float_out ? s.n : s.n + 1, y_scale, y_zero, y_qmin, y_qmax});
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      std::int64_t acc = 0;
      for (std::int64_t k = 0; k < s.k; ++k) {
        acc += static_cast<std::int64_t>(q_x[static_cast<std::size_t>(m * s.k + k)] - x_zero) *
               q_w[static_cast<std::size_t>(n * s.k + k)];
      }
      const float scale = x_scale * s_w[static_cast<std::size_t>(n)];
      float y = static_cast<float>(static_cast<std::int32_t>(acc)) * scale;
      y = y + bias[static_cast<std::size_t>(n)];
      if (relu) y = y > 0 ? y : 0.0f;
      const auto byte = static_cast<std::uint8_t>(quantize(y, y_scale, y_zero, y_qmin, y_qmax));
      equal = equal && (float_out ? same_bits(y_float.at(m, n), y) : y_bytes.at(m, n) == byte);
    }
  }
  const std::string what = std::string(kernel.name) + " static " + s.text() + " variant " + std::to_string(variant);
  check(equal && finite, what);
  check(y_float.intact() && y_bytes.intact(), what + ": guards");
  if (x_type == ElementType::kFloat32 && s.m > 0 && s.n > 0) {
    x.back() = std::numeric_limits<float>::quiet_NaN();
    const bool saw_nan =
        !layer.forward_static({x.data(), x_type, s.m, s.k, x_scale, x_zero, x_qmin, x_qmax},
                              {y_data, y_type, s.m, float_out ? s.n : s.n + 1, y_scale, y_zero, y_qmin, y_qmax});
    check(saw_nan, what + ": NaN reported");
  }
}

void check_integers(const Kernel& kernel, const Shape& s, int variant) {
  const bool a_unsigned = (variant & 1) != 0, b_unsigned = (variant & 2) != 0;
  const Fill fill = static_cast<Fill>(variant / 4 % 3);
  Random random(static_cast<std::uint64_t>(s.m * 7919 + s.k * 131 + s.n * 17 + variant));
  const auto a = bytes(random, s.m * s.k, a_unsigned, fill), b = bytes(random, s.k * s.n, b_unsigned, fill);
  // Zero points: none, one for all at a limit, one a row and one a column.
  const bool per_row = variant % 3 == 2, none = variant % 3 == 0;
  const auto zero_points = [&](std::int64_t count, bool is_unsigned) {
    std::vector<std::int32_t> z(static_cast<std::size_t>(per_row ? std::max<std::int64_t>(count, 1) : 1));
    for (auto& v : z) {
      v = none ? 0 : (is_unsigned ? 255 : -128);
      if (per_row) v = is_unsigned ? random.between(0, 255) : random.between(-128, 127);
    }
    return z;
  };
  const auto za = zero_points(s.m, a_unsigned), zb = zero_points(s.n, b_unsigned);
  Guarded<std::int32_t> y(s.m, s.n, std::max<std::int64_t>(s.n, 1));
  matmul_integer({a.data(), s.m, s.k, s.k, a_unsigned}, {b.data(), s.n, s.k, 1, s.n, b_unsigned},
                 {za.data(), za.size() == 1}, {zb.data(), zb.size() == 1}, y.get());
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      std::int64_t sum = 0;
      for (std::int64_t k = 0; k < s.k; ++k) {
        const std::int64_t x = value_of(a[static_cast<std::size_t>(m * s.k + k)], a_unsigned);
        const std::int64_t w = value_of(b[static_cast<std::size_t>(k * s.n + n)], b_unsigned);
        sum += (x - za[za.size() == 1 ? 0 : static_cast<std::size_t>(m)]) *
               (w - zb[zb.size() == 1 ? 0 : static_cast<std::size_t>(n)]);
      }
      equal = equal && y.at(m, n) == static_cast<std::int32_t>(sum);
    }
  }
  const std::string what = std::string(kernel.name) + " integers " + s.text() + " variant " + std::to_string(variant);
  check(equal, what);
  check(y.intact(), what + ": guards");
}

// Weights of 64 and, here and there, one of 65: four products with -128 just fit 16 bits, or just do not.
void check_sums_of_four(const Kernel& kernel, const Shape& s, int variant) {
  Random random(static_cast<std::uint64_t>(s.m * 101 + s.k * 103 + s.n * 107 + variant));
  std::vector<std::uint8_t> a(static_cast<std::size_t>(s.m * s.k)), b(static_cast<std::size_t>(s.n * s.k));
  for (auto& v : a) v = variant % 3 == 0 || (variant % 3 == 1 && random.between(0, 1) == 0) ? 0x80 : 0x7f;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const bool negative = variant / 3 == 0 || (variant / 3 == 1 && random.between(0, 1) == 0);
    const int size = random.between(0, 127) == 0 ? 65 : 64;
    b[i] = static_cast<std::uint8_t>(negative ? -size : size);
  }
  const std::int32_t none = 0;
  Guarded<std::int32_t> y(s.m, s.n, s.n);
  matmul_integer({a.data(), s.m, s.k, s.k, false}, {b.data(), s.n, s.k, s.k, 1, false}, {&none, true}, {&none, true},
                 y.get());
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      std::int32_t sum = 0;
      for (std::int64_t k = 0; k < s.k; ++k) {
        sum += value_of(a[static_cast<std::size_t>(m * s.k + k)], false) *
               value_of(b[static_cast<std::size_t>(n * s.k + k)], false);
      }
      equal = equal && y.at(m, n) == sum;
    }
  }
  check(equal, std::string(kernel.name) + " sums of four " + s.text() + " variant " + std::to_string(variant));
}

// Flush-to-zero and another rounding mode in the caller: same bits, and the caller's settings come back.
void check_float_environment(const Kernel& kernel, bool relu) {
  const std::int64_t k = 64, n = 20, m = 40;
  Random random(5);
  std::vector<float> x(static_cast<std::size_t>(m * k)), s_w(static_cast<std::size_t>(n));
  // The rescaled results are subnormal, or (in odd columns) too small even for that: +0 and -0.
  for (std::size_t i = 0; i < s_w.size(); ++i) s_w[i] = i % 2 == 0 ? 0x1p-40f : 0x1p-70f;
  for (float& v : x) v = random.real() * 0x1p-98f;
  std::vector<std::int8_t> q_w(static_cast<std::size_t>(n * k));
  for (auto& v : q_w) v = static_cast<std::int8_t>(random.between(-128, 127));
  const RhsView view{reinterpret_cast<const std::uint8_t*>(q_w.data()), n, k, k, 1, false};
  const PackedLinear layer(view, s_w.data(), nullptr, {ActivationScheme::kSymmetric, relu});
  const auto expected = linear(x, m, k, n, q_w, s_w, nullptr, false, relu);
  std::vector<float> y(expected.size());
#if defined(FE_UPWARD)
  constexpr int kRounding = FE_UPWARD;
#else
  constexpr int kRounding = FE_TONEAREST;  // WebAssembly knows no other
#endif
  std::fesetround(kRounding);
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr() | 0x8040;  // FTZ and DAZ
  _mm_setcsr(before);
#endif
  layer(x.data(), m, k, y.data(), n);
  const bool kept_rounding = std::fegetround() == kRounding;
#if defined(__x86_64__)
  const bool kept = (_mm_getcsr() & 0xffc0) == (before & 0xffc0);
  _mm_setcsr(0x1f80);
#else
  const bool kept = true;
#endif
  std::fesetround(FE_TONEAREST);
  bool equal = true;
  for (std::size_t i = 0; i < y.size(); ++i) equal = equal && same_bits(y[i], expected[i]);
  check(equal, std::string(kernel.name) + ": bits under flush-to-zero and upward rounding");
  check(kept && kept_rounding, std::string(kernel.name) + ": the caller's float environment");
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);
  const std::vector<Shape> all = shapes();
  int variant = 0;
  for (const Shape& s : all) {
    set_num_threads(1 + variant % 3);
    check_linear(kernel, s, variant++ % 8);
    check_integers(kernel, s, variant * 5 % 12);
    check_static(kernel, s, variant * 7 % 36);
  }
  for (int threads : {1, 2, 5}) {  // large enough for the pool: rows split, and columns split
    set_num_threads(threads);
    for (int v = 0; v < 4; ++v) {
      check_linear(kernel, {150, 130, 190}, v);
      check_linear(kernel, {2, 1100, 1000}, v);
      check_integers(kernel, {150, 130, 190}, v + 1);
      check_static(kernel, {150, 130, 190}, v * 4 + 3);
      check_static(kernel, {2, 1100, 1000}, v * 5);
    }
    // Few rows split, by kernels of different speeds; of the last they are too long for that.
    for (const Shape& s : {Shape{24, 1024, 1000}, {49, 768, 768}, {30, 32768, 32}}) check_linear(kernel, s, threads);
    if (threads == 2) check_linear(kernel, {128, 1600, 800}, threads);
    for (const Shape& s : {Shape{23, 1100, 1700}, {4, 2100, 800}}) {  // columns split, and rows loaded together
      check_linear(kernel, s, threads);
      check_integers(kernel, s, threads * 5 + 2);
      check_static(kernel, s, threads * 7 + 1);
    }
  }
  set_num_threads(1);
  for (int v = 0; v < 9; ++v) {
    for (const Shape& s : {Shape{1, 64, 16}, {4, 100, 24}, {5, 9, 8}, {17, 300, 40}, {20, 1031, 33}}) {
      check_sums_of_four(kernel, s, v);
    }
  }
  check_float_environment(kernel, false);
  check_float_environment(kernel, true);
  std::printf("kernel %s: %zu shapes\n", kernel.name, all.size() + 12);
}

}  // namespace
}  // namespace octavo::test

// Arguments: names of kernels, where not all are wanted.
int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, "", octavo::test::check_kernel);
}
