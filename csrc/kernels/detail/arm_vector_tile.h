// The register tile of SDOT and SMMLA. Both multiply 16 bytes of lhs with 16 bytes of rhs into 4 int32, which is R
// vectors by C / 2 vectors into R * C / 2 accumulators:
//
//       lhs a0 .. a5      6 vectors, one at a time
//       rhs b0 .. b3      8 columns
//       24 accumulators + 4 rhs leave 4 registers for lhs vectors under way
//
// A step of 8 k is 24 multiply instructions for 10 loads.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/detail/arm_gemm.h"
#include "kernels/detail/unroll.h"

namespace octavo {
namespace {

// The side with fewer vectors is held in registers while the other passes by. Isa gives multiply_add(acc, lhs, rhs) and
// put_columns(acc, left, right, first): accumulators of columns 0, 1 and of columns 2, 3, put in order into their rows
// of acc.
template <class Isa, int R, int kCols, bool kPrefetch>
[[gnu::flatten, gnu::noinline]] void multiply_vectors(const std::int8_t* a, const std::int8_t* b, std::int64_t steps,
                                                      std::uint32_t* acc, bool first) {
  constexpr int kV = kCols / 2;
  int32x4_t sums[R][kV];
  unrolled<R>([&](auto r) { unrolled<kV>([&](auto v) { sums[r][v] = vdupq_n_s32(0); }); });
  const auto multiply_add = [&](auto r, auto v, int8x16_t lhs, int8x16_t rhs) {
    sums[r][v] = in_order(Isa::multiply_add(sums[r][v], lhs, rhs));
  };
  for (; steps > 0; --steps) {
    unrolled<2>([&](auto) {
      if constexpr (kPrefetch) prefetch_group(b);
      int8x16_t held[R < kV ? R : kV];
      if constexpr (R < kV) {
        unrolled<R>([&](auto r) { held[r] = in_order(vld1q_s8(a + r * kVectorBytes)); });
        unrolled<kV>([&](auto v) {
          const int8x16_t rhs = vld1q_s8(b + v * kVectorBytes);
          unrolled<R>([&](auto r) { multiply_add(r, v, held[r], rhs); });
        });
      } else {
        unrolled<kV>([&](auto v) { held[v] = in_order(vld1q_s8(b + v * kVectorBytes)); });
        unrolled<R>([&](auto r) {
          const int8x16_t lhs = vld1q_s8(a + r * kVectorBytes);
          unrolled<kV>([&](auto v) { multiply_add(r, v, lhs, held[v]); });
        });
      }
      a += R * kVectorBytes;
      b += kGroupBytes;
    });
  }
  unrolled<R>([&](auto r) {
    unrolled<kV / 2>([&](auto pair) {
      std::uint32_t* dst = acc + r * Isa::kRowsPerVector * kNr + 4 * pair;
      Isa::put_columns(dst, sums[r][2 * pair], sums[r][2 * pair + 1], first);
    });
  });
}

// Gives an Isa its multiply.
template <class Isa>
struct VectorTile {
  template <int R, int kCols, bool kPrefetch>
  static void multiply(const std::int8_t* a, const std::int8_t* b, std::int64_t steps, std::uint32_t* acc, bool first) {
    multiply_vectors<Isa, R, kCols, kPrefetch>(a, b, steps, acc, first);
  }
};

}  // namespace
}  // namespace octavo
