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

// Isa gives multiply_add(acc, a, b) and store_sums<R, V>(sums, acc, first), which puts the accumulators in order.
template <class Isa, int R, int kCols, bool kPrefetch>
inline void multiply_vectors(const std::int8_t* a, const std::int8_t* b, std::int64_t steps, std::uint32_t* acc, bool first) {
  constexpr int kV = kCols / 2;
  int32x4_t sums[R][kV];
  unrolled<R>([&](auto r) { unrolled<kV>([&](auto v) { sums[r][v] = vdupq_n_s32(0); }); });
  for (; steps > 0; --steps, a += 2 * R * kVectorBytes, b += 2 * kGroupBytes) {
    unrolled<2>([&](auto group) {
      const std::int8_t* line = b + group * kGroupBytes;
      if constexpr (kPrefetch) {
        __builtin_prefetch(line + kPrefetchBytes);
        __builtin_prefetch(line + kPrefetchBytes + 64);
      }
      int8x16_t rhs[kV];
      unrolled<kV>([&](auto v) { rhs[v] = vld1q_s8(line + v * kVectorBytes); });
      unrolled<R>([&](auto r) {
        const int8x16_t lhs = vld1q_s8(a + (group * R + r) * kVectorBytes);
        unrolled<kV>([&](auto v) { sums[r][v] = Isa::multiply_add(sums[r][v], lhs, rhs[v]); });
      });
    });
  }
  unrolled<R>([&](auto r) { Isa::template store_sums<kV>(sums[r], acc + r * Isa::kRowsPerVector * kNr, first); });
}

}  // namespace
}  // namespace octavo
