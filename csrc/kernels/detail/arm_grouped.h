// What the Arm kernels for grouped codes share: lanes of 4 columns. 8-bit codes are made signed, u - 128, as they are
// loaded. Included per kernel file; everything is in an anonymous namespace.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/detail/grouped_frame.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct ArmGrouped : NoStreams {
  using Int = int32x4_t;
  using Float = float32x4_t;
  static constexpr int kVecs = 4;
  static constexpr std::uint32_t kByteBias = 128;

  static Int zero() { return vdupq_n_s32(0); }
  static Int set1(std::int32_t v) { return vdupq_n_s32(v); }
  static Int load32(const std::int32_t* at) { return vld1q_s32(at); }
  static void store32(std::int32_t* at, Int a) { vst1q_s32(at, a); }
  static Int load_u8(const std::uint8_t* at) {
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(read_as<std::uint32_t>(at)));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
  }
  static Int load_s8(const std::uint8_t* at) {
    const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(read_as<std::uint32_t>(at)));
    return vmovl_s16(vget_low_s16(vmovl_s8(bytes)));
  }
  static Float zerof() { return vdupq_n_f32(0.0f); }
  static Float set1f(float v) { return vdupq_n_f32(v); }
  static Float load_f32(const float* at) { return vld1q_f32(at); }
  static Float load_f16(const std::uint16_t* at) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at))); }
  static Int add(Int a, Int b) { return vaddq_s32(a, b); }
  static Int multiply(Int a, Int b) { return vmulq_s32(a, b); }
  static Int shift8(Int a) { return vshlq_n_s32(a, 8); }
  static Float to_float(Int a) { return vcvtq_f32_s32(a); }
  static Float join(Int h, Int l) {
    const int64x2_t low = vaddq_s64(vshll_n_s32(vget_low_s32(h), 8), vmovl_s32(vget_low_s32(l)));
    const int64x2_t high = vaddq_s64(vshll_n_s32(vget_high_s32(h), 8), vmovl_s32(vget_high_s32(l)));
    return vcvt_high_f32_f64(vcvt_f32_f64(vcvtq_f64_s64(low)), vcvtq_f64_s64(high));
  }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float fnma(Float a, Float b, Float c) { return vfmsq_f32(c, a, b); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float addf(Float a, Float b) { return vaddq_f32(a, b); }
  static Float relu(Float y) {  // NaN stays, -0 becomes +0
    return vbslq_f32(vcleq_f32(y, zerof()), zerof(), y);
  }
  static Int dot_pairs(Int acc, std::int32_t pair, const std::uint8_t* bytes) {
    const int16x8_t words = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(bytes)));
    const int16x8_t sums = vreinterpretq_s16_s32(vdupq_n_s32(pair));
    const int32x4_t low = vmull_s16(vget_low_s16(words), vget_low_s16(sums));
    return vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(words, sums)));
  }
  static void store(float* dst, Float y, std::int64_t count) {
    if (count >= 4) return vst1q_f32(dst, y);
    float columns[4];
    vst1q_f32(columns, y);
    for (std::int64_t i = 0; i < count; ++i) dst[i] = columns[i];
  }

  // 4 columns of 4 k.
  template <Codes kCodes>
  static int8x16_t codes(const std::uint8_t* at) {
    const uint8x16_t both = vld1q_u8(at);
    if constexpr (kCodes == Codes::kBytes) return vreinterpretq_s8_u8(veorq_u8(both, vdupq_n_u8(0x80)));
    if constexpr (kCodes == Codes::kLowNibbles) return vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
    return vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
  }
};

}  // namespace
}  // namespace octavo
