// Advanced SIMD with dot products, grouped codes: SDOT.
//
//       rhs vector      c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | c2 | c3             a quarter of a line
//       lhs vector          k0 k1 k2 k3 |     k0 k1 k2 k3 | .. | ..             one row's 4 k
//       SDOT            c0              | c1              | c2 | c3             4 x int32
//
// A tile is 4 rows by 1 panel: 16 sums, 4 codes and the rows; floats are touched once a group.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/detail/arm_grouped.h"

namespace octavo {
namespace {

struct NeondotGrouped : ArmGrouped {
  static constexpr int kMr = 4, kTallestTile = kMr;

  template <Codes kCodes, int R, int P>
  static void add_lines(Int (&sums)[R][P][4], const std::int8_t* const (&rows)[R], std::int64_t k,
                        const std::uint8_t* lines, std::int64_t, std::int64_t quads, std::int64_t) {
    static_assert(P == 1);
    for (std::int64_t i = 0; i < 4 * quads; ++i, lines += kGroupedLineBytes) {
      int8x16_t b[4];
      unrolled<4>([&](auto v) { b[v] = codes<kCodes>(lines + 16 * v); });
      unrolled<R>([&](auto r) {
        const int8x16_t row = vreinterpretq_s8_s32(vdupq_n_s32(read_as<std::int32_t>(rows[r] + k + 4 * i)));
        unrolled<4>([&](auto v) { sums[r][0][v] = vdotq_s32(sums[r][0][v], b[v], row); });
      });
    }
  }
};

}  // namespace

extern const GroupedKernel grouped_neondot;
constexpr GroupedKernel grouped_neondot = grouped_kernel<NeondotGrouped>(7e4);

}  // namespace octavo
