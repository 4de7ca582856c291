// Advanced SIMD of every AArch64 CPU: SMULL and SADALP.
//
//       lhs vector     k0..k7 | k0..k7                    one row's 8 k, twice
//       rhs vector     c0: k0..k7 | c1: k0..k7
//       SMULL          c0: 8 products as int16            SMULL2 the same for c1
//       SADALP         c0: 4 sums of two as int32         the accumulator; another for c1
//
// Exact for every int8 value: a product is at most 2^14, which int16 holds, and SADALP adds in int32. (Adding a second
// product in int16, with SMLAL, would overflow at -128 * -128 twice. It saves a quarter of the instructions and, by
// llvm-mca, a tenth of the time on a Cortex-A53 and none on the wider cores, whose long multiplications are the bound.)
//
// A tile is 4 rows by 4 columns: 16 accumulators, 8 products under way, 4 lhs and 1 rhs vectors. ADDP joins the four
// lanes of an accumulator once at the end.
#include <arm_neon.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/arm_gemm.h"
#include "kernels/detail/arm_int4.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

struct Neon : OneRowAVector {
  static constexpr int kTileVectors = 4;
  static constexpr int kTileCols = 4;
  static constexpr int kGemvVectors = 1;
  static constexpr double kMultiplyAddsPerUs = 2e4;

  // Up to eight long multiplications go first, then the additions of their results: an in-order core would wait between
  // the two (2.2 times as long, by llvm-mca for a Cortex-A53).
  template <int R, int kCols, bool kPrefetch>
  [[gnu::flatten, gnu::noinline]] static void multiply(const std::int8_t* a, const std::int8_t* b, std::int64_t steps,
                                                       std::uint32_t* acc, bool first) {
    constexpr int kVectors = kCols / 2;
    constexpr int kBatch = 4 / R < kVectors ? 4 / R : kVectors;
    int32x4_t sums[R][kCols];
    unrolled<R>([&](auto r) { unrolled<kCols>([&](auto c) { sums[r][c] = vdupq_n_s32(0); }); });
    for (std::int64_t group = 0; group < 2 * steps; ++group, a += R * kVectorBytes, b += kGroupBytes) {
      if constexpr (kPrefetch) prefetch_group(b);
      int8x16_t lhs[R];
      unrolled<R>([&](auto r) { lhs[r] = vld1q_s8(a + r * kVectorBytes); });
      unrolled<kVectors / kBatch>([&](auto batch) {
        constexpr int kFirst = batch * kBatch;
        int8x16_t rhs[kBatch];
        int16x8_t products[R][2 * kBatch];
        unrolled<kBatch>([&](auto v) { rhs[v] = vld1q_s8(b + (kFirst + v) * kVectorBytes); });
        unrolled<R>([&](auto r) {
          unrolled<kBatch>([&](auto v) {
            products[r][2 * v] = in_order(vmull_s8(vget_low_s8(lhs[r]), vget_low_s8(rhs[v])));
            products[r][2 * v + 1] = in_order(vmull_high_s8(lhs[r], rhs[v]));
          });
        });
        unrolled<R>([&](auto r) {
          unrolled<2 * kBatch>([&](auto c) {
            int32x4_t& sum = sums[r][2 * kFirst + c];
            sum = in_order(vpadalq_s16(sum, products[r][c]));
          });
        });
      });
    }
    unrolled<R>([&](auto r) {
      unrolled<kCols / 4>([&](auto quad) {
        const int32x4_t left = vpaddq_s32(sums[r][4 * quad], sums[r][4 * quad + 1]);
        const int32x4_t right = vpaddq_s32(sums[r][4 * quad + 2], sums[r][4 * quad + 3]);
        put_sums(acc + r * kNr + 4 * quad, vreinterpretq_u32_s32(vpaddq_s32(left, right)), first);
      });
    });
  }
};

constexpr Int4Kernel int4_neon = arm_int4_kernel<Neon>();

}  // namespace

extern const GroupedKernel grouped_neon;
extern const IntegerKernel integer_scalar;
extern const FunctionKernel functions_neon;
extern const Kernel kernel_neon;
constexpr Kernel kernel_neon =
    arm_kernel<Neon>("neon", kFeatureNeon, &int4_neon, &integer_scalar, {2, 3, 8, 8, 15}, &grouped_neon,
                     &functions_neon);

}  // namespace octavo
