// Relaxed SIMD of WebAssembly: I32X4.RELAXED_DOT_I8X16_I7X16_ADD_S.
//
// The instruction multiplies int8 by int8 and adds four products, but an engine may take the second operand as signed
// or as unsigned and may saturate sums of two products to int16. Both are exact where that operand is 0..127: the sum
// of two is at most 2 * 128 * 127 = 32,512. So an lhs value is split, x = (x & 127) - 128 s with s = 1 where x is
// negative:
//
//       rhs vector     c0: k0..k3 | c1 | c2 | c3            16 int8, one load
//       lhs vectors    x & 127: k0..k3, four times          one load that repeats
//                      s:       k0..k3, four times          another
//       DOT            c0 | c1 | c2 | c3                    int32, the accumulator's addition included
//
// Two of them do all of 4 columns by 4 k. 64 multiply-adds of a tile take 17 instructions.
#include <cstdint>

#include "base/features.h"
#include "kernels/detail/wasm_gemm.h"

namespace octavo {
namespace {

struct WasmRelaxed {
  // x & 127 in the first half of a row, s in the second.
  static void spread(std::int8_t* row, std::int64_t values) {
    for (std::int64_t i = 0; i < values; i += 16) {
      const v128_t x = wasm_v128_load(row + i);
      wasm_v128_store(row + values + i, wasm_u8x16_shr(x, 7));
      wasm_v128_store(row + i, wasm_v128_and(x, wasm_i8x16_splat(127)));
    }
  }

  template <int kRows>
  static void multiply(const std::int8_t* a, std::int64_t stride, const std::int8_t* b, std::int64_t groups,
                       std::uint32_t* acc) {
    v128_t sums[kRows][2];
    unrolled<kRows>([&](auto r) { sums[r][0] = sums[r][1] = wasm_i32x4_splat(0); });
    for (std::int64_t g = 0; g < groups; ++g, a += kKr, b += kNr * kKr) {
      const v128_t line = wasm_v128_load(b);
      unrolled<kRows>([&](auto r) {
        const v128_t low = wasm_v128_load32_splat(a + r * stride);
        const v128_t sign = wasm_v128_load32_splat(a + r * stride + stride / 2);
        sums[r][0] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(line, low, sums[r][0]);
        sums[r][1] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(line, sign, sums[r][1]);
      });
    }
    unrolled<kRows>(
        [&](auto r) { wasm_v128_store(acc + r * kNr, wasm_i32x4_sub(sums[r][0], wasm_i32x4_shl(sums[r][1], 7))); });
  }
};

}  // namespace

extern const Kernel kernel_wasmrelaxed;
constexpr Kernel kernel_wasmrelaxed =
    wasm_kernel<WasmRelaxed>("wasmrelaxed", kFeatureSimd128 | kFeatureRelaxedSimd, 1.5e4);

}  // namespace octavo
