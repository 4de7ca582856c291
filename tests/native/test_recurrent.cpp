// The gates' bits, on each kernel that this machine runs: hashes that tests/numerics/test_gates.py computes from the NumPy
// definition.
#include <bit>
#include <cfenv>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "check.h"
#include "functional/functional.h"
#include "gemm/recurrent.h"
#include "gemm/registry.h"

namespace octavo::test {
namespace {

constexpr std::uint64_t kSigmoid = 0x508d132064cbc285u;
constexpr std::uint64_t kTanh = 0x74ea432f4dfa7b1du;
constexpr std::uint64_t kLstm = 0x280822911769ed54u;
constexpr std::uint64_t kGru = 0xa1f65950fd307960u;

// FNV-1a over the bits, least significant byte first.
std::uint64_t hash(const std::vector<float>& values) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const float v : values) {
    for (int shift = 0; shift < 32; shift += 8)
      h = (h ^ (std::bit_cast<std::uint32_t>(v) >> shift & 255)) * 0x100000001b3u;
  }
  return h;
}

// Multiples of 2^-17 from -64 to 64, the same on every machine.
std::vector<float> inputs(std::size_t count) {
  std::vector<float> values(count);
  std::uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<std::int32_t>(state) >> 8) * 0x1p-17f;
  }
  return values;
}

// Stands for a layer: each gate's product is the state itself.
struct Repeat {
  std::int64_t gate_count, hidden;
  void operator()(const float* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride) const {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < gate_count * hidden; ++j) y[i * y_stride + j] = x[i * x_stride + j % hidden];
    }
  }
};

std::vector<float> run(std::int64_t gate_count) {
  constexpr std::int64_t kSteps = 20, kRows = 3, kHidden = 37;
  const std::int64_t width = gate_count * kHidden;
  std::vector<float> a = inputs(static_cast<std::size_t>(kSteps * kRows * width));
  for (float& v : a) v *= 0x1p-4f;
  const std::vector<float> h0(kRows * kHidden, 0.25f);
  std::vector<float> c(kRows * kHidden, -0.5f), y(kSteps * kRows * kHidden);
  const Repeat layer{gate_count, kHidden};
  const RecurrentRun steps{RowProduct(layer),
                           kSteps,
                           kRows,
                           kHidden,
                           {a.data(), kRows * width, width},
                           h0.data(),
                           {y.data(), kRows * kHidden, kHidden},
                           false};
  if (gate_count == 4) {
    run_lstm(steps, c.data());
  } else {
    run_gru(steps);
  }
  return y;
}

void check_hash(const char* name, const std::vector<float>& values, std::uint64_t expected) {
  const std::uint64_t found = hash(values);
  check(found == expected, std::string(name) + " has other bits, hash " + std::to_string(found));
}

void check_gates() {
  std::vector<float> sigmoids = inputs(100000), tanhs = sigmoids;
  const auto count = static_cast<std::int64_t>(sigmoids.size());
  run_elementwise(Elementwise::kSigmoid, sigmoids.data(), sigmoids.data(), count);
  run_elementwise(Elementwise::kTanh, tanhs.data(), tanhs.data(), count);
  check_hash("sigmoid", sigmoids, kSigmoid);
  check_hash("tanh", tanhs, kTanh);
}

void check_runs() {
#if defined(FE_UPWARD)
  const std::initializer_list<int> modes = {FE_TONEAREST, FE_UPWARD};
#else
  const std::initializer_list<int> modes = {FE_TONEAREST};  // WebAssembly knows no other
#endif
  for (const int mode : modes) {  // what another library left behind does not matter
    std::fesetround(mode);
    const std::vector<float> lstm = run(4), gru = run(3);
    std::fesetround(FE_TONEAREST);
    check_hash("lstm", lstm, kLstm);
    check_hash("gru", gru, kGru);
  }
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo;
  for (const Kernel* kernel : all_kernels()) {
    if (!missing_features(*kernel).empty()) continue;
    force_kernel(kernel);
    test::check_gates();
    test::check_runs();
  }
  return octavo::test::finish();
}
