// Products of integers: every form that gives the right result, by every kernel that runs here, against sums of 64
// bits; and the whole of multiply_integers over pairs of types.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "gemm/integers/boolean.h"
#include "gemm/integers/multiply.h"
#include "gemm/registry.h"
#include "gemm/verbose.h"
#include "inputs.h"

namespace octavo::test {
namespace {

enum class Values : std::uint8_t { kFull, kExtremes, kSmall, kBytes, kOneLarge };

template <class T>
std::vector<T> values(Random& random, std::int64_t count, Values kind) {
  const auto least = std::numeric_limits<T>::min(), most = std::numeric_limits<T>::max();
  std::vector<T> all(static_cast<std::size_t>(count));
  for (T& v : all) {
    const std::uint64_t bits = std::uint64_t{random.bits()} << 33 ^ std::uint64_t{random.bits()} << 16 ^ random.bits();
    switch (kind) {
      case Values::kFull:
        v = static_cast<T>(bits);
        break;
      case Values::kExtremes:
        v = bits % 2 == 0 ? least : most;
        break;
      case Values::kBytes:
        v = static_cast<T>(std::min<std::uint64_t>(bits % 256, static_cast<std::uint64_t>(most)));
        break;
      default:
        v = static_cast<T>(bits % 100);
    }
  }
  if (kind == Values::kOneLarge && count > 0) all[static_cast<std::size_t>(count / 2)] = most;
  return all;
}

template <class T>
IntegerMatrix matrix_of(const std::vector<T>& data, std::int64_t rows, std::int64_t cols, bool turned) {
  const std::int64_t item = sizeof(T);
  return {{reinterpret_cast<const std::byte*>(data.data()), turned ? item : cols * item, turned ? rows * item : item,
           static_cast<std::int32_t>(item), std::is_signed_v<T>},
          rows,
          cols};
}

template <class T>
std::uint64_t at(const std::vector<T>& data, const IntegerMatrix& m, std::int64_t row, std::int64_t col) {
  const std::int64_t bytes = row * m.view.row_stride + col * m.view.col_stride;
  return static_cast<std::uint64_t>(data[static_cast<std::size_t>(bytes) / sizeof(T)]);
}

template <class A, class B>
std::vector<std::uint64_t> sums(const std::vector<A>& a, const IntegerMatrix& lhs, const std::vector<B>& b,
                                const IntegerMatrix& rhs) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(lhs.rows * rhs.cols));
  for (std::int64_t m = 0; m < lhs.rows; ++m) {
    for (std::int64_t n = 0; n < rhs.cols; ++n) {
      std::uint64_t sum = 0;
      for (std::int64_t k = 0; k < lhs.cols; ++k) sum += at(a, lhs, m, k) * at(b, rhs, k, n);
      all[static_cast<std::size_t>(m * rhs.cols + n)] = sum;
    }
  }
  return all;
}

template <class T>
void check_equal(const Guarded<T>& y, const std::vector<std::uint64_t>& expected, const Shape& s,
                 const std::string& what) {
  bool equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      equal = equal && y.at(m, n) == static_cast<T>(expected[static_cast<std::size_t>(m * s.n + n)]);
    }
  }
  check(equal, what + " " + s.text());
  check(y.intact(), what + " " + s.text() + ": writes outside");
}

template <class T>
IntegerResult result_of(Guarded<T>& y, std::int64_t stride) {
  return {reinterpret_cast<std::byte*>(y.get()), stride, sizeof(T)};
}

const char* name_of(Form form) {
  return form == Form::kDigits ? "digits" : form == Form::k16 ? "16 bits" : form == Form::k32 ? "32 bits" : "64 bits";
}

// Each form by itself, in two pieces of K, whatever the plan would have chosen. A and B are the operands' types, C the
// result's; `bytes` of a sum matter.
template <class A, class B, class C>
void check_form(const Kernel& kernel, const Shape& s, Form form, int bytes, Values kind) {
  Random random(static_cast<std::uint64_t>(s.m * 1000 + s.k * 10 + s.n));
  const auto a = values<A>(random, s.m * s.k, kind);
  const auto b = values<B>(random, s.k * s.n, kind);
  const IntegerMatrix lhs = matrix_of(a, s.m, s.k, false), rhs = matrix_of(b, s.k, s.n, s.n % 2 == 0);
  Guarded<C> y(s.m, s.n, s.n + 3);
  const std::int64_t cut = s.k > 3 ? s.k / 2 + 1 : s.k;
  AlignedBuffer memory;
  const std::vector<ValueRange> lhs_ranges(static_cast<std::size_t>(ceil_div(s.m, kRangeRows)),
                                           range_of_values(*kernel.integer, lhs.view, s.m, s.k));
  const ValueRange rhs_range = range_of_values(*kernel.integer, rhs.view, s.k, s.n);
  CallReport report("form", s.m, s.k, s.n);
  for (std::int64_t k0 = 0; k0 < s.k; k0 += cut) {
    PackedPiece piece({k0, std::min(cut, s.k - k0), 0, s.n}, form, digits_of(rhs_range));
    memory.reserve(memory_bytes(piece.bytes()));
    piece.pack(*kernel.integer, rhs, memory.as<void>(), false);
    const PieceProduct::Operands operands{lhs, lhs_ranges, piece, rhs_range, result_of(y, s.n + 3), k0 > 0};
    multiply(PieceProduct(kernel, {form, bytes}, operands), kernel.name, report);
  }
  check_equal(y, sums(a, lhs, b, rhs), s,
              std::string(kernel.name) + ", " + name_of(form) + ", " + std::to_string(8 * sizeof(A)) + " by " +
                  std::to_string(8 * sizeof(B)) + " into " + std::to_string(8 * sizeof(C)) + " bits");
}

void check_forms(const Kernel& kernel, const Shape& s) {
  for (const Values kind : {Values::kFull, Values::kExtremes, Values::kSmall, Values::kBytes, Values::kOneLarge}) {
    check_form<std::int8_t, std::int8_t, std::int8_t>(kernel, s, Form::kDigits, 1, kind);
    check_form<std::uint8_t, std::int8_t, std::int32_t>(kernel, s, Form::kDigits, 4, kind);
    check_form<std::int16_t, std::uint16_t, std::uint64_t>(kernel, s, Form::kDigits, 8, kind);
    check_form<std::int32_t, std::int32_t, std::int32_t>(kernel, s, Form::kDigits, 4, kind);
    check_form<std::int64_t, std::int32_t, std::int16_t>(kernel, s, Form::kDigits, 2, kind);
    check_form<std::int64_t, std::int64_t, std::int64_t>(kernel, s, Form::kDigits, 8, kind);
    check_form<std::uint64_t, std::uint8_t, std::uint64_t>(kernel, s, Form::kDigits, 8, kind);
    check_form<std::int16_t, std::int16_t, std::int32_t>(kernel, s, Form::k16, 4, kind);
    check_form<std::int64_t, std::uint16_t, std::uint16_t>(kernel, s, Form::k16, 2, kind);
    check_form<std::int8_t, std::int16_t, std::int8_t>(kernel, s, Form::k16, 1, kind);
    check_form<std::int32_t, std::uint32_t, std::uint32_t>(kernel, s, Form::k32, 4, kind);
    check_form<std::int64_t, std::int8_t, std::int16_t>(kernel, s, Form::k32, 2, kind);
    check_form<std::int64_t, std::int64_t, std::int64_t>(kernel, s, Form::k64, 8, kind);
    check_form<std::uint64_t, std::int8_t, std::int32_t>(kernel, s, Form::k64, 8, kind);
    check_form<std::int32_t, std::int32_t, std::int64_t>(kernel, s, Form::k64, 8, kind);
    check_form<std::uint32_t, std::int32_t, std::int64_t>(kernel, s, Form::k64, 8, kind);
  }
  // Sums that int32 holds, in a result of 64 bits.
  for (const Values kind : {Values::kSmall, Values::kBytes}) {
    check_form<std::int64_t, std::int64_t, std::int64_t>(kernel, s, Form::kDigits, 4, kind);
    check_form<std::int64_t, std::int64_t, std::int64_t>(kernel, s, Form::k16, 4, kind);
    check_form<std::int64_t, std::int64_t, std::int64_t>(kernel, s, Form::k32, 4, kind);
  }
}

template <class A, class B, class C>
void check_product(const Kernel& kernel, const Shape& s, Values a_kind, Values b_kind) {
  Random random(static_cast<std::uint64_t>(s.m + s.k + s.n));
  const auto a = values<A>(random, s.m * s.k, a_kind);
  const auto b = values<B>(random, s.k * s.n, b_kind);
  const IntegerMatrix lhs = matrix_of(a, s.m, s.k, s.m % 2 == 0), rhs = matrix_of(b, s.k, s.n, s.n % 2 == 0);
  const auto expected = sums(a, lhs, b, rhs);
  const std::string what = std::string(kernel.name) + ", " + std::to_string(8 * sizeof(A)) + " by " +
                           std::to_string(8 * sizeof(B)) + " into " + std::to_string(8 * sizeof(C)) + " bits";
  Guarded<C> y(s.m, s.n, s.n + 1);
  CallReport silent;
  multiply_integers(lhs, rhs, result_of(y, s.n + 1), silent);
  check_equal(y, expected, s, what);
  PackedIntegers packed(rhs);
  Guarded<C> again(s.m, s.n, s.n);
  packed.multiply(lhs, result_of(again, s.n));
  check_equal(again, expected, s, what + ", packed");
}

void check_products(const Kernel& kernel, const Shape& s) {
  constexpr Values kKinds[] = {Values::kFull, Values::kExtremes, Values::kSmall, Values::kBytes, Values::kOneLarge};
  for (int i = 0; i < 5; ++i) {
    const Values x = kKinds[i], y = kKinds[(i * 2 + 1) % 5];
    check_product<std::int8_t, std::int8_t, std::int8_t>(kernel, s, x, y);
    check_product<std::int8_t, std::int8_t, std::int32_t>(kernel, s, x, y);
    check_product<std::uint8_t, std::int8_t, std::int16_t>(kernel, s, x, y);
    check_product<std::uint16_t, std::uint16_t, std::uint16_t>(kernel, s, x, y);
    check_product<std::int16_t, std::int32_t, std::int32_t>(kernel, s, x, y);
    check_product<std::int16_t, std::int16_t, std::int64_t>(kernel, s, x, y);
    check_product<std::int32_t, std::int64_t, std::int64_t>(kernel, s, x, y);
    check_product<std::int64_t, std::int64_t, std::int64_t>(kernel, s, x, y);
    check_product<std::uint64_t, std::uint64_t, std::uint64_t>(kernel, s, x, y);
  }
}

void check_boolean_product(const Kernel& kernel, const Shape& s, const std::vector<std::uint8_t>& a, bool a_turned,
                           const std::vector<std::uint8_t>& b, bool b_turned) {
  const IntegerMatrix lhs = matrix_of(a, s.m, s.k, a_turned), rhs = matrix_of(b, s.k, s.n, b_turned);
  std::vector<std::uint64_t> expected;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      bool any = false;
      for (std::int64_t k = 0; k < s.k; ++k) any = any || (at(a, lhs, m, k) != 0 && at(b, rhs, k, n) != 0);
      expected.push_back(any ? 1 : 0);
    }
  }
  Guarded<std::uint8_t> y(s.m, s.n, s.n + 5);
  CallReport silent;
  multiply_booleans(lhs, rhs, result_of(y, s.n + 5), silent);
  check_equal(y, expected, s, std::string(kernel.name) + ", bool");
}

void check_booleans(const Kernel& kernel, const Shape& s, int percent) {
  Random random(static_cast<std::uint64_t>(percent));
  const auto draw = [&](std::int64_t count) {
    std::vector<std::uint8_t> all(static_cast<std::size_t>(count));
    for (std::uint8_t& v : all)
      v = random.between(1, 100) <= percent ? static_cast<std::uint8_t>(random.between(1, 255)) : 0;
    return all;
  };
  const auto a = draw(s.m * s.k);
  auto b = draw(s.k * s.n);
  const bool turned = s.n % 2 == 0;
  if (percent == 51) {  // some columns are soon all true, others never
    for (std::size_t i = 0; i < b.size(); ++i) {
      const std::size_t col = turned ? i / static_cast<std::size_t>(s.k) : i % static_cast<std::size_t>(s.n);
      b[i] = col % 100 < 64 || i % 37 == 0 ? 1 : 0;
    }
  }
  check_boolean_product(kernel, s, a, percent % 2 == 0, b, turned);
}

// More k than are packed at once: what is true in one piece joins what is true in others, and what is never true stays.
void check_boolean_pieces(const Kernel& kernel) {
  const Shape s{4, kPieceBytes / 64 + 70, 3};
  std::vector<std::uint8_t> a(static_cast<std::size_t>(s.m * s.k)), b(static_cast<std::size_t>(s.k * s.n));
  const auto pair_up = [&](std::int64_t m, std::int64_t k, std::int64_t n) {
    a[static_cast<std::size_t>(m * s.k + k)] = b[static_cast<std::size_t>(k * s.n + n)] = 1;
  };
  pair_up(0, 5, 0);
  pair_up(1, s.k - 1, 1);
  pair_up(2, 7, 2);
  pair_up(2, s.k - 3, 0);
  check_boolean_product(kernel, s, a, false, b, false);
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);
  set_num_threads(1);
  for (const std::int64_t m : {1, 2, 3, 5, 12, 13, 33}) {
    for (const std::int64_t k : {1, 3, 4, 9, 67}) {
      for (const std::int64_t n : {1, 8, 15, 16, 17, 33}) check_forms(kernel, {m, k, n});
    }
  }
  check_forms(kernel, {130, 9, 301});  // sums of digits in several blocks of columns
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    for (const Shape& s : {Shape{1, 1, 1}, {2, 3, 5}, {17, 16, 15}, {40, 33, 50}, {3, 260, 300}, {130, 70, 65}}) {
      check_products(kernel, s);
      for (const int percent : {0, 2, 51, 100}) check_booleans(kernel, s, percent);
    }
    // Vectors times a matrix that lies along k, or along the outputs.
    for (const Shape& s : {Shape{1, 300, 261},
                           {1, 300, 260},
                           {261, 300, 1},
                           {260, 300, 1},
                           {4, 150, 101},
                           {8, 90, 100},
                           {101, 150, 4},
                           {100, 90, 8},
                           {1, 600, 701},
                           {700, 600, 1},
                           {1, 30, 4200}}) {
      check_products(kernel, s);
    }
    check_product<std::int64_t, std::int64_t, std::int64_t>(kernel, {18, 2100, 20}, Values::kFull, Values::kFull);
    check_product<std::int8_t, std::uint8_t, std::int64_t>(kernel, {18, 17000, 20}, Values::kExtremes,
                                                           Values::kExtremes);
    check_booleans(kernel, {70, 300, 1030}, 1);
    check_boolean_pieces(kernel);
  }
  std::printf("kernel %s\n", kernel.name);
}

}  // namespace
}  // namespace octavo::test

// Arguments: names of kernels, where not all are wanted.
int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, "", octavo::test::check_kernel);
}
