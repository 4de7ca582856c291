// Grouped codes on every kernel that this machine runs, against the definition in reference_grouped.h, to the bit.
//
// Inputs end where their memory ends and outputs stand between guard elements. The last lines name the kernels that
// ran: CI reads them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "gemm/gemm_grouped.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "reference.h"
#include "reference_grouped.h"

namespace octavo::test {
namespace {

enum class Term { kNone, kZeroPoint, kMinimum, kTwoLevels, kTwoLevelsMinimum };

struct Options {
  std::int64_t group_k;  // 0: one group
  Term term;
  GroupedActivations activations;
  int bits;
  bool is_signed, half, relu, bias;

  bool two_level() const { return term == Term::kTwoLevels || term == Term::kTwoLevelsMinimum; }
  bool has_minimum() const { return term == Term::kMinimum || term == Term::kTwoLevelsMinimum; }
  bool is_defined() const {
    if (two_level() && (group_k == 0 || group_k == kSuperK)) return false;
    // 256 * 255 * 255 * 255: the one product of types that int32 does not hold.
    if (two_level() && activations.asymmetric && bits == 8 && !is_signed && !half) return false;
    if (activations.group_k == 0) return true;
    if (activations.int16 || activations.asymmetric || group_k == 0) return false;
    return activations.group_k % (two_level() ? kSuperK : group_k) == 0;
  }
  std::string text() const {
    return " g" + std::to_string(group_k) + " term " + std::to_string(static_cast<int>(term)) + " bits " +
           std::to_string(bits) + (is_signed ? " signed" : "") + (half ? " half" : "") +
           (activations.int16 ? " int16" : "") + (activations.asymmetric ? " asymmetric" : "") + " activations g" +
           std::to_string(activations.group_k) + (relu ? " relu" : "") + (bias ? " bias" : "");
  }
};

// The arrays as a caller has them, and the same numbers for the reference.
struct Weights {
  std::vector<std::uint8_t> codes, zero_point, group_scale, group_minimum;
  std::vector<float> scale, minimum;
  std::vector<std::uint16_t> half_scale, half_minimum;
  GroupedReference reference;
};

// A float16 with a number that is exact in float32 too.
std::uint16_t half_bits(float value) {
  int exponent = -100;
  const float fraction = value == 0.0f ? 0.0f : std::frexp(std::fabs(value), &exponent);
  const int sign = value < 0 ? 0x8000 : 0;
  if (exponent + 14 < 1) return static_cast<std::uint16_t>(sign | static_cast<int>(std::fabs(value) * 0x1p24f));
  return static_cast<std::uint16_t>(sign | (exponent + 14) << 10 | (static_cast<int>(fraction * 2048.0f) - 1024));
}

float random_float(Random& random) {
  if (random.between(0, 15) == 0) return 0.0f;  // a group of zeros
  return static_cast<float>(random.between(-2047, 2047)) * std::ldexp(1.0f, random.between(-18, -11));
}

std::int32_t random_code(Random& random, int bits, bool is_signed, int limits) {
  const std::int32_t low = is_signed ? -(1 << (bits - 1)) : 0, high = low + (1 << bits) - 1;
  return limits == 0 ? low : limits == 1 ? high : random.between(low, high);
}

Weights make_weights(Random& random, const Shape& s, const Options& o) {
  Weights w;
  GroupedReference& r = w.reference;
  r.n = s.n;
  r.k = s.k;
  r.group_k = o.group_k == 0 ? s.k : o.group_k;
  const int limits = random.between(0, 3);  // all codes at a limit: the sums that overflow where a kernel is careless
  for (std::int64_t i = 0; i < s.n * s.k; ++i) {
    r.codes.push_back(random_code(random, o.bits, o.is_signed, limits));
    w.codes.push_back(static_cast<std::uint8_t>(r.codes.back()));
  }
  for (std::int64_t i = 0; i < s.n * r.groups(); ++i) {
    r.zero_point.push_back(o.term != Term::kZeroPoint ? 0 : random_code(random, o.bits, o.is_signed, 1 - limits));
    w.zero_point.push_back(static_cast<std::uint8_t>(r.zero_point.back()));
    if (!o.two_level()) continue;
    r.group_scale.push_back(o.half ? random.between(-128, 127) : random.between(0, 255));
    w.group_scale.push_back(static_cast<std::uint8_t>(r.group_scale.back()));
    if (!o.has_minimum()) continue;
    r.group_minimum.push_back(random.between(0, 255));
    w.group_minimum.push_back(static_cast<std::uint8_t>(r.group_minimum.back()));
  }
  for (std::int64_t i = 0; i < s.n * r.records(); ++i) {
    r.scale.push_back(random_float(random));
    if (o.has_minimum()) r.minimum.push_back(random_float(random));
  }
  w.scale = r.scale;
  w.minimum = r.minimum;
  for (float v : r.scale) w.half_scale.push_back(half_bits(v));
  for (float v : r.minimum) w.half_minimum.push_back(half_bits(v));
  return w;
}

GroupedView view_of(const Weights& w, const Options& o) {
  const auto floats = [&](const std::vector<float>& wide, const std::vector<std::uint16_t>& half) {
    return o.half ? reinterpret_cast<const std::byte*>(half.data()) : reinterpret_cast<const std::byte*>(wide.data());
  };
  GroupedView view{};
  view.n = w.reference.n;
  view.k = w.reference.k;
  view.group_k = o.group_k;
  view.bits = o.bits;
  view.is_signed = o.is_signed;
  view.codes = w.codes.data();
  view.zero_point = o.term == Term::kZeroPoint ? w.zero_point.data() : nullptr;
  view.half = o.half;
  view.scale = floats(w.scale, w.half_scale);
  view.minimum = o.has_minimum() ? floats(w.minimum, w.half_minimum) : nullptr;
  view.signed_scale = o.half;
  view.group_scale = o.two_level() ? w.group_scale.data() : nullptr;
  view.group_minimum = o.two_level() && o.has_minimum() ? w.group_minimum.data() : nullptr;
  return view;
}

void check_unpacked(const PackedGrouped& packed, const Weights& w, const Options& o, const std::string& what) {
  std::vector<std::uint8_t> codes(w.codes.size()), integers(w.zero_point.size());
  packed.unpack(codes.data());
  check(codes == w.codes, what + ": unpacked codes");
  std::vector<std::int64_t> all(static_cast<std::size_t>(packed.n()));
  std::iota(all.begin(), all.end(), 0);
  if (o.term == Term::kZeroPoint) {
    packed.unpack_zero_point(all, integers.data());
    check(integers == w.zero_point, what + ": unpacked zero points");
  }
  if (o.two_level()) {
    packed.unpack_levels(all, false, integers.data());
    check(integers == w.group_scale, what + ": unpacked scales of groups");
  }
  if (o.half) {
    std::vector<std::uint16_t> scale(w.scale.size());
    packed.unpack_floats(all, false, reinterpret_cast<std::byte*>(scale.data()));
    check(scale == w.half_scale, what + ": unpacked scales");
  } else {
    std::vector<float> scale(w.scale.size());
    packed.unpack_floats(all, false, reinterpret_cast<std::byte*>(scale.data()));
    check(scale == w.scale, what + ": unpacked scales");
  }
}

void check_layer(const Kernel& kernel, const Shape& s, const Options& o) {
  Random random(static_cast<std::uint64_t>(s.m * 1000003 + s.k * 1009 + s.n * 31 + o.group_k));
  const std::vector<float> x = hard_rows(random, s);
  const Weights w = make_weights(random, s, o);
  std::vector<float> bias(static_cast<std::size_t>(s.n));
  for (float& v : bias) v = random.real();
  const float* bias_or_null = o.bias ? bias.data() : nullptr;
  const std::string what = std::string(kernel.name) + " grouped " + s.text() + o.text();
  const PackedLinearGrouped layer(view_of(w, o), bias_or_null, {o.activations, o.relu});
  check_unpacked(layer.weight(), w, o, what);

  const std::int64_t stride = s.n + o.bits % 3;
  Guarded<float> y(s.m, s.n, stride);
  layer(x.data(), s.m, s.k, y.get(), stride);
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    const GroupedRow row = quantize_row(x.data() + m * s.k, s.k, o.activations);
    for (std::int64_t n = 0; n < s.n; ++n) {
      const float expected = grouped_output(row, w.reference, n, o.activations, bias_or_null, o.relu);
      equal = equal && same_bits(y.at(m, n), expected);
    }
  }
  check(equal, what + ": bits");
  check(y.intact(), what + ": guards");
}

// A product that underflows to -0 leaves y at -0, and a sum of 0 times a negative scale, added to 0, makes it +0.
void check_zeros(const Kernel& kernel, const Shape& s, int bits) {
  const Options o{32, Term::kNone, {false, false, 32}, bits, true, false, false, false};
  Weights w;
  w.reference.n = s.n;
  w.reference.k = s.k;
  w.reference.group_k = 32;
  std::vector<float> x(static_cast<std::size_t>(s.m * s.k));
  for (std::int64_t i = 0; i < s.n * s.k; ++i) w.reference.codes.push_back(i % s.k == 0 ? -1 : 0);
  for (const std::int32_t code : w.reference.codes) w.codes.push_back(static_cast<std::uint8_t>(code));
  for (std::int64_t g = 0; g < 2 * s.n; ++g) w.scale.push_back(g % 2 == 0 ? 0x1p-60f : -1.0f);
  w.reference.scale = w.scale;
  w.reference.zero_point.resize(static_cast<std::size_t>(2 * s.n));
  for (std::int64_t m = 0; m < s.m; ++m) {
    x[static_cast<std::size_t>(m * s.k)] = 0x1p-99f;
    x[static_cast<std::size_t>(m * s.k + 32)] = 1.0f;
  }
  const PackedLinearGrouped layer(view_of(w, o), nullptr, {o.activations, o.relu});
  Guarded<float> y(s.m, s.n, s.n);
  layer(x.data(), s.m, s.k, y.get(), s.n);
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    const GroupedRow row = quantize_row(x.data() + m * s.k, s.k, o.activations);
    for (std::int64_t n = 0; n < s.n; ++n) {
      equal = equal && same_bits(y.at(m, n), grouped_output(row, w.reference, n, o.activations, nullptr, false));
    }
  }
  check(equal, std::string(kernel.name) + " grouped " + s.text() + ": signs of zeros");
}

// Codes of less than a byte, with as much scratch memory as the kernel asks for between bytes that stay as they are,
// beside the portable kernel. Shapes have more panels than are made bytes at a time.
void check_scratch(const Kernel& kernel, const Shape& s, const Options& o) {
  Random random(static_cast<std::uint64_t>(s.m * 1000003 + s.k * 1009 + s.n));
  const std::vector<float> x = hard_rows(random, s);
  const Weights w = make_weights(random, s, o);
  const PackedLinearGrouped layer(view_of(w, o), nullptr, {o.activations, o.relu});
  const GroupedForm& form = layer.weight().form();
  Guarded<float> expected(s.m, s.n, s.n), y(s.m, s.n, s.n);
  force_kernel(all_kernels().back());
  layer(x.data(), s.m, s.k, expected.get(), s.n);
  force_kernel(&kernel);

  constexpr std::size_t kGuard = 256;
  constexpr std::uint8_t kMark = 0xa5;
  const auto size = static_cast<std::size_t>(kernel.grouped->scratch_bytes(form));
  AlignedBuffer lhs(static_cast<std::size_t>(kernel.grouped->lhs_bytes(s.m, form, o.activations)));
  AlignedBuffer scratch(size + 2 * kGuard);
  std::uint8_t* const bytes = scratch.as<std::uint8_t>();
  std::fill_n(bytes, size + 2 * kGuard, kMark);
  kernel.grouped->quantize_lhs({x.data(), s.k, s.m, form, o.activations, lhs.as<void>()});
  GroupedBlock block{};
  layer.weight().set_operands(block, 0);
  block.activations = o.activations;
  block.lhs = lhs.as<void>();
  block.rows = s.m;
  block.cols = s.n;
  block.dst = y.get();
  block.dst_stride = s.n;
  block.scratch = bytes + kGuard;
  kernel.grouped->gemm(block);
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) equal = equal && same_bits(y.at(m, n), expected.at(m, n));
  }
  const std::string what = std::string(kernel.name) + " grouped " + s.text() + o.text();
  const auto intact = [](const std::uint8_t* from) {
    return std::all_of(from, from + kGuard, [](std::uint8_t v) { return v == kMark; });
  };
  check(equal, what + ": bits with scratch of its own");
  check(intact(bytes) && intact(bytes + kGuard + size), what + ": scratch");
}

constexpr GroupedActivations kActivations[] = {{false, false, 0},  {false, true, 0},   {true, false, 0},
                                               {false, false, 32}, {false, false, 64}, {false, false, 128},
                                               {false, false, 256}};

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);  // one that has none for grouped codes leaves them to the next
  const std::int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 31, 33};
  const std::int64_t ns[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 49};
  const std::int64_t group_ks[] = {16, 32, 64, 128, 256, 0};
  int variant = 0, layers = 0;
  for (std::int64_t group_k : group_ks) {
    for (int term = 0; term < 5; ++term) {
      for (const GroupedActivations& activations : kActivations) {
        for (int bits : {4, 5, 6, 8}) {
          for (bool is_signed : {true, false}) {
            ++variant;
            const Options o{group_k,   static_cast<Term>(term), activations,      bits,
                            is_signed, variant % 2 != 0,        variant % 5 == 0, variant % 3 == 0};
            if (!o.is_defined()) continue;
            // K of whole and of half chunks, of one piece and of several; any K where a row is one group.
            const std::int64_t times = 1 + variant % 5;
            const std::int64_t k = o.two_level()  ? kSuperK * times
                                   : group_k == 0 ? 1 + 67 * (variant % 13)
                                                  : group_k * times * (group_k < 64 ? 3 : 1);
            set_num_threads(1 + variant % 3);
            check_layer(kernel, {ms[variant % 16], k, ns[variant % 12]}, o);
            ++layers;
          }
        }
      }
    }
  }
  // Each group of codes is one of activations; and more super-blocks than are added up at a time.
  for (const std::int64_t m : {1, 2, 6, 7, 13}) {
    for (const std::int64_t n : {17, 33, 49}) {
      for (const int bits : {4, 5, 6, 8}) {
        for (const std::int64_t group_k : {32, 128}) {
          for (const Term term : {Term::kNone, Term::kMinimum}) {
            check_layer(kernel, {m, 2 * group_k, n},
                        {group_k, term, {false, false, group_k}, bits, true, n == 33, false, true});
            ++layers;
          }
        }
        for (const std::int64_t supers : {8, 9}) {
          check_layer(kernel, {m, kSuperK * supers, n},
                      {32, Term::kTwoLevelsMinimum, {m == 2, false, 0}, bits, false, true, false, false});
          ++layers;
        }
        check_zeros(kernel, {m, 64, n}, bits);
      }
    }
  }
  // Whole tiles of rows and what is left of them, of every kind of codes.
  for (const std::int64_t m : {16, 17, 31, 33, 47, 64, 65}) {
    for (const int bits : {4, 5, 6, 8}) {
      for (const bool is_signed : {true, false}) {
        for (const Term term :
             {Term::kNone, Term::kZeroPoint, Term::kMinimum, Term::kTwoLevels, Term::kTwoLevelsMinimum}) {
          for (const GroupedActivations& activations : kActivations) {
            const bool levels = term == Term::kTwoLevels || term == Term::kTwoLevelsMinimum;
            const std::int64_t group_k = !levels && activations.group_k != 0 ? activations.group_k
                                         : m % 2 == 0                        ? 32
                                                                             : 64;
            const Options o{group_k, term, activations, bits, is_signed, (m / 16 + bits) % 2 != 0, m == 33, m == 17};
            if (!o.is_defined()) continue;
            check_layer(kernel, {m, levels ? kSuperK : 2 * group_k, 16 + m % 19}, o);
            ++layers;
          }
        }
      }
    }
    check_zeros(kernel, {m, 64, 33}, 4);
    check_zeros(kernel, {m, 64, 33}, 8);
  }
  if (kernel.grouped != nullptr) {
    for (const std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 40}) {
      for (const int bits : {4, 5, 6}) {
        check_scratch(kernel, {m, 32, 1041}, {32, Term::kNone, {false, false, 32}, bits, true, true, false, false});
        check_scratch(kernel, {m, 77, 1041}, {0, Term::kNone, {true, false, 0}, bits, false, true, false, false});
        check_scratch(kernel, {m, 9 * kSuperK, 113},
                      {16, Term::kTwoLevels, {false, false, 256}, bits, true, true, false, false});
      }
    }
  }
  for (int threads : {1, 2, 5}) {  // large enough for the pool: rows split, and columns split
    set_num_threads(threads);
    for (int i = 0; i < 3; ++i, ++layers) {
      const Options o{
          32, static_cast<Term>(i), kActivations[threads == 2 ? 3 * (1 - i % 2) : 0], 4 + i, i == 1, true, false, true};
      check_layer(kernel, {150, 544, 190}, o);
      check_layer(kernel, {1 + i, 1056, 500}, o);
      check_layer(kernel, {9, 1056, 900}, o);  // rows loaded together
    }
  }
  std::printf("kernel %s grouped: %d shapes\n", kernel.name, layers);
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, " grouped", octavo::test::check_kernel);
}
