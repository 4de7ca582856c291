// Fake quantization against its definition with std::nearbyint, in guarded buffers, in every cut of the array and for
// several numbers of threads.
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "quantize/fake_quant.h"

namespace octavo::test {
namespace {

constexpr float kGuard = -12345.5F;
constexpr std::size_t kGuards = 16;

struct Guarded {
  explicit Guarded(std::size_t n) : all(n + 2 * kGuards, kGuard) {}
  float* data() { return all.data() + kGuards; }
  bool intact() const {
    for (std::size_t i = 0; i < kGuards; ++i) {
      if (all[i] != kGuard || all[all.size() - 1 - i] != kGuard) return false;
    }
    return true;
  }
  std::vector<float> all;
};

void run(const ChannelShape& shape, std::int32_t qmin, std::int32_t qmax, int threads) {
  set_num_threads(threads);
  const std::string name = std::to_string(shape.outer) + "x" + std::to_string(shape.channels) + "x" +
                           std::to_string(shape.inner) + " in " + std::to_string(qmin) + ".." + std::to_string(qmax) +
                           ", threads " + std::to_string(threads);
  std::mt19937 random(7);
  std::uniform_real_distribution<float> real(-1.2F, 1.2F);
  std::uniform_int_distribution<std::int32_t> zero(qmin, qmax);
  const auto n = static_cast<std::size_t>(shape.size()), channels = static_cast<std::size_t>(shape.channels);
  const auto inner = static_cast<std::size_t>(shape.inner);
  std::vector<float> x(n), g(n), scale(channels);
  std::vector<std::int32_t> zero_point(channels);
  for (auto& s : scale) s = std::ldexp(1.0F, static_cast<int>(random() % 4) - 2);
  for (auto& z : zero_point) z = zero(random);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = real(random) * static_cast<float>(qmax - qmin);
    if (i % 3 == 0) x[i] = std::nearbyint(2 * x[i]) / 8;  // ties, as scales are powers of two
    g[i] = real(random);
  }
  const FakeQuantParams params{scale.data(), zero_point.data(), qmin, qmax};
  Guarded y(n), dx(n), learnable_dx(n);
  std::vector<double> d_scale(channels), d_zero(channels), scale_sum(channels), zero_sum(channels);
  check(fake_quantize(shape, params, x.data(), y.data()), name + ": no NaN");
  fake_quantize_backward(shape, params, x.data(), g.data(), dx.data());
  fake_quantize_learnable_backward(shape, params, x.data(), g.data(), learnable_dx.data(), d_scale.data(),
                                   d_zero.data());
  bool forward_ok = true, backward_ok = true;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t c = (i / inner) % channels;
    const float v = x[i] * (1.0F / scale[c]), nearest = std::nearbyint(v);
    const float lo = static_cast<float>(qmin - zero_point[c]), hi = static_cast<float>(qmax - zero_point[c]);
    const float q = std::fmin(std::fmax(nearest, lo), hi) + 0.0F;
    const bool inside = nearest == q;
    forward_ok &= y.data()[i] == q * scale[c] && (q != 0.0F || !std::signbit(y.data()[i]));
    backward_ok &= dx.data()[i] == (inside ? g[i] : 0.0F) && learnable_dx.data()[i] == dx.data()[i];
    scale_sum[c] += static_cast<double>(g[i]) * static_cast<double>(q - (inside ? v : 0.0F));
    zero_sum[c] -= inside ? 0.0 : static_cast<double>(scale[c]) * static_cast<double>(g[i]);
  }
  check(forward_ok, name + ": forward");
  check(backward_ok, name + ": backward");
  for (std::size_t c = 0; c < channels; ++c) {
    check(std::fabs(d_scale[c] - scale_sum[c]) < 1e-6 && std::fabs(d_zero[c] - zero_sum[c]) < 1e-6, name + ": sums");
  }
  check(y.intact() && dx.intact() && learnable_dx.intact(), name + ": nothing is written beside the arrays");
  if (n > 0) {
    x[n - 1] = std::numeric_limits<float>::quiet_NaN();
    check(!fake_quantize(shape, params, x.data(), y.data()), name + ": NaN is seen");
  }
}

}  // namespace
}  // namespace octavo::test

int main() {
  using octavo::ChannelShape;
  for (const ChannelShape& shape :
       {ChannelShape{1, 1, 0}, ChannelShape{1, 1, 1}, ChannelShape{1, 1, 17}, ChannelShape{1, 1, 50'000},
        ChannelShape{1, 3, 16'385}, ChannelShape{5, 4, 9}, ChannelShape{40, 13, 1}, ChannelShape{3'000, 11, 1}}) {
    for (const int threads : {1, 3}) {
      octavo::test::run(shape, -128, 127, threads);
      octavo::test::run(shape, 0, 3, threads);
    }
  }
  return octavo::test::finish();
}
