// Advanced SIMD of every AArch64 CPU: SMULL, SMLAL and SADALP.
//
//       lhs vector     k0..k7 | k0..k7                    one row's 8 k, twice
//       rhs vector     c0: k0..k7 | c1: k0..k7
//       SMULL          c0: 8 products as int16            the next 8 k follow with SMLAL
//       SADALP         c0: 4 sums of pairs as int32       the accumulator; SMULL2 and SMLAL2 serve c1
//
// Exact: a product is at most 2^14, so int16 holds one always, and two unless all four factors are -128 (2^15 is one too many).
// A lhs without -128 takes three instructions for 16 multiply-adds; one with -128 adds each product by itself, with four.
// Symmetric quantization gives no -128; packing integers looks for it; asymmetric quantization nearly always has one.
//
// A tile is 4 rows by 4 columns: 16 accumulators, 4 rhs vectors, lhs and products in the rest. ADDP joins the lanes at the end.
#include <arm_neon.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/arm_gemm.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

template <bool kHasLowest>
struct Neon {
  static constexpr int kRowsPerVector = 1;
  static constexpr int kTileVectors = 4;
  static constexpr int kTileCols = 4;
  static constexpr int kGemvVectors = 1;

  static void store(std::int8_t* dst, std::int64_t stride, int8x16_t q) {
    vst1q_s8(dst, vcombine_s8(vget_low_s8(q), vget_low_s8(q)));
    vst1q_s8(dst + stride, vcombine_s8(vget_high_s8(q), vget_high_s8(q)));
  }

  // Two vectors, which follow each other in K, of a row and of a column each. Half 0 is the first column, 1 the second.
  template <int kHalf>
  static int32x4_t multiply_add(int32x4_t sum, const int8x16_t (&lhs)[2], const int8x16_t (&rhs)[2]) {
    int16x8_t products;
    if constexpr (kHalf == 0) {
      products = vmull_s8(vget_low_s8(lhs[0]), vget_low_s8(rhs[0]));
      if constexpr (!kHasLowest) return vpadalq_s16(sum, vmlal_s8(products, vget_low_s8(lhs[1]), vget_low_s8(rhs[1])));
      sum = vpadalq_s16(sum, products);
      products = vmull_s8(vget_low_s8(lhs[1]), vget_low_s8(rhs[1]));
    } else {
      products = vmull_high_s8(lhs[0], rhs[0]);
      if constexpr (!kHasLowest) return vpadalq_s16(sum, vmlal_high_s8(products, lhs[1], rhs[1]));
      sum = vpadalq_s16(sum, products);
      products = vmull_high_s8(lhs[1], rhs[1]);
    }
    return vpadalq_s16(sum, products);
  }

  template <int R, int kCols, bool kPrefetch>
  static void multiply(const std::int8_t* a, const std::int8_t* b, std::int64_t steps, std::uint32_t* acc, bool first) {
    int32x4_t sums[R][kCols];
    unrolled<R>([&](auto r) { unrolled<kCols>([&](auto c) { sums[r][c] = vdupq_n_s32(0); }); });
    for (; steps > 0; --steps, a += 2 * R * kVectorBytes, b += 2 * kGroupBytes) {
      if constexpr (kPrefetch) unrolled<4>([&](auto line) { __builtin_prefetch(b + kPrefetchBytes + 64 * line); });
      int8x16_t lhs[R][2];
      unrolled<R>([&](auto r) {
        unrolled<2>([&](auto group) { lhs[r][group] = vld1q_s8(a + (group * R + r) * kVectorBytes); });
      });
      unrolled<kCols / 2>([&](auto v) {
        const std::int8_t* at = b + v * kVectorBytes;
        const int8x16_t rhs[2] = {vld1q_s8(at), vld1q_s8(at + kGroupBytes)};
        unrolled<R>([&](auto r) {
          sums[r][2 * v] = multiply_add<0>(sums[r][2 * v], lhs[r], rhs);
          sums[r][2 * v + 1] = multiply_add<1>(sums[r][2 * v + 1], lhs[r], rhs);
        });
      });
    }
    unrolled<R>([&](auto r) {
      unrolled<kCols / 4>([&](auto quad) {
        const int32x4_t* s = sums[r] + 4 * quad;
        const int32x4_t columns = vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
        put_sums(acc + r * kNr + 4 * quad, vreinterpretq_u32_s32(columns), first);
      });
    });
  }
};

using Plain = Neon<false>;
using Lowest = Neon<true>;

// The packed lhs begins with a line of its own, whose first byte says whether a -128 may follow.
constexpr std::int64_t kHeaderBytes = 64;

std::int64_t lhs_bytes_with_header(std::int64_t rows, std::int64_t k) { return kHeaderBytes + lhs_bytes<Plain>(rows, k); }

void* after_header(void* lhs, bool has_lowest) {
  *static_cast<bool*>(lhs) = has_lowest;
  return static_cast<std::int8_t*>(lhs) + kHeaderBytes;
}

void quantize_lhs_with_header(const QuantizeLhs& task) {
  QuantizeLhs body = task;
  body.dst = after_header(task.dst, task.asymmetric);
  quantize_lhs<Plain>(body);
}

bool contains_lowest(const PackLhs& task) {
  const std::uint8_t lowest = static_cast<std::uint8_t>(0x80 ^ task.flip);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    uint8x16_t found = vdupq_n_u8(0);
    std::int64_t i = 0;
    for (; i + 16 <= task.k; i += 16) found = vorrq_u8(found, vceqq_u8(vld1q_u8(x + i), vdupq_n_u8(lowest)));
    bool any = vmaxvq_u8(found) != 0;
    for (; i < task.k; ++i) any |= x[i] == lowest;
    if (any) return true;
  }
  return false;
}

void pack_lhs_with_header(const PackLhs& task) {
  PackLhs body = task;
  body.dst = after_header(task.dst, contains_lowest(task));
  pack_lhs<Plain>(body);
}

template <void (*kPlain)(const GemmBlock&), void (*kLowest)(const GemmBlock&)>
void multiply_block(const GemmBlock& block) {
  GemmBlock body = block;
  body.lhs = static_cast<const std::int8_t*>(block.lhs) + kHeaderBytes;
  (*static_cast<const bool*>(block.lhs) ? kLowest : kPlain)(body);
}

constexpr Kernel neon_kernel() {
  Kernel kernel = arm_kernel<Plain>("neon", kFeatureNeon);
  kernel.lhs_bytes = lhs_bytes_with_header;
  kernel.quantize_lhs = quantize_lhs_with_header;
  kernel.pack_lhs = pack_lhs_with_header;
  kernel.gemm = multiply_block<gemm<Plain>, gemm<Lowest>>;
  kernel.gemv = multiply_block<gemv<Plain>, gemv<Lowest>>;
  return kernel;
}

}  // namespace

extern const Kernel kernel_neon;
constexpr Kernel kernel_neon = neon_kernel();

}  // namespace octavo
