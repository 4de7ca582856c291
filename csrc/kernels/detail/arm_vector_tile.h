// The register tile of SDOT and SMMLA. Both multiply 16 bytes of lhs with 16 bytes of rhs into 4 int32, which is R vectors
// by C / 2 vectors into R * C / 2 accumulators:
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

// Isa gives multiply_add(acc, a, b) and put_columns(acc, left, right, first): two accumulators, for columns 0, 1 and 2, 3, put in
// order into their rows of acc.
template <class Isa, int R, int kCols, bool kPrefetch>
[[gnu::flatten, gnu::noinline]] void multiply_vectors(const std::int8_t* a, const std::int8_t* b, std::int64_t steps, std::uint32_t* acc, bool first) {
  constexpr int kV = kCols / 2;
  int32x4_t sums[R][kV];
  unrolled<R>([&](auto r) { unrolled<kV>([&](auto v) { sums[r][v] = vdupq_n_s32(0); }); });
  for (; steps > 0; --steps, a += 2 * R * kVectorBytes, b += 2 * kGroupBytes) {
    unrolled<2>([&](auto group) {
      const std::int8_t* line = b + group * kGroupBytes;
      if constexpr (kPrefetch) prefetch_group(line);
      const std::int8_t* rows = a + group * R * kVectorBytes;
      if constexpr (R < kV) {
        int8x16_t lhs[R];
        unrolled<R>([&](auto r) { lhs[r] = vld1q_s8(rows + r * kVectorBytes); });
        unrolled<kV>([&](auto v) {
          const int8x16_t rhs = vld1q_s8(line + v * kVectorBytes);
          unrolled<R>([&](auto r) { sums[r][v] = in_order(Isa::multiply_add(sums[r][v], lhs[r], rhs)); });
        });
      } else {
        int8x16_t rhs[kV];
        unrolled<kV>([&](auto v) { rhs[v] = in_order(vld1q_s8(line + v * kVectorBytes)); });
        unrolled<(R + 1) / 2>([&](auto pair) {
          constexpr int kRows = 2 * pair + 1 < R ? 2 : 1;
          int8x16_t lhs[kRows];
          unrolled<kRows>([&](auto i) { lhs[i] = vld1q_s8(rows + (2 * pair + i) * kVectorBytes); });
          unrolled<kRows>([&](auto i) {
            unrolled<kV>([&](auto v) {
              constexpr int r = 2 * pair + i;
              sums[r][v] = in_order(Isa::multiply_add(sums[r][v], lhs[i], rhs[v]));
            });
          });
        });
      }
    });
  }
  unrolled<R>([&](auto r) {
    unrolled<kV / 2>([&](auto pair) {
      std::uint32_t* dst = acc + r * Isa::kRowsPerVector * kNr + 4 * pair;
      Isa::put_columns(dst, sums[r][2 * pair], sums[r][2 * pair + 1], first);
    });
  });
}

}  // namespace
}  // namespace octavo
