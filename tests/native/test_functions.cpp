// Functions of elements and rows on every kernel that this machine runs, against the portable one, to the bit; the
// Python tests compare them with their NumPy definitions.
//
// Inputs end where their memory ends and outputs stand between guard elements. The last lines name the kernels that
// ran: CI reads them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "functional/functional.h"
#include "gemm/registry.h"
#include "inputs.h"

namespace octavo::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::uint32_t bits_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

bool same(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }

const FunctionKernel& portable() { return *find_kernel("scalar")->functions; }

// Some numbers of every exponent and sign, and those that are special.
std::vector<float> all_exponents() {
  std::vector<float> x = {0.0f, -0.0f, kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 88.72283f, 88.72284f,
                          -103.97f, -103.98f, 0x1p17f, -0x1p17f, 0.92f, 0.6f, 15.0f, -15.0f};
  Random random(1);
  for (std::uint32_t high = 0; high < 512; ++high) {
    for (int i = 0; i < 12; ++i) {
      const std::uint32_t bits = high << 23 | (random.bits() & 0x7fffffu);
      float v;
      std::memcpy(&v, &bits, sizeof v);
      x.push_back(v);
    }
  }
  return x;
}

void check_elements(const std::string& kernel, int f, const std::vector<float>& x) {
  const auto count = static_cast<std::int64_t>(x.size());
  const auto function = static_cast<Elementwise>(f);
  std::vector<float> expected(x.size());
  portable().elementwise[f](x.data(), expected.data(), count);
  Guarded<float> y(1, count, count);
  run_elementwise(function, x.data(), y.get(), count);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    check(same(y.at(0, i), expected[at]),
          kernel + " function " + std::to_string(f) + " of " + std::to_string(x[at]) + ": " +
              std::to_string(y.at(0, i)) + ", expected " + std::to_string(expected[at]));
  }
  check(y.intact(), kernel + ": wrote outside");
  std::vector<float> in_place = x;
  run_elementwise(function, in_place.data(), in_place.data(), count);
  for (std::size_t i = 0; i < x.size(); ++i) check(same(in_place[i], expected[i]), kernel + ": in place");
}

void check_swiglu(const std::string& kernel, std::int64_t count) {
  Random random(static_cast<std::uint64_t>(count));
  std::vector<float> gate, up, expected(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    gate.push_back(random.real());
    up.push_back(random.real());
  }
  portable().swiglu(gate.data(), up.data(), expected.data(), count);
  Guarded<float> y(1, count, count);
  run_swiglu(gate.data(), up.data(), y.get(), count);
  for (std::int64_t i = 0; i < count; ++i) {
    check(same(y.at(0, i), expected[static_cast<std::size_t>(i)]), kernel + " swiglu of " + std::to_string(count));
  }
  check(y.intact(), kernel + " swiglu: wrote outside");
}

// Rows with strides of their own, some of them special; with and without parameters.
void check_rows(const std::string& kernel, int f, const Shape& s, bool weight, bool bias) {
  Random random(static_cast<std::uint64_t>(s.m * 1000 + s.n));
  std::vector<float> x = hard_rows(random, {s.m, s.n, 0}), w, b;
  for (std::int64_t k = 0; k < s.n && s.m > 2; ++k) x[static_cast<std::size_t>(s.n + k)] = -kInf;
  for (std::int64_t k = 0; k < s.n; ++k) {
    w.push_back(random.real());
    b.push_back(random.real());
  }
  const std::int64_t width = f == static_cast<int>(Rowwise::kLogSum) ? 2 : s.n, stride = width + 3;
  Guarded<float> y(s.m, width, stride), expected(s.m, width, stride);
  RowsTask task{x.data(), s.n, expected.get(), stride, s.m, s.n, weight ? w.data() : nullptr, bias ? b.data() : nullptr,
                1e-5f};
  portable().rowwise[f](task);
  task.y = y.get();
  run_rowwise(static_cast<Rowwise>(f), task);
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      check(same(y.at(i, j), expected.at(i, j)),
            kernel + " rows " + std::to_string(f) + " " + s.text() + " at " + std::to_string(i) + ", " +
                std::to_string(j) + ": " + std::to_string(y.at(i, j)) + ", expected " +
                std::to_string(expected.at(i, j)));
    }
  }
  check(y.intact() && expected.intact(), kernel + " rows: wrote outside");
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);
  int shapes = 0;
  const std::vector<float> numbers = all_exponents();
  for (int f = 0; f < kElementwiseCount; ++f) {
    check_elements(kernel.name, f, numbers);
    for (std::size_t count : {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33}) {
      check_elements(kernel.name, f, {numbers.end() - static_cast<std::ptrdiff_t>(count), numbers.end()});
      ++shapes;
    }
  }
  for (std::int64_t count = 0; count <= 50; ++count) check_swiglu(kernel.name, count);
  for (std::int64_t n = 1; n <= 50; n += n < 36 ? 1 : 7) {
    for (int f = 0; f < kRowwiseCount; ++f) {
      check_rows(kernel.name, f, {13, 0, n}, false, false);
      ++shapes;
      if (f < static_cast<int>(Rowwise::kRmsNorm)) continue;
      check_rows(kernel.name, f, {3, 0, n}, true, false);
      if (f == static_cast<int>(Rowwise::kLayerNorm)) {
        check_rows(kernel.name, f, {3, 0, n}, true, true);
        check_rows(kernel.name, f, {3, 0, n}, false, true);
      }
    }
  }
  for (int threads : {1, 2}) {  // several tasks
    set_num_threads(threads);
    for (int f = 0; f < kRowwiseCount; ++f) check_rows(kernel.name, f, {70, 0, 577}, false, false);
  }
  std::printf("kernel %s functions: %d shapes\n", kernel.name, shapes);
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, " functions", octavo::test::check_kernel);
}
