// What the Arm kernels share: how the lhs is packed, and the loops over panels, pieces of K and tiles of rows. A type
// `Isa` adds what differs:
//
//   kRowsPerVector        rows of the lhs in a 16-byte vector: 1 (its 8 k twice) or 2 (8 k of each)
//   kTileVectors          lhs vectors of a register tile, at most
//   kTileCols             columns of a register tile, a divisor of 16
//   kGemvVectors          lhs vectors that gemv takes with all 16 columns at once
//   kMultiplyAddsPerUs    Kernel::multiply_adds_per_us
//   store(dst, stride, q) 16 consecutive k of one row to their places in two vectors, `stride` bytes apart
//   multiply<R, C, kPrefetch>(a, b, steps, acc, first)
//                         acc[row][16] (+)= R lhs vectors times C columns over `steps` steps of 16 k
//
// rhs panels: [N/16][K/8][16][8]. Sixteen bytes are 2 columns of 8 k: SMMLA's second operand as it is, and SDOT's and
// SMULL's where the lhs vector repeats its 8 k.
//
//       group of 8 k    c0: k0..k7 | c1: k0..k7 || c2: k0..k7 | c3: k0..k7 || ...        128 bytes
//
// Packed lhs: tiles of R vectors, R at most kTileVectors and as even as possible, so that 7 vectors are 4 + 3 and not
// 6 + 1. A tile is one run of memory, read front to back:
//
//       [tile][K/8][R][16 bytes]         K/8 rounded up to even: a step is 16 k
//
// The last step may read one group past the panel (the next panel, or the slack); the lhs is zero there.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/detail/arm_neon.h"
#include "kernels/detail/row_quant.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kNr = 16;
constexpr int kKr = 8;
constexpr int kGroupBytes = kNr * kKr;
constexpr int kVectorBytes = 16;
constexpr int kStepK = 2 * kKr;
constexpr int kPrefetchBytes = 4096;  // ahead of a stream from memory

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

[[gnu::always_inline]] inline void prefetch_group(const std::int8_t* group) {
  __builtin_prefetch(group + kPrefetchBytes);
  __builtin_prefetch(group + kPrefetchBytes + 64);
}

// For an Isa with one row a vector.
struct OneRowAVector {
  static constexpr int kRowsPerVector = 1;

  // 16 consecutive k of a row as two vectors of 8 k, each twice.
  static void store(std::int8_t* dst, std::int64_t stride, int8x16_t q) {
    const int64x2_t groups = vreinterpretq_s64_s8(q);
    vst1q_s8(dst, vreinterpretq_s8_s64(vdupq_laneq_s64(groups, 0)));
    vst1q_s8(dst + stride, vreinterpretq_s8_s64(vdupq_laneq_s64(groups, 1)));
  }
};

template <class Isa>
struct LhsLayout {
  std::int64_t rows, vectors, steps, tiles;

  LhsLayout(std::int64_t row_count, std::int64_t k)
      : rows(row_count),
        vectors(ceil_div(row_count, Isa::kRowsPerVector)),
        steps(ceil_div(k, kStepK)),
        tiles(ceil_div(vectors, Isa::kTileVectors)) {}

  std::int64_t bytes() const { return vectors * vector_bytes(); }
  std::int64_t vector_bytes() const { return steps * 2 * kVectorBytes; }  // one vector's, over all of K

  struct Tile {
    std::int64_t vectors;
    std::int64_t row0, rows;
    std::int64_t offset;  // bytes
  };
  Tile tile(std::int64_t t) const {
    const std::int64_t begin = vectors * t / tiles, end = vectors * (t + 1) / tiles;
    const std::int64_t row0 = begin * Isa::kRowsPerVector, row1 = end * Isa::kRowsPerVector;
    return {end - begin, row0, (row1 < rows ? row1 : rows) - row0, begin * vector_bytes()};
  }
};

template <class Isa>
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) {
  return LhsLayout<Isa>(rows, k).bytes();
}

template <class Isa>
std::int64_t scratch_elems(std::int64_t rows, std::int64_t = 0) {
  return ceil_div(rows, Isa::kRowsPerVector) * Isa::kRowsPerVector * kNr;
}

// Hands each row to pack_row(m, put), where put(step, q) stores 16 values. Rows that fill up the last vector are zero.
template <class Isa, class PackRow>
void pack_rows(std::int64_t rows, std::int64_t k, void* dst, const PackRow& pack_row) {
  const LhsLayout<Isa> lhs(rows, k);
  for (std::int64_t t = 0; t < lhs.tiles; ++t) {
    const auto tile = lhs.tile(t);
    const std::int64_t stride = tile.vectors * kVectorBytes;
    for (std::int64_t i = 0; i < tile.vectors * Isa::kRowsPerVector; ++i) {
      const std::int64_t at = tile.offset + i * (kVectorBytes / Isa::kRowsPerVector);
      std::int8_t* row = static_cast<std::int8_t*>(dst) + at;
      const auto put = [&](std::int64_t step, int8x16_t q) { Isa::store(row + 2 * step * stride, stride, q); };
      if (i < tile.rows) {
        pack_row(tile.row0 + i, put);
      } else {
        for (std::int64_t step = 0; step < lhs.steps; ++step) put(step, vdupq_n_s8(0));
      }
    }
  }
}

template <class Isa, class Quantizer>
void quantize_rows(const QuantizeLhs& task) {
  const std::int64_t whole_steps = task.k / kStepK, rest = task.k % kStepK;
  pack_rows<Isa>(task.rows, task.k, task.dst, [&](std::int64_t m, const auto& put) {
    with_row(task, m, [&](const auto& x) {
      const RowQuant rq = choose_row_quant(x, task);
      task.scale[m] = rq.scale;
      task.zero_point[m] = rq.zero_point;
      float tail[kStepK] = {};
      for (std::int64_t i = 0; i < rest; ++i) tail[i] = x[whole_steps * kStepK + i];
      const int8x16_t tail_mask = vreinterpretq_s8_u8(first_bytes(rest));
      if (rq.inverse == 0.0f) {  // the values do not matter, NaN included
        const int8x16_t z = vdupq_n_s8(static_cast<std::int8_t>(rq.zero_point));
        for (std::int64_t step = 0; step < whole_steps; ++step) put(step, z);
        if (rest != 0) put(whole_steps, vandq_s8(z, tail_mask));
        return;
      }
      const Quantizer quantized(rq);
      for (std::int64_t step = 0; step < whole_steps; ++step) put(step, quantized(x + step * kStepK));
      if (rest != 0) put(whole_steps, vandq_s8(quantized(static_cast<const float*>(tail)), tail_mask));
    });
  });
}

template <class Isa>
void quantize_lhs(const QuantizeLhs& task) {
  if (task.fixed != nullptr) {
    quantize_rows<Isa, FixedQuantizer>(task);
  } else {
    quantize_rows<Isa, DynamicQuantizer>(task);
  }
}

template <class Isa>
void pack_lhs(const PackLhs& task) {
  const std::int64_t whole_steps = task.k / kStepK, rest = task.k % kStepK;
  const uint8x16_t flip = vdupq_n_u8(task.flip);
  pack_rows<Isa>(task.rows, task.k, task.dst, [&](std::int64_t m, const auto& put) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    const auto flipped = [&](const std::uint8_t* at) { return veorq_u8(vld1q_u8(at), flip); };
    for (std::int64_t step = 0; step < whole_steps; ++step) {
      put(step, vreinterpretq_s8_u8(flipped(x + step * kStepK)));
    }
    if (rest != 0) {
      std::uint8_t tail[kStepK] = {};
      std::memcpy(tail, x + whole_steps * kStepK, static_cast<std::size_t>(rest));
      put(whole_steps, vreinterpretq_s8_u8(vandq_u8(flipped(tail), first_bytes(rest))));
    }
  });
}

inline void put_sums(std::uint32_t* acc, uint32x4_t sums, bool first) {
  vst1q_u32(acc, first ? sums : vaddq_u32(vld1q_u32(acc), sums));
}

template <class Isa>
void gemm(const GemmBlock& block) {
  const LhsLayout<Isa> lhs(block.rows, block.k);
  const std::int64_t panel_bytes = ceil_div(block.k, kKr) * kGroupBytes;
  const std::int64_t pieces = ceil_div(block.k, block.k_block);
  const std::int64_t steps_per_piece = ceil_div(lhs.steps, pieces);
  std::uint32_t* scratch = reinterpret_cast<std::uint32_t*>(block.scratch);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += panel_bytes) {
    const std::int64_t cols = block.cols - n0 < kNr ? block.cols - n0 : kNr;
    const Finisher finish(block, n0);
    for (std::int64_t step = 0; step < lhs.steps; step += steps_per_piece) {
      const std::int64_t steps = lhs.steps - step < steps_per_piece ? lhs.steps - step : steps_per_piece;
      const bool first = step == 0, last = step + steps == lhs.steps;
      for (std::int64_t t = 0; t < lhs.tiles; ++t) {
        const auto tile = lhs.tile(t);
        const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs) + tile.offset;
        a += step * 2 * kVectorBytes * tile.vectors;
        std::uint32_t* acc = scratch + (first && last ? 0 : tile.row0 * kNr);
        for (std::int64_t col = 0; col < cols; col += Isa::kTileCols) {
          const std::int8_t* b = panel + step * 2 * kGroupBytes + col * kKr;
          with_constant<Isa::kTileVectors>(tile.vectors, [&](auto vectors) {
            Isa::template multiply<vectors, Isa::kTileCols, false>(a, b, steps, acc + col, first);
          });
        }
        if (last) finish(acc, tile.row0, tile.rows);
      }
    }
  }
}

template <class Isa>
void gemv(const GemmBlock& block) {
  const LhsLayout<Isa> lhs(block.rows, block.k);
  const std::int64_t panel_bytes = ceil_div(block.k, kKr) * kGroupBytes;
  const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs);
  std::uint32_t* scratch = reinterpret_cast<std::uint32_t*>(block.scratch);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += panel_bytes) {
    with_constant<Isa::kGemvVectors>(lhs.vectors, [&](auto vectors) {
      Isa::template multiply<vectors, kNr, true>(a, panel, lhs.steps, scratch, true);
    });
    Finisher(block, n0)(scratch, 0, block.rows);
  }
}

// The row of the table. `gemv_max_rows` follows from the registers that 16 columns leave.
// Costs were not measured on such CPUs.
template <class Isa>
constexpr Kernel arm_kernel(const char* name, std::uint32_t features, const Int4Kernel* int4,
                            const IntegerKernel* integer, IntegerCosts integer_costs,
                            const GroupedKernel* grouped = nullptr, const FunctionKernel* functions = nullptr) {
  return {
      .name = name,
      .features = features,
      .nr = kNr,
      .kr = kKr,
      .mr = Isa::kTileVectors * Isa::kRowsPerVector,
      .panels = 1,
      .lhs_elem_bytes = 2 / Isa::kRowsPerVector,
      .lhs_bytes = lhs_bytes<Isa>,
      .scratch_elems = scratch_elems<Isa>,
      .quantize_lhs = quantize_lhs<Isa>,
      .pack_lhs = pack_lhs<Isa>,
      .gemm = gemm<Isa>,
      .gemv = gemv<Isa>,
      .gemv_max_rows = Isa::kGemvVectors * Isa::kRowsPerVector,
      .multiply_adds_per_us = Isa::kMultiplyAddsPerUs,
      .int4 = int4,
      .grouped = grouped,
      .integer = integer,
      .integer_costs = integer_costs,
      .functions = functions,
  };
}

}  // namespace
}  // namespace octavo
