// The portable kernel for grouped codes: standard C++, a column at a time in the loops that all kernels share.
#include <cstdint>
#include <cstring>

#include "kernels/detail/exact_fma.h"
#include "kernels/detail/grouped_frame.h"
#include "kernels/detail/half.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct ScalarGrouped {
  using Int = std::uint32_t;
  using Float = float;
  static constexpr int kVecs = 16;
  static constexpr int kMr = 1;
  static constexpr int kPanels = 1;
  static constexpr int kStreamRows = 0;
  static constexpr std::int64_t kAheadBytes = 0;
  static constexpr std::uint32_t kByteBias = 0;

  static Int zero() { return 0; }
  static Int set1(std::int32_t v) { return static_cast<std::uint32_t>(v); }
  static Int load32(const std::int32_t* at) { return static_cast<std::uint32_t>(*at); }
  static void store32(std::int32_t* at, Int a) { *at = static_cast<std::int32_t>(a); }
  static Int load_u8(const std::uint8_t* at) { return *at; }
  static Int load_s8(const std::uint8_t* at) { return set1(static_cast<std::int8_t>(*at)); }
  static Float zerof() { return 0.0f; }
  static Float set1f(float v) { return v; }
  static Float load_f32(const float* at) { return *at; }
  static Float load_f16(const std::uint16_t* at) { return float_from_half(*at); }
  static Int add(Int a, Int b) { return a + b; }
  static Int multiply(Int a, Int b) { return a * b; }
  static Int shift8(Int a) { return a << 8; }
  static Float to_float(Int a) { return static_cast<float>(static_cast<std::int32_t>(a)); }
  static Float join(Int h, Int l) {
    return static_cast<float>(256.0 * static_cast<std::int32_t>(h) + static_cast<std::int32_t>(l));
  }
  static Float fma(Float a, Float b, Float c) { return exact_fma(a, b, c); }
  static Float fnma(Float a, Float b, Float c) { return fma(-a, b, c); }
  static Float mul(Float a, Float b) { return a * b; }
  static Float addf(Float a, Float b) { return a + b; }
  static Float relu(Float y) { return y <= 0.0f ? 0.0f : y; }
  static Int dot_pairs(Int acc, std::int32_t pair, const std::uint8_t* bytes) {
    std::int16_t sums[2];
    std::memcpy(sums, &pair, sizeof sums);
    return acc + set1(sums[0]) * bytes[0] + set1(sums[1]) * bytes[1];
  }
  static void store(float* dst, Float y, std::int64_t) { *dst = y; }

  template <Codes kCodes>
  static void add_lines(Int (&sums)[1][1][16], const std::int8_t* const (&rows)[1], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t, std::int64_t quads, std::int64_t) {
    add_row<kCodes>(sums[0][0], rows[0] + k, lines, quads);
  }
  template <Codes kCodes>
  static void add_lines(Int (&sums)[2][1][16], const std::int8_t* const (&rows)[2], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t, std::int64_t quads, std::int64_t) {
    add_row<kCodes>(sums[0][0], rows[0] + k, lines, quads);
    add_row<kCodes>(sums[1][0], rows[1] + k, lines, quads);
  }

  template <Codes kCodes>
  static void add_row(Int (&sums)[16], const std::int8_t* a, const std::uint8_t* lines, std::int64_t quads) {
    for (std::int64_t line = 0; line < 4 * quads; ++line, a += 4, lines += kGroupedLineBytes) {
      for (int j = 0; j < 16; ++j) {
        for (int i = 0; i < 4; ++i) {
          const std::uint32_t byte = lines[4 * j + i];
          const std::uint32_t code = kCodes == Codes::kBytes        ? byte
                                     : kCodes == Codes::kLowNibbles ? byte & 15
                                                                    : byte >> 4;
          sums[j] += set1(a[i]) * code;
        }
      }
    }
  }
};

}  // namespace

extern const GroupedKernel grouped_scalar;
constexpr GroupedKernel grouped_scalar = grouped_kernel<ScalarGrouped>(3e3);

}  // namespace octavo
