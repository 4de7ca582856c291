// Vectors of float32 with NEON, which has a fused multiply-add on every AArch64 CPU: see
// kernels/detail/x86_vectors_avx2.h, which has the same names.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace octavo {
namespace {

struct NeonVectors {
  using Float = float32x4_t;
  using Int = int32x4_t;
  using Mask = uint32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kVecs = 4;

  static Float set1(float v) { return vdupq_n_f32(v); }
  static Float load(const float* at) { return vld1q_f32(at); }
  static void store(float* at, Float v) { vst1q_f32(at, v); }
  static Float load_some(const float* at, std::int64_t count, float fill) {
    float lanes[4] = {fill, fill, fill, fill};
    for (std::int64_t i = 0; i < 4 && i < count; ++i) lanes[i] = at[i];
    return vld1q_f32(lanes);
  }
  static void store_some(float* at, Float v, std::int64_t count) {
    float lanes[4];
    vst1q_f32(lanes, v);
    for (std::int64_t i = 0; i < 4 && i < count; ++i) at[i] = lanes[i];
  }

  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float fnma(Float a, Float b, Float c) { return vfmsq_f32(c, a, b); }
  static Float sqrt(Float a) { return vsqrtq_f32(a); }
  static Float abs(Float a) { return vabsq_f32(a); }
  static Float minus_abs(Float a) { return vnegq_f32(vabsq_f32(a)); }
  static Float negate(Float a) { return vnegq_f32(a); }
  static Float with_sign_of(Float magnitude, Float a) { return vbslq_f32(vdupq_n_u32(0x80000000u), a, magnitude); }
  static Float min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static Float max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

  static Mask less(Float a, Float b) { return vcltq_f32(a, b); }
  static Mask has_sign(Float a) { return vcltzq_s32(vreinterpretq_s32_f32(a)); }
  static Mask odd_bit(Int a, int bit) { return vtstq_s32(a, vdupq_n_s32(1 << bit)); }
  static bool all(Mask m) { return vminvq_u32(m) != 0; }
  static Float select(Mask m, Float yes, Float no) { return vbslq_f32(m, yes, no); }

  static Int bits(Float a) { return vreinterpretq_s32_f32(a); }
  static Float from_bits(Int a) { return vreinterpretq_f32_s32(a); }
  static Int set1_int(std::int32_t v) { return vdupq_n_s32(v); }
  static Int add(Int a, Int b) { return vaddq_s32(a, b); }
  static Int subtract(Int a, Int b) { return vsubq_s32(a, b); }
  template <int kBits>
  static Int shift_left(Int a) {
    return vshlq_n_s32(a, kBits);
  }
  template <int kBits>
  static Int shift_right(Int a) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), kBits));
  }
  template <int kBits>
  static Int shift_right_signed(Int a) {
    return vshrq_n_s32(a, kBits);
  }
  static Float to_float(Int a) { return vcvtq_f32_s32(a); }

  template <int kStep>
  static Float butterfly(Float v) {
    const Float other = kStep == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
    const Mask second = kStep == 1 ? vreinterpretq_u32_u64(vdupq_n_u64(0xffffffff00000000u))
                                   : vcombine_u32(vdup_n_u32(0), vdup_n_u32(0xffffffffu));
    return vbslq_f32(second, vsubq_f32(other, v), vaddq_f32(other, v));
  }

  static float sum(const Float (&v)[kVecs]) {
    const Float four = (v[0] + v[2]) + (v[1] + v[3]);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static float largest(const Float (&v)[kVecs]) {
    return vmaxvq_f32(max(max(v[0], v[2]), max(v[1], v[3])));
  }
};

}  // namespace
}  // namespace octavo
