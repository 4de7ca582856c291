// Inputs of the native tests, and outputs between guard elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace octavo::test {

struct Shape {
  std::int64_t m, k, n;
  std::string text() const { return std::to_string(m) + "x" + std::to_string(k) + "x" + std::to_string(n); }
};

// A small generator of our own: the same numbers with every standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2 + 1) {}
  std::uint32_t bits() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<std::uint32_t>(state_ >> 33);
  }
  std::int32_t between(std::int32_t lo, std::int32_t hi) {
    return lo + static_cast<std::int32_t>(bits() % static_cast<std::uint32_t>(hi - lo + 1));
  }
  float real() { return static_cast<float>(between(-1000000, 1000000)) * 1e-5f; }  // -10 .. 10

 private:
  std::uint64_t state_;
};

// Random rows, some of them special where there are enough.
inline std::vector<float> hard_rows(Random& random, const Shape& s) {
  std::vector<float> x(static_cast<std::size_t>(s.m * s.k));
  for (float& v : x) v = random.real();
  const auto put = [&](std::int64_t m, std::int64_t k, float v) {
    if (m < s.m && k < s.k) x[static_cast<std::size_t>(m * s.k + k)] = v;
  };
  put(3, s.k - 1, std::numeric_limits<float>::quiet_NaN());
  put(4, 0, -std::numeric_limits<float>::infinity());
  put(6, 0, 3e38f);
  put(6, 1, -3e38f);  // the range overflows where it is asymmetric
  for (std::int64_t k = 0; k < s.k; ++k) {
    put(5, k, 0x1p-101f);
    put(7, k, static_cast<float>(k % 3) * 0x1p-120f);
    put(8, k, static_cast<float>(k % 5));  // all of one sign
    put(9, k, -0.0f);
    put(10, k, 0x1p-100f);                    // the smallest range that is not zeros
    put(11, k, k % 2 == 0 ? -1.5f : 253.5f);  // 254 steps from a zero point of -126: clamped to 127
    put(12, k, k == 0 ? 127.0f : static_cast<float>(k % 9) + 0.5f);  // halves round to even
  }
  return x;
}

template <class T>
class Guarded {
 public:
  explicit Guarded(std::int64_t rows, std::int64_t cols, std::int64_t stride)
      : rows_(rows), cols_(cols), stride_(stride), data_(static_cast<std::size_t>(rows * stride + 2 * kGuard), kMark) {}
  T* get() { return data_.data() + kGuard; }
  T at(std::int64_t m, std::int64_t n) const { return data_[static_cast<std::size_t>(kGuard + m * stride_ + n)]; }
  bool intact() const {
    for (std::size_t i = 0; i < data_.size(); ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i) - kGuard;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      if (!inside && data_[i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  static constexpr T kMark = static_cast<T>(sizeof(T) == 1 ? 0x5b : -12345);
  std::int64_t rows_, cols_, stride_;
  std::vector<T> data_;
};

}  // namespace octavo::test
