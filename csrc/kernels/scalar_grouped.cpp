// The portable kernel for grouped codes: standard C++, in the loops that all kernels share.
#include <cstdint>
#include <cstring>

#include "kernels/detail/exact_fma.h"
#include "kernels/detail/grouped_frame.h"
#include "kernels/detail/half.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

// A panel's 16 columns, in the place of a vector register.
template <class T>
struct Columns {
  T of[kGroupedNr];
};

struct ScalarGrouped : NoStreams {
  using Int = Columns<std::uint32_t>;
  using Float = Columns<float>;
  static constexpr int kVecs = 1;
  static constexpr int kMr = 1, kTallestTile = kMr;
  static constexpr std::uint32_t kByteBias = 0;

  // value(j) of each column j.
  template <class T, class Value>
  static Columns<T> each(const Value& value) {
    Columns<T> result;
    for (int j = 0; j < kGroupedNr; ++j) result.of[j] = value(j);
    return result;
  }
  template <class Value>
  static Int ints(const Value& value) {
    return each<std::uint32_t>(value);
  }
  template <class Value>
  static Float floats(const Value& value) {
    return each<float>(value);
  }

  static Int zero() { return {}; }
  static Int set1(std::int32_t v) {
    return ints([&](int) { return static_cast<std::uint32_t>(v); });
  }
  static Int load32(const std::int32_t* at) {
    return ints([&](int j) { return static_cast<std::uint32_t>(at[j]); });
  }
  static void store32(std::int32_t* at, const Int& a) { std::memcpy(at, a.of, sizeof a.of); }
  static Int load_u8(const std::uint8_t* at) {
    return ints([&](int j) { return at[j]; });
  }
  static Int load_s8(const std::uint8_t* at) {
    return ints([&](int j) { return static_cast<std::uint32_t>(static_cast<std::int8_t>(at[j])); });
  }
  static Float zerof() { return {}; }
  static Float set1f(float v) {
    return floats([&](int) { return v; });
  }
  static Float load_f32(const float* at) {
    return floats([&](int j) { return at[j]; });
  }
  static Float load_f16(const std::uint16_t* at) {
    return floats([&](int j) { return float_from_half(at[j]); });
  }
  static Int add(const Int& a, const Int& b) {
    return ints([&](int j) { return a.of[j] + b.of[j]; });
  }
  static Int multiply(const Int& a, const Int& b) {
    return ints([&](int j) { return a.of[j] * b.of[j]; });
  }
  static Int shift8(const Int& a) {
    return ints([&](int j) { return a.of[j] << 8; });
  }
  static Float to_float(const Int& a) {
    return floats([&](int j) { return static_cast<float>(static_cast<std::int32_t>(a.of[j])); });
  }
  static Float join(const Int& h, const Int& l) {
    return floats([&](int j) {
      return static_cast<float>(256.0 * static_cast<std::int32_t>(h.of[j]) + static_cast<std::int32_t>(l.of[j]));
    });
  }
  static Float fma(const Float& a, const Float& b, const Float& c) {
    return floats([&](int j) { return exact_fma(a.of[j], b.of[j], c.of[j]); });
  }
  static Float fnma(const Float& a, const Float& b, const Float& c) {
    return floats([&](int j) { return exact_fma(-a.of[j], b.of[j], c.of[j]); });
  }
  static Float mul(const Float& a, const Float& b) {
    return floats([&](int j) { return a.of[j] * b.of[j]; });
  }
  static Float addf(const Float& a, const Float& b) {
    return floats([&](int j) { return a.of[j] + b.of[j]; });
  }
  static Float relu(const Float& y) {
    return floats([&](int j) { return y.of[j] <= 0.0f ? 0.0f : y.of[j]; });
  }
  static Int dot_pairs(const Int& acc, std::int32_t pair, const std::uint8_t* bytes) {
    std::int16_t sums[2];
    std::memcpy(sums, &pair, sizeof sums);
    const auto even = static_cast<std::uint32_t>(sums[0]), odd = static_cast<std::uint32_t>(sums[1]);
    return ints([&](int j) { return acc.of[j] + even * bytes[2 * j] + odd * bytes[2 * j + 1]; });
  }
  static void store(float* dst, const Float& y, std::int64_t count) {
    for (std::int64_t j = 0; j < kGroupedNr && j < count; ++j) dst[j] = y.of[j];
  }

  template <Codes kCodes, int R>
  static void add_lines(Int (&sums)[R][1][1], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t, std::int64_t quads, std::int64_t) {
    for (int r = 0; r < R; ++r) add_row<kCodes>(sums[r][0][0].of, rows[r] + k, lines, quads);
  }

  template <Codes kCodes>
  static void add_row(std::uint32_t (&sums)[kGroupedNr], const std::int8_t* a, const std::uint8_t* lines,
                      std::int64_t quads) {
    for (std::int64_t line = 0; line < 4 * quads; ++line, a += 4, lines += kGroupedLineBytes) {
      for (int j = 0; j < kGroupedNr; ++j) {
        for (int i = 0; i < 4; ++i) {
          const std::uint32_t byte = lines[4 * j + i];
          const std::uint32_t code = kCodes == Codes::kBytes        ? byte
                                     : kCodes == Codes::kLowNibbles ? byte & 15
                                                                    : byte >> 4;
          sums[j] += static_cast<std::uint32_t>(a[i]) * code;
        }
      }
    }
  }
};

}  // namespace

extern const GroupedKernel grouped_scalar;
constexpr GroupedKernel grouped_scalar = grouped_kernel<ScalarGrouped>(3e3);

}  // namespace octavo
