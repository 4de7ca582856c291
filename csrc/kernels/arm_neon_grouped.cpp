// Advanced SIMD, grouped codes: SMULL and SADALP.
//
//       rhs vector      c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | c2 | c3             a quarter of a line
//       lhs vector          k0 k1 k2 k3 |     k0 k1 k2 k3                       one row's 4 k, twice
//       SMULL           c0: 4 products | c1: 4 products                         int16; SMULL2 the same of c2 and c3
//       SADALP          c0: k01 | k23 | c1: k01 | k23                           int32, joined by ADDP once a group
//
// A product is at most 2^14, which int16 holds. A tile is 2 rows by 1 panel: 16 accumulators, 4 codes and the rows.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/detail/arm_grouped.h"

namespace octavo {
namespace {

struct NeonGrouped : ArmGrouped {
  static constexpr int kMr = 2, kTallestTile = kMr;

  template <Codes kCodes, int R, int P>
  static void add_lines(Int (&sums)[R][P][4], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t, std::int64_t quads, std::int64_t) {
    static_assert(P == 1);
    int32x4_t parts[R][8];
    unrolled<R>([&](auto r) { unrolled<8>([&](auto v) { parts[r][v] = zero(); }); });
    for (std::int64_t i = 0; i < 4 * quads; ++i, lines += kGroupedLineBytes) {
      int8x16_t b[4];
      unrolled<4>([&](auto v) { b[v] = codes<kCodes>(lines + 16 * v); });
      unrolled<R>([&](auto r) {
        const int8x16_t row = vreinterpretq_s8_s32(vdupq_n_s32(read_as<std::int32_t>(rows[r] + k + 4 * i)));
        unrolled<4>([&](auto v) {
          parts[r][2 * v] = vpadalq_s16(parts[r][2 * v], vmull_s8(vget_low_s8(b[v]), vget_low_s8(row)));
          parts[r][2 * v + 1] = vpadalq_s16(parts[r][2 * v + 1], vmull_high_s8(b[v], row));
        });
      });
    }
    unrolled<R>([&](auto r) {
      unrolled<4>(
          [&](auto v) { sums[r][0][v] = vaddq_s32(sums[r][0][v], vpaddq_s32(parts[r][2 * v], parts[r][2 * v + 1])); });
    });
  }
};

}  // namespace

extern const GroupedKernel grouped_neon;
constexpr GroupedKernel grouped_neon = grouped_kernel<NeonGrouped>(2e4);

}  // namespace octavo
