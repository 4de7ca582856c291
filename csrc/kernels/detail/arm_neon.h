// What the Arm kernels share: a row's range, quantizing sixteen floats, and finishing int32 sums. Advanced SIMD of any
// AArch64 CPU. Included per kernel file; everything is in an anonymous namespace.
//
// Integers that may wrap are uint32 here: GCC writes some signed intrinsics as plain vector additions, whose overflow
// it may assume away.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// Keeps multiply instructions in the order written, one lhs vector at a time. Otherwise GCC 12 moves the loads to the
// front, needs more than 32 registers and spills a third of the accumulators in the inner loop. Clang 14 does not.
template <class Vector>
inline Vector in_order(Vector v) {
  __asm__ volatile("" : "+w"(v));
  return v;
}

// Four floats of a row.
inline float32x4_t load_row(const float* x) { return vld1q_f32(x); }
inline float32x4_t load_row(const ScaledRow& row) { return vmulq_f32(vld1q_f32(row.x), vld1q_f32(row.factor)); }

// The parameters of a row, from min(x, 0) and max(x, 0). FMIN and FMAX return NaN where either operand is NaN, which
// MINPS and MAXPS do not, so NaN or infinity anywhere in the row shows in the result. Hence no separate maximum of |x|
// is needed, and both schemes read the row in the same way.
template <class Row>
RowQuant choose_row_quant(const Row& x, const QuantizeLhs& task) {
  const std::int64_t k = task.k;
  constexpr int kChains = 8;  // independent chains hide the latency
  float32x4_t lo[kChains], hi[kChains];
  unrolled<kChains>([&](auto c) { lo[c] = hi[c] = vdupq_n_f32(0.0f); });
  const auto take = [&](auto chain, float32x4_t v) {
    lo[chain] = vminq_f32(lo[chain], v);
    hi[chain] = vmaxq_f32(hi[chain], v);
  };
  std::int64_t i = 0;
  for (; i + 4 * kChains <= k; i += 4 * kChains) {
    unrolled<kChains>([&](auto c) { take(c, load_row(x + (i + 4 * c))); });
  }
  for (; i + 4 <= k; i += 4) take(Index<0>{}, load_row(x + i));
  for (; i < k; ++i) take(Index<0>{}, vdupq_n_f32(x[i]));
  unrolled<kChains - 1>([&](auto c) {
    lo[0] = vminq_f32(lo[0], lo[c + 1]);
    hi[0] = vmaxq_f32(hi[0], hi[c + 1]);
  });
  const float row_lo = vminvq_f32(lo[0]), row_hi = vmaxvq_f32(hi[0]);
  const std::uint32_t lo_bits = bits_from_float(row_lo) & 0x7fffffffu, hi_bits = bits_from_float(row_hi) & 0x7fffffffu;
  const std::uint32_t max_abs_bits = lo_bits > hi_bits ? lo_bits : hi_bits;
  return choose_from_range(task, max_abs_bits, row_lo, row_hi);
}

// int(clamp(rint(x * inverse), lo, hi)) + zero_point. FCVTNS rounds half to even; clamping to whole numbers before it
// gives the same as clamping after it. FMAXNM makes NaN lo.
struct Requantizer {
  float32x4_t inverse, lo, hi;
  int16x8_t zero_point;

  Requantizer(float inverse_, float lo_, float hi_, std::int32_t zero_point_)
      : inverse(vdupq_n_f32(inverse_)),
        lo(vdupq_n_f32(lo_)),
        hi(vdupq_n_f32(hi_)),
        zero_point(vdupq_n_s16(static_cast<std::int16_t>(zero_point_))) {}

  int16x8_t four(float32x4_t x) const {
    const float32x4_t clamped = vminq_f32(vmaxnmq_f32(vmulq_f32(x, inverse), lo), hi);
    return vreinterpretq_s16_s32(vcvtnq_s32_f32(clamped));
  }

  // Low bytes: int8 or uint8, depending on the parameters.
  int8x16_t operator()(float32x4_t x0, float32x4_t x1, float32x4_t x2, float32x4_t x3) const {
    const int16x8_t low = vaddq_s16(vuzp1q_s16(four(x0), four(x1)), zero_point);
    const int16x8_t high = vaddq_s16(vuzp1q_s16(four(x2), four(x3)), zero_point);
    return vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
  }
};

// Sixteen floats of a row to sixteen int8, with fixed parameters.
struct FixedQuantizer {
  Requantizer requantized;

  explicit FixedQuantizer(const RowQuant& rq) : requantized(rq.inverse, rq.lo, rq.hi, rq.zero_point) {}

  template <class Row>
  int8x16_t operator()(const Row& x) const {
    return requantized(load_row(x), load_row(x + 4), load_row(x + 8), load_row(x + 12));
  }
};

// The same with the row's own parameters, in fewer instructions: |x| is at most the row's range, so |x * inverse| is
// hardly more than 255, which int16 holds. Narrowing q + z to int8 with saturation equals clamping q to -128 - z ..
// 127 - z.
struct DynamicQuantizer {
  float32x4_t inverse;
  int16x8_t zero_point;

  explicit DynamicQuantizer(const RowQuant& rq)
      : inverse(vdupq_n_f32(rq.inverse)), zero_point(vdupq_n_s16(static_cast<std::int16_t>(rq.zero_point))) {}

  template <class Row>
  int16x8_t eight(const Row& x) const {
    const int32x4_t first = vcvtnq_s32_f32(vmulq_f32(load_row(x), inverse));
    const int32x4_t last = vcvtnq_s32_f32(vmulq_f32(load_row(x + 4), inverse));
    const int16x8_t low_halves = vuzp1q_s16(vreinterpretq_s16_s32(first), vreinterpretq_s16_s32(last));
    return vaddq_s16(low_halves, zero_point);
  }

  template <class Row>
  int8x16_t operator()(const Row& x) const {
    return vqmovn_high_s16(vqmovn_s16(eight(x)), eight(x + 8));
  }
};

// All ones in the first n of 16 bytes, 0 <= n <= 16.
inline uint8x16_t first_bytes(std::int64_t n) {
  alignas(16) static constexpr std::uint8_t kByte[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return vcltq_u8(vld1q_u8(kByte), vdupq_n_u8(static_cast<std::uint8_t>(n)));
}

// Finishes `rows` rows of sums, acc[row][16], into columns col0 .. col0 + 15 of the block, or as many as it has. The
// kind of result is decided once a tile rather than once a row, because with few k this is a large part of the work.
class Finisher {
 public:
  Finisher(const GemmBlock& block, std::int64_t col0) : block_(block), col0_(col0) {}

  void operator()(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows) const {
    const Epilogue& e = block_.epilogue;
    if (e.kind == DstKind::kInt32) {
      finish_int32(acc, row0, rows);
    } else if (e.kind == DstKind::kByte) {  // no bias is a bias of zeros: the byte is the same for -0 and +0
      e.relu ? finish_float32<true, true, true>(acc, row0, rows) : finish_float32<true, false, true>(acc, row0, rows);
    } else if (e.bias != nullptr) {
      e.relu ? finish_float32<true, true, false>(acc, row0, rows) : finish_float32<true, false, false>(acc, row0, rows);
    } else {
      e.relu ? finish_float32<false, true, false>(acc, row0, rows)
             : finish_float32<false, false, false>(acc, row0, rows);
    }
  }

 private:
  static constexpr int kQuads = 4;  // vectors of 4 columns

  struct Quads {
    uint32x4_t v[kQuads];
    float32x4_t f(int q) const { return vreinterpretq_f32_u32(v[q]); }
  };

  static Quads loaded(const std::uint32_t* at) {
    Quads quads;
    unrolled<kQuads>([&](auto q) { quads.v[q] = vld1q_u32(at + 4 * q); });
    return quads;
  }

  // The panel's columns of an array, which holds a multiple of 16; zeros where there is no array.
  template <class T>
  Quads columns(const T* array) const {
    static constexpr std::uint32_t kZeros[4 * kQuads] = {};
    return loaded(array == nullptr ? kZeros : reinterpret_cast<const std::uint32_t*>(array) + col0_);
  }

  static void subtract_product(Quads& sums, const Quads& columns, std::int32_t row) {
    unrolled<kQuads>(
        [&](auto q) { sums.v[q] = vmlsq_n_u32(sums.v[q], columns.v[q], static_cast<std::uint32_t>(row)); });
  }

  [[gnu::noinline]] void finish_int32(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows) const {
    const Epilogue& e = block_.epilogue;
    const std::int32_t *lhs_zero_point = e.lhs_zero_point, *lhs_sum = e.rhs_zero_point == nullptr ? nullptr : e.lhs_sum;
    const Quads rhs_sum = columns(e.rhs_sum), rhs_zero_point = columns(e.rhs_zero_point);
    for_each_row<std::uint32_t>(acc, row0, rows, [&](Quads& sums, std::int64_t m, std::uint32_t* dst) {
      if (lhs_zero_point != nullptr) subtract_product(sums, rhs_sum, lhs_zero_point[m]);
      if (lhs_sum != nullptr) subtract_product(sums, rhs_zero_point, lhs_sum[m]);
      store(dst, sums);
    });
  }

  // FMAX prefers +0 to -0 and passes NaN on, as relu requires.
  template <bool kBias, bool kRelu, bool kByte>
  [[gnu::noinline]] void finish_float32(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows) const {
    using Dst = std::conditional_t<kByte, std::int8_t, std::uint32_t>;
    const Epilogue& e = block_.epilogue;
    const std::int32_t* lhs_zero_point = e.lhs_zero_point;
    const float* lhs_scale = e.lhs_scale;
    const Quads rhs_sum = columns(e.rhs_sum), rhs_scale = columns(e.rhs_scale), bias = columns(e.bias);
    const Requantizer requantized(e.dst_inverse, e.dst_lo, e.dst_hi, e.dst_zero_point);
    for_each_row<Dst>(acc, row0, rows, [&](Quads& sums, std::int64_t m, Dst* dst) {
      if (lhs_zero_point != nullptr) subtract_product(sums, rhs_sum, lhs_zero_point[m]);
      const float row_scale = lhs_scale[m];
      unrolled<kQuads>([&](auto q) {
        const float32x4_t scale = vmulq_n_f32(rhs_scale.f(q), row_scale);
        float32x4_t y = vmulq_f32(vcvtq_f32_s32(vreinterpretq_s32_u32(sums.v[q])), scale);
        if constexpr (kBias) y = vaddq_f32(y, bias.f(q));
        if constexpr (kRelu) y = vmaxq_f32(y, vdupq_n_f32(0.0f));
        sums.v[q] = vreinterpretq_u32_f32(y);
      });
      if constexpr (kByte) {
        vst1q_s8(dst, requantized(sums.f(0), sums.f(1), sums.f(2), sums.f(3)));
      } else {
        store(dst, sums);
      }
    });
  }

  static void store(std::uint32_t* dst, const Quads& row) {
    unrolled<kQuads>([&](auto q) { vst1q_u32(dst + 4 * q, row.v[q]); });
  }

  // finish(sums, m, dst) writes 16 results: into the block, or beside it where the block has fewer columns left.
  template <class Dst, class Finish>
  void for_each_row(const std::uint32_t* acc, std::int64_t row0, std::int64_t rows, const Finish& finish) const {
    const std::int64_t dst_stride = block_.dst_stride, cols = block_.cols - col0_;
    Dst* dst = static_cast<Dst*>(block_.dst) + row0 * dst_stride + col0_;
    const std::int64_t end = row0 + rows;
    if (cols >= 4 * kQuads) {
      for (std::int64_t m = row0; m < end; ++m, acc += 4 * kQuads, dst += dst_stride) {
        Quads sums = loaded(acc);
        finish(sums, m, dst);
      }
      return;
    }
    for (std::int64_t m = row0; m < end; ++m, acc += 4 * kQuads, dst += dst_stride) {
      Dst whole[4 * kQuads];
      Quads sums = loaded(acc);
      finish(sums, m, whole);
      std::memcpy(dst, whole, static_cast<std::size_t>(cols) * sizeof *dst);
    }
  }

  const GemmBlock& block_;
  std::int64_t col0_;
};

}  // namespace
}  // namespace octavo
