// Four-bit weights on Arm: a piece of a panel is unpacked to the int8 lines that arm_gemm.h multiplies (in the L1
// cache, once for all rows of the block), and a group's sums are rescaled when it ends. The lhs is packed as for int8
// weights.
//
// The offset of a column is subtracted as its nibbles are unpacked, which leaves values of -15..15: no sums of rows are
// needed, and the products are exact wherever those of int8 are.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/detail/arm_gemm.h"
#include "kernels/detail/unroll.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

constexpr std::int64_t kHalfBytes = kNr * kInt4Half;  // 32 k of a panel, packed with 32 others or unpacked alone

// Halves unpacked at a time, at most: 512 k, so that they (8 KiB) and a tile's rows share the L1 cache.
constexpr std::int64_t kPieceHalves = 16;

// The arrays over groups, 16 columns of one panel and group.
struct Int4Columns {
  const Int4Block& block;
  std::int64_t at;

  Int4Columns(const Int4Block& b, std::int64_t panel, std::int64_t group)
      : block(b), at((panel * b.groups.count() + group) * kNr) {}

  float32x4_t scale(int quad) const {
    if (!block.half_scale) return vld1q_f32(static_cast<const float*>(block.scale) + at + 4 * quad);
    const std::uint16_t* half = static_cast<const std::uint16_t*>(block.scale) + at + 4 * quad;
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
  }
  // As uint32, because arithmetic on them may wrap.
  uint32x4_t sum(int quad) const {
    if (block.wide_sums()) {
      return vld1q_u32(reinterpret_cast<const std::uint32_t*>(block.column_sums) + at + 4 * quad);
    }
    const std::int16_t* narrow = static_cast<const std::int16_t*>(block.column_sums) + at + 4 * quad;
    return vreinterpretq_u32_s32(vmovl_s16(vld1_s16(narrow)));
  }
  std::uint8_t offset(std::int64_t column) const {
    return block.offset == nullptr ? std::uint8_t{kInt4Offset} : block.offset[at + column];
  }
};

// 32 k of a panel: the low or the high nibbles of a chunk, as four groups of 8 k.
inline void unpack_half(const std::uint8_t* chunk, bool high, const uint8x16_t (&offset)[kNr / 2], std::int8_t* dst) {
  for (int group = 0; group < kInt4Half / kKr; ++group) {
    if (!high) prefetch_group(reinterpret_cast<const std::int8_t*>(chunk));
    unrolled<kNr / 2>([&](auto v) {
      const uint8x16_t both = vld1q_u8(chunk + v * kVectorBytes);
      const uint8x16_t nibbles = high ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
      vst1q_s8(dst + v * kVectorBytes, vreinterpretq_s8_u8(vsubq_u8(nibbles, offset[v])));
    });
    chunk += kGroupBytes;
    dst += kGroupBytes;
  }
}

inline void unpack_halves(const Int4Columns& columns, const std::uint8_t* panel, std::int64_t begin, std::int64_t end,
                          std::int8_t* dst) {
  uint8x16_t offset[kNr / 2];
  unrolled<kNr / 2>(
      [&](auto v) { offset[v] = vcombine_u8(vdup_n_u8(columns.offset(2 * v)), vdup_n_u8(columns.offset(2 * v + 1))); });
  for (std::int64_t half = begin; half < end; ++half, dst += kHalfBytes) {
    unpack_half(panel + half / 2 * kHalfBytes, half % 2 != 0, offset, dst);
  }
}

// y (+)= float(acc - z_x * column sum) * scale, for rows of 16 columns.
inline void rescale_group(const Int4Block& block, const Int4Columns& columns, const std::uint32_t* acc, bool first,
                          float* y) {
  float32x4_t scale[kNr / 4];
  unrolled<kNr / 4>([&](auto q) { scale[q] = columns.scale(q); });
  for (std::int64_t m = 0; m < block.rows; ++m, acc += kNr, y += kNr) {
    unrolled<kNr / 4>([&](auto q) {
      uint32x4_t sum = vld1q_u32(acc + 4 * q);
      if (block.column_sums != nullptr) {
        sum = vmlsq_n_u32(sum, columns.sum(q), static_cast<std::uint32_t>(block.lhs_zero_point[m]));
      }
      const float32x4_t f = vmulq_f32(vcvtq_f32_s32(vreinterpretq_s32_u32(sum)), scale[q]);
      vst1q_f32(y + 4 * q, vaddq_f32(first ? vdupq_n_f32(0.0f) : vld1q_f32(y + 4 * q), f));
    });
  }
}

// dst = y * lhs_scale, + bias, relu, for columns col0 .. col0 + 15 or as many as there are.
inline void finish_rows(const Int4Block& block, const float* y, std::int64_t col0) {
  const std::int64_t cols = block.cols - col0 < kNr ? block.cols - col0 : kNr;
  for (std::int64_t m = 0; m < block.rows; ++m, y += kNr) {
    float whole[kNr];
    unrolled<kNr / 4>([&](auto q) {
      float32x4_t value = vmulq_n_f32(vld1q_f32(y + 4 * q), block.lhs_scale[m]);
      if (block.bias != nullptr) value = vaddq_f32(value, vld1q_f32(block.bias + col0 + 4 * q));
      if (block.relu) value = vmaxq_f32(value, vdupq_n_f32(0.0f));  // NaN stays, -0 becomes +0
      vst1q_f32(whole + 4 * q, value);
    });
    std::memcpy(block.dst + m * block.dst_stride + col0, whole, static_cast<std::size_t>(cols) * sizeof(float));
  }
}

template <class Isa>
std::int64_t lhs_bytes_int4(std::int64_t rows, const Int4Groups& groups) {
  return lhs_bytes<Isa>(rows, groups.k);
}

// Sums, y, then the unpacked piece.
template <class Isa>
std::int64_t scratch_bytes_int4(std::int64_t rows) {
  return scratch_elems<Isa>(rows) * 8 + kPieceHalves * kHalfBytes;
}

template <class Isa>
void quantize_lhs_int4(const QuantizeLhs& task, const Int4Groups&) {
  quantize_lhs<Isa>(task);
}

// acc (+)= all rows times halves begin .. end - 1 of a panel, unpacked at b.
template <class Isa>
void multiply_halves(const Int4Block& block, const LhsLayout<Isa>& lhs, const std::int8_t* b, std::int64_t begin,
                     std::int64_t end, bool first, std::uint32_t* acc) {
  constexpr std::int64_t kSteps = kInt4Half / kStepK;
  const std::int64_t step = begin * kSteps, steps = (end * kSteps < lhs.steps ? end * kSteps : lhs.steps) - step;
  for (std::int64_t t = 0; t < lhs.tiles; ++t) {
    const auto tile = lhs.tile(t);
    const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs) + tile.offset;
    a += step * 2 * kVectorBytes * tile.vectors;
    for (int col = 0; col < kNr; col += Isa::kTileCols) {
      with_constant<Isa::kTileVectors>(tile.vectors, [&](auto vectors) {
        std::uint32_t* sums = acc + tile.row0 * kNr + col;
        Isa::template multiply<vectors, Isa::kTileCols, false>(a, b + col * kKr, steps, sums, first);
      });
    }
  }
}

template <class Isa>
void gemm_int4(const Int4Block& block) {
  const LhsLayout<Isa> lhs(block.rows, block.groups.k);
  const std::int64_t halves = block.groups.halves(), size = block.groups.halves_per_group();
  std::uint32_t* acc = static_cast<std::uint32_t*>(block.scratch);
  float* y = reinterpret_cast<float*>(acc + scratch_elems<Isa>(block.rows));
  std::int8_t* plain = reinterpret_cast<std::int8_t*>(y + scratch_elems<Isa>(block.rows));
  const std::uint8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += block.groups.chunks() * kHalfBytes) {
    for (std::int64_t group = 0, begin = 0; begin < halves; ++group) {
      const Int4Columns columns(block, n0 / kNr, group);
      const std::int64_t group_end = (group + 1) * size < halves ? (group + 1) * size : halves;
      for (bool first = true; begin < group_end; first = false) {
        const std::int64_t end = begin + kPieceHalves < group_end ? begin + kPieceHalves : group_end;
        unpack_halves(columns, panel, begin, end, plain);
        multiply_halves<Isa>(block, lhs, plain, begin, end, first, acc);
        begin = end;
      }
      rescale_group(block, columns, acc, group == 0, y);
    }
    finish_rows(block, y, n0);
  }
}

template <class Isa>
constexpr Int4Kernel arm_int4_kernel() {
  return {
      .mr = Isa::kTileVectors * Isa::kRowsPerVector,
      .lhs_bytes = lhs_bytes_int4<Isa>,
      .scratch_bytes = scratch_bytes_int4<Isa>,
      .quantize_lhs = quantize_lhs_int4<Isa>,
      .gemm = gemm_int4<Isa>,
      .gemv = gemm_int4<Isa>,
      .gemv_max_rows = 1,
      .multiply_adds_per_us = Isa::kMultiplyAddsPerUs,
  };
}

}  // namespace
}  // namespace octavo
