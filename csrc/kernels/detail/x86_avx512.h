// What the 512-bit x86 kernels share: reading rows of float32, and finishing int32 sums, 16 columns at a time. AVX512
// F, BW, DQ and VL. Included per kernel file; everything is in an anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/row_quant.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// The first n of 16 lanes; all of them from 16 on.
inline __mmask16 first_lanes(std::int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}

// See x86_avx2.h: NaN shows in the bit patterns alone, as MINPS and MAXPS return their second operand beside one.
inline RowQuant choose_row_quant(const float* x, const QuantizeLhs& task) {
  const __m512i abs_mask = _mm512_set1_epi32(0x7fffffff);
  __m512i top[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  __m512 lo[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, hi[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  const auto take = [&](int chain, __m512 v) {
    top[chain] = _mm512_max_epu32(top[chain], _mm512_and_si512(_mm512_castps_si512(v), abs_mask));
    if (task.asymmetric) {
      lo[chain] = _mm512_min_ps(v, lo[chain]);
      hi[chain] = _mm512_max_ps(v, hi[chain]);
    }
  };
  std::int64_t i = 0;
  for (; i + 32 <= task.k; i += 32) {
    take(0, _mm512_loadu_ps(x + i));
    take(1, _mm512_loadu_ps(x + i + 16));
  }
  for (; i < task.k; i += 16) take(0, _mm512_maskz_loadu_ps(first_lanes(task.k - i), x + i));
  const std::uint32_t max_abs_bits = _mm512_reduce_max_epu32(_mm512_max_epu32(top[0], top[1]));
  const float least = _mm512_reduce_min_ps(_mm512_min_ps(lo[0], lo[1]));
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(hi[0], hi[1]));
  return choose_from_range(task, max_abs_bits, least, most);
}

// 16 floats to 16 bytes: q + `offset`, the low byte of it.
struct RowQuantizer {
  __m512 inverse, lo, hi;
  __m512i offset;

  RowQuantizer(const RowQuant& rq, std::int32_t added)
      : inverse(_mm512_set1_ps(rq.inverse)),
        lo(_mm512_set1_ps(rq.lo)),
        hi(_mm512_set1_ps(rq.hi)),
        offset(_mm512_set1_epi32(rq.zero_point + added)) {}

  __m128i operator()(__m512 x) const {
    const __m512 scaled = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, inverse), lo), hi);
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(scaled), offset));
  }
};

// Finishes `rows` rows of 16 sums, acc[row * acc_stride], into columns col0 .. col0 + 15 of the block, or as many as it
// has. What belongs to the columns is read once.
template <DstKind kKind>
void finish_rows_as(const GemmBlock& block, const std::int32_t* acc, std::int64_t acc_stride, std::int64_t row0,
                    std::int64_t rows, std::int64_t col0) {
  const Epilogue e = block.epilogue;
  const __mmask16 lanes = first_lanes(block.cols - col0);
  const __m512i none = _mm512_setzero_si512();
  const __m512i rhs_sum = e.lhs_zero_point != nullptr ? _mm512_loadu_si512(e.rhs_sum + col0) : none;
  const __m512i rhs_zero_point = e.rhs_zero_point != nullptr ? _mm512_loadu_si512(e.rhs_zero_point + col0) : none;
  const __m512 rhs_scale = kKind != DstKind::kInt32 ? _mm512_loadu_ps(e.rhs_scale + col0) : _mm512_setzero_ps();
  const __m512 bias = e.bias != nullptr ? _mm512_loadu_ps(e.bias + col0) : _mm512_setzero_ps();
  std::int64_t at = row0 * block.dst_stride + col0;
  for (std::int64_t m = row0; m < row0 + rows; ++m, acc += acc_stride, at += block.dst_stride) {
    __m512i sum = _mm512_load_si512(acc);
    if (e.lhs_zero_point != nullptr) {
      sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(e.lhs_zero_point[m]), rhs_sum));
    }
    if (e.rhs_zero_point != nullptr) {
      sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(e.lhs_sum[m]), rhs_zero_point));
    }
    if constexpr (kKind == DstKind::kInt32) {
      _mm512_mask_storeu_epi32(static_cast<std::int32_t*>(block.dst) + at, lanes, sum);
    } else {
      const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(e.lhs_scale[m]), rhs_scale);
      __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
      if (e.bias != nullptr) y = _mm512_add_ps(y, bias);
      if (e.relu) {  // NaN stays, -0 becomes +0
        y = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLE_UQ), y);
      }
      if constexpr (kKind == DstKind::kFloat32) {
        _mm512_mask_storeu_ps(static_cast<float*>(block.dst) + at, lanes, y);
      } else {
        const __m512 raised = _mm512_max_ps(_mm512_mul_ps(y, _mm512_set1_ps(e.dst_inverse)), _mm512_set1_ps(e.dst_lo));
        const __m512i q = _mm512_cvtps_epi32(_mm512_min_ps(raised, _mm512_set1_ps(e.dst_hi)));
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(e.dst_zero_point)));
        _mm_mask_storeu_epi8(static_cast<std::uint8_t*>(block.dst) + at, lanes, bytes);
      }
    }
  }
}

[[gnu::noinline]] inline void finish_rows(const GemmBlock& block, const std::int32_t* acc, std::int64_t acc_stride,
                                          std::int64_t row0, std::int64_t rows, std::int64_t col0) {
  switch (block.epilogue.kind) {
    case DstKind::kInt32:
      return finish_rows_as<DstKind::kInt32>(block, acc, acc_stride, row0, rows, col0);
    case DstKind::kFloat32:
      return finish_rows_as<DstKind::kFloat32>(block, acc, acc_stride, row0, rows, col0);
    case DstKind::kByte:
      return finish_rows_as<DstKind::kByte>(block, acc, acc_stride, row0, rows, col0);
  }
}

}  // namespace
}  // namespace octavo
