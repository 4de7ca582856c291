// SIMD128 of WebAssembly: I32X4.DOT_I16X8_S.
//
//       rhs vector     c0: k0..k3 | c1 | c2 | c3            16 int8, one load
//       EXTEND         c0: k0..k3 | c1: k0..k3    c2 | c3   int16, twice 8, for all rows of the tile
//       lhs vector     k0..k3 | k0..k3                      int16, one load that repeats
//       DOT            c0: k0+k1, k2+k3 | c1: k0+k1, k2+k3  int32, then added to the accumulator
//
// Exact for every int8 value: a sum of two products is at most 2^15. 64 multiply-adds of a tile take 23 instructions.
#include <cstdint>

#include "base/features.h"
#include "kernels/detail/wasm_gemm.h"

namespace octavo {
namespace {

struct Wasm128 {
  // int8 to int16 in place, from the end.
  static void spread(std::int8_t* row, std::int64_t values) {
    for (std::int64_t i = values - 8; i >= 0; i -= 8) wasm_v128_store(row + 2 * i, wasm_i16x8_load8x8(row + i));
  }

  template <int kRows>
  static void multiply(const std::int8_t* a, std::int64_t stride, const std::int8_t* b, std::int64_t groups,
                       std::uint32_t* acc) {
    v128_t sums[kRows][2];
    unrolled<kRows>([&](auto r) { sums[r][0] = sums[r][1] = wasm_i32x4_splat(0); });
    for (std::int64_t g = 0; g < groups; ++g, a += 2 * kKr, b += kNr * kKr) {
      const v128_t line = wasm_v128_load(b);
      const v128_t low = wasm_i16x8_extend_low_i8x16(line), high = wasm_i16x8_extend_high_i8x16(line);
      unrolled<kRows>([&](auto r) {
        const v128_t x = wasm_v128_load64_splat(a + r * stride);
        sums[r][0] = wasm_i32x4_add(sums[r][0], wasm_i32x4_dot_i16x8(low, x));
        sums[r][1] = wasm_i32x4_add(sums[r][1], wasm_i32x4_dot_i16x8(high, x));
      });
    }
    unrolled<kRows>([&](auto r) {
      const v128_t even = wasm_i32x4_shuffle(sums[r][0], sums[r][1], 0, 2, 4, 6);
      wasm_v128_store(acc + r * kNr, wasm_i32x4_add(even, wasm_i32x4_shuffle(sums[r][0], sums[r][1], 1, 3, 5, 7)));
    });
  }
};

}  // namespace

extern const Kernel kernel_wasm128;
constexpr Kernel kernel_wasm128 = wasm_kernel<Wasm128>("wasm128", kFeatureSimd128, 1e4);

}  // namespace octavo
