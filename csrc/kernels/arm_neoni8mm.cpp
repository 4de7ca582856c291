// Armv8.6 int8 matrix multiplication: SMMLA, two rows by two columns by 8 k in one instruction.
//
// Exact for every int8 value: SMMLA adds eight products of at most 2^14 to an int32 lane and nothing in between.
//
//       lhs vector     r0: k0..k7 | r1: k0..k7
//       rhs vector     c0: k0..k7 | c1: k0..k7
//       accumulator    r0c0 | r0c1 | r1c0 | r1c1
//
// A tile is 12 rows by 8 columns. One row costs as much as two, but no more instructions than SDOT would take, so gemv
// is the same loop with a second row of zeros.
#include <arm_neon.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/arm_gemm.h"
#include "kernels/detail/arm_int4.h"
#include "kernels/detail/arm_vector_tile.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

struct I8mm : VectorTile<I8mm> {
  static constexpr int kRowsPerVector = 2;
  static constexpr int kTileVectors = 6;
  static constexpr int kTileCols = 8;
  static constexpr int kGemvVectors = 2;
  static constexpr double kMultiplyAddsPerUs = 1.5e5;

  static void store(std::int8_t* dst, std::int64_t stride, int8x16_t q) {
    vst1_s8(dst, vget_low_s8(q));
    vst1_s8(dst + stride, vget_high_s8(q));
  }

  static int32x4_t multiply_add(int32x4_t acc, int8x16_t lhs, int8x16_t rhs) { return vmmlaq_s32(acc, lhs, rhs); }

  static void put_columns(std::uint32_t* acc, int32x4_t left, int32x4_t right, bool first) {
    const uint64x2_t columns_01 = vreinterpretq_u64_s32(left), columns_23 = vreinterpretq_u64_s32(right);
    put_sums(acc, vreinterpretq_u32_u64(vzip1q_u64(columns_01, columns_23)), first);
    put_sums(acc + kNr, vreinterpretq_u32_u64(vzip2q_u64(columns_01, columns_23)), first);
  }
};

constexpr Int4Kernel int4_neoni8mm = arm_int4_kernel<I8mm>();

}  // namespace

extern const IntegerKernel integer_scalar;
extern const Kernel kernel_neoni8mm;
constexpr Kernel kernel_neoni8mm =
    arm_kernel<I8mm>("neoni8mm", kFeatureI8mm, &int4_neoni8mm, &integer_scalar, {15, 20, 60, 60, 100});

}  // namespace octavo
