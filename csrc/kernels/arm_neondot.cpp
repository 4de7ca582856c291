// Armv8.2 dot products: SDOT, four multiply-adds in each of four int32 lanes.
//
// Exact for every int8 value: SDOT adds four products of at most 2^14 to an int32 lane and nothing in between.
//
//       lhs vector     k0..k3 | k4..k7 | k0..k3 | k4..k7         one row's 8 k, twice
//       rhs vector     c0: k0..k3 | c0: k4..k7 | c1: k0..k3 | c1: k4..k7
//       accumulator    c0 (half)  | c0 (half)  | c1 (half)  | c1 (half)
//
// ADDP joins the halves once at the end. Packing writes the lhs twice, because a load that repeats (LD1R) would take
// one of the pipes that SDOT needs. A tile is 6 rows by 8 columns.
#include <arm_neon.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/arm_gemm.h"
#include "kernels/detail/arm_int4.h"
#include "kernels/detail/arm_vector_tile.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

struct Dotprod : OneRowAVector, VectorTile<Dotprod> {
  static constexpr int kTileVectors = 6;
  static constexpr int kTileCols = 8;
  static constexpr int kGemvVectors = 3;
  static constexpr double kMultiplyAddsPerUs = 7e4;

  static int32x4_t multiply_add(int32x4_t acc, int8x16_t lhs, int8x16_t rhs) { return vdotq_s32(acc, lhs, rhs); }

  static void put_columns(std::uint32_t* acc, int32x4_t left, int32x4_t right, bool first) {
    put_sums(acc, vreinterpretq_u32_s32(vpaddq_s32(left, right)), first);
  }
};

constexpr Int4Kernel int4_neondot = arm_int4_kernel<Dotprod>();

}  // namespace

extern const GroupedKernel grouped_neondot;
extern const IntegerKernel integer_scalar;
extern const Kernel kernel_neondot;
constexpr Kernel kernel_neondot = arm_kernel<Dotprod>("neondot", kFeatureDotprod, &int4_neondot, &integer_scalar,
                                                      {7, 10, 28, 28, 50}, &grouped_neondot);

}  // namespace octavo
