// Rows packed for tiles: lhs[row / 16][k / 64][row % 16][k % 64], zero beyond K; what stands in rows that do not exist
// is anything, and multiplied into sums that nobody reads. See x86_amx_steps.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_amx_steps.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

inline std::int64_t steps_of(std::int64_t k) { return (k + kStepK - 1) / kStepK; }
inline std::int64_t row_tile_bytes(std::int64_t k) { return steps_of(k) * kTileBytes; }
inline std::int64_t tiled_lhs_bytes(std::int64_t rows, std::int64_t k) {
  return (rows + kTileRows - 1) / kTileRows * row_tile_bytes(k);
}

// Where the first 64 values of a row go; the next ones lie kTileBytes on.
inline std::int8_t* packed_row(void* lhs, std::int64_t m, std::int64_t k) {
  return static_cast<std::int8_t*>(lhs) + m / kTileRows * row_tile_bytes(k) + m % kTileRows * kTileRowBytes;
}

// A row of the bytes that bytes_at(i) gives, 16 from i on; zeros behind K. The first `k0` are there already.
template <class BytesAt>
void put_row(std::int8_t* q, std::int64_t k0, std::int64_t k, const BytesAt& bytes_at) {
  for (q += k0 / kStepK * kTileBytes; k0 < k; k0 += kStepK, q += kTileBytes) {
    for (std::int64_t i = 0; i < kStepK; i += 16) {
      const std::int64_t left = k - k0 - i;
      const __mmask16 lanes = first_lanes(left > 0 ? left : 0);
      const __m128i bytes = lanes == 0 ? _mm_setzero_si128() : _mm_maskz_mov_epi8(lanes, bytes_at(k0 + i));
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), bytes);
    }
  }
}

// The largest bit pattern of |x| in a row, while `next` is brought into the L1 cache.
template <class Row>
std::uint32_t max_abs_bits(const Row& x, std::int64_t k, const float* next) {
  constexpr int kChains = 4;
  __m512i top[kChains];
  unrolled<kChains>([&](auto c) { top[c] = _mm512_setzero_si512(); });
  const auto take = [&](__m512i& chain, __m512 v) {
    chain = _mm512_max_epu32(chain, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
  };
  std::int64_t i = 0;
  for (; i + kChains * 16 <= k; i += kChains * 16) {
    unrolled<kChains>([&](auto c) {
      _mm_prefetch(reinterpret_cast<const char*>(next + i + 16 * c), _MM_HINT_T0);
      take(top[c], Avx512::load_row(x + (i + 16 * c)));
    });
  }
  for (; i < k; i += 16) take(top[0], Avx512::load_row(x + i, k - i));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(top[0], top[1]), _mm512_max_epu32(top[2], top[3])));
}

// The whole steps of a symmetric row, whose |x * inverse| is below 127.5: nothing to clamp, and nothing that packing
// with saturation would change. Returns how many k that is.
template <class Row>
std::int64_t put_symmetric_steps(std::int8_t* q, const Row& x, std::int64_t k, float inverse) {
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto integers = [&](std::int64_t i) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(Avx512::load_row(x + i), factor));
  };
  std::int64_t k0 = 0;
  for (; k0 + kStepK <= k; k0 += kStepK, q += kTileBytes) {
    const __m512i low = _mm512_packs_epi32(integers(k0), integers(k0 + 16));
    const __m512i high = _mm512_packs_epi32(integers(k0 + 32), integers(k0 + 48));
    _mm512_store_si512(q, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
  }
  return k0;
}

inline void quantize_tiled_lhs(const QuantizeLhs& task) {
  const bool symmetric = !task.asymmetric && task.fixed == nullptr;
  const float* next = task.src;  // the row behind the one that is looked at; the last one has none
  std::int64_t rows_left = task.rows;
  const auto choose = [&](const auto& x) {
    if (--rows_left > 0) next += task.src_stride;
    if (!symmetric) return Avx512::choose_row_quant(x, task);
    return choose_from_range(task, max_abs_bits(x, task.k, next), 0.0f, 0.0f);
  };
  for_each_row(task, choose, [&](std::int64_t m, const auto& x, const RowQuant& rq) {
    std::int8_t* q = packed_row(task.dst, m, task.k);
    if (rq.inverse == 0.0f) {
      const __m128i zero_points = _mm_set1_epi8(static_cast<char>(rq.zero_point));
      return put_row(q, 0, task.k, [&](std::int64_t) { return zero_points; });
    }
    const Avx512::Quantizer quantized(rq, 0);
    const std::int64_t done = symmetric ? put_symmetric_steps(q, x, task.k, rq.inverse) : 0;
    put_row(q, done, task.k, [&](std::int64_t i) { return quantized(x + i, task.k - i); });
  });
}

}  // namespace
}  // namespace octavo
