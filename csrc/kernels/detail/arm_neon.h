// What the Arm kernels share: a row's range, quantizing sixteen floats, and finishing int32 sums. Advanced SIMD of any
// AArch64 CPU. Included per kernel file; everything is in an anonymous namespace.
//
// Integers that may wrap are uint32 here: GCC writes some signed intrinsics as plain vector additions, whose overflow
// it may assume away.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// Keeps multiply instructions in the order written: one lhs vector at a time. GCC 12 otherwise gathers loads in front,
// needs more than 32 registers and spills a third of the accumulators in the inner loop; Clang 14 needs no telling.
template <class Vector>
inline Vector in_order(Vector v) {
  __asm__ volatile("" : "+w"(v));
  return v;
}

// The parameters of a row, from min(x, 0) and max(x, 0). FMIN and FMAX return NaN where either operand is NaN (MINPS
// and MAXPS do not), so a NaN anywhere in the row arrives at the end, and infinity does so by its size: no separate
// maximum of |x| is needed, and both schemes read the row in the same way.
inline RowQuant choose_row_quant(const float* x, std::int64_t k, bool asymmetric) {
  constexpr int kChains = 4;  // independent chains hide the latency
  float32x4_t lo[kChains], hi[kChains];
  unrolled<kChains>([&](auto c) { lo[c] = hi[c] = vdupq_n_f32(0.0f); });
  const auto take = [&](auto chain, float32x4_t v) {
    lo[chain] = vminq_f32(lo[chain], v);
    hi[chain] = vmaxq_f32(hi[chain], v);
  };
  std::int64_t i = 0;
  for (; i + 4 * kChains <= k; i += 4 * kChains) {
    unrolled<kChains>([&](auto c) { take(c, vld1q_f32(x + i + 4 * c)); });
  }
  for (; i < k; ++i) take(Index<0>{}, vdupq_n_f32(x[i]));
  unrolled<kChains - 1>([&](auto c) {
    lo[0] = vminq_f32(lo[0], lo[c + 1]);
    hi[0] = vmaxq_f32(hi[0], hi[c + 1]);
  });
  const float row_lo = vminvq_f32(lo[0]), row_hi = vmaxvq_f32(hi[0]);
  const std::uint32_t lo_bits = bits_from_float(row_lo) & 0x7fffffffu, hi_bits = bits_from_float(row_hi) & 0x7fffffffu;
  const std::uint32_t max_abs_bits = lo_bits > hi_bits ? lo_bits : hi_bits;
  return asymmetric ? row_quant_asymmetric(max_abs_bits, row_lo, row_hi) : row_quant_symmetric(max_abs_bits);
}

// Sixteen floats of a row to sixteen int8. |x * inverse| is at most 255 and a little, since |x| is at most the row's
// range: int16 holds it, and narrowing q + z with saturation to int8 is clamping to -128 - z .. 127 - z before z is
// added. FCVTNS rounds half to even.
struct RowQuantizer {
  float32x4_t inverse;
  int16x8_t zero_point;

  explicit RowQuantizer(const RowQuant& rq)
      : inverse(vdupq_n_f32(rq.inverse)), zero_point(vdupq_n_s16(static_cast<std::int16_t>(rq.zero_point))) {}

  int16x8_t eight(const float* x) const {
    const int32x4_t first = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x), inverse));
    const int32x4_t last = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + 4), inverse));
    const int16x8_t low_halves = vuzp1q_s16(vreinterpretq_s16_s32(first), vreinterpretq_s16_s32(last));
    return vaddq_s16(low_halves, zero_point);
  }

  int8x16_t operator()(const float* x) const { return vqmovn_high_s16(vqmovn_s16(eight(x)), eight(x + 8)); }
};

// All ones in the first n of 16 bytes, 0 <= n <= 16.
inline uint8x16_t first_bytes(std::int64_t n) {
  alignas(16) static constexpr std::uint8_t kByte[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return vcltq_u8(vld1q_u8(kByte), vdupq_n_u8(static_cast<std::uint8_t>(n)));
}

// Finishes `rows` rows of sums, acc[row][16], into columns col0 .. col0 + 15 of the block, or as many as it has.
class Finisher {
 public:
  Finisher(const GemmBlock& block, std::int64_t col0) : block_(block), col0_(col0) {}

  void operator()(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows) const {
    if (block_.epilogue.kind == DstKind::kFloat32) {
      finish_rows<true>(acc, row0, rows);
    } else {
      finish_rows<false>(acc, row0, rows);
    }
  }

 private:
  static constexpr int kQuads = 4;  // vectors of 4 columns

  struct Quads {
    uint32x4_t v[kQuads];
  };

  // A panel's columns of an array, which holds a multiple of 16; zeros where there is no array.
  template <class T>
  Quads columns(const T* array) const {
    Quads quads;
    unrolled<kQuads>([&](auto q) {
      quads.v[q] =
          array == nullptr ? vdupq_n_u32(0) : vld1q_u32(reinterpret_cast<const std::uint32_t*>(array) + col0_ + 4 * q);
    });
    return quads;
  }

  // FMAX takes +0 before -0 and hands on NaN, which is what relu asks for.
  template <bool kFloat>
  void finish_rows(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows) const {
    const Epilogue& e = block_.epilogue;
    const std::int64_t cols = block_.cols - col0_;
    const bool has_bias = kFloat && e.bias != nullptr;
    const Quads rhs_sum = columns(e.lhs_zero_point != nullptr ? e.rhs_sum : nullptr);
    const Quads rhs_zero_point = columns(kFloat ? nullptr : e.rhs_zero_point);
    const Quads rhs_scale = columns(kFloat ? e.rhs_scale : nullptr), bias = columns(has_bias ? e.bias : nullptr);
    std::uint32_t* dst = static_cast<std::uint32_t*>(block_.dst) + row0 * block_.dst_stride + col0_;
    for (std::int64_t m = row0; m < row0 + rows; ++m, acc += 4 * kQuads, dst += block_.dst_stride) {
      Quads sums;
      unrolled<kQuads>([&](auto q) { sums.v[q] = vld1q_u32(acc + 4 * q); });
      if (e.lhs_zero_point != nullptr) {
        const auto z = static_cast<std::uint32_t>(e.lhs_zero_point[m]);
        unrolled<kQuads>([&](auto q) { sums.v[q] = vmlsq_n_u32(sums.v[q], rhs_sum.v[q], z); });
      }
      if constexpr (kFloat) {
        const float lhs_scale = e.lhs_scale[m];
        unrolled<kQuads>([&](auto q) {
          const float32x4_t scale = vmulq_n_f32(vreinterpretq_f32_u32(rhs_scale.v[q]), lhs_scale);
          float32x4_t y = vmulq_f32(vcvtq_f32_s32(vreinterpretq_s32_u32(sums.v[q])), scale);
          if (has_bias) y = vaddq_f32(y, vreinterpretq_f32_u32(bias.v[q]));
          if (e.relu) y = vmaxq_f32(y, vdupq_n_f32(0.0f));
          sums.v[q] = vreinterpretq_u32_f32(y);
        });
      } else if (e.rhs_zero_point != nullptr) {
        const auto lhs_sum = static_cast<std::uint32_t>(e.lhs_sum[m]);
        unrolled<kQuads>([&](auto q) { sums.v[q] = vmlsq_n_u32(sums.v[q], rhs_zero_point.v[q], lhs_sum); });
      }
      put(dst, sums, cols);
    }
  }

  static void put(std::uint32_t* dst, const Quads& row, std::int64_t cols) {
    if (cols >= 4 * kQuads) {
      unrolled<kQuads>([&](auto q) { vst1q_u32(dst + 4 * q, row.v[q]); });
    } else {
      std::uint32_t whole[4 * kQuads];
      unrolled<kQuads>([&](auto q) { vst1q_u32(whole + 4 * q, row.v[q]); });
      std::memcpy(dst, whole, static_cast<std::size_t>(cols) * sizeof *dst);
    }
  }

  const GemmBlock& block_;
  std::int64_t col0_;
};

}  // namespace
}  // namespace octavo
