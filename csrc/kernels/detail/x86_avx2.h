// What the 256-bit x86 kernels share: reading rows of float32, and finishing int32 sums. AVX2 only.
// Included per kernel file; everything is in an anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/detail/row_quant.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// All ones in the first n of 8 lanes, 0 <= n <= 8.
inline __m256i first_lanes(std::int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

// A row's largest |x| as a bit pattern, and min(x, 0), max(x, 0). NaN enters the first alone: MINPS and MAXPS return
// their second operand beside a NaN, which is the running value here.
struct RowRange {
  std::uint32_t max_abs_bits;
  float lo, hi;
};

inline RowRange row_range(const float* x, std::int64_t k, bool asymmetric) {
  constexpr int kLanes = 4;  // independent chains hide the latency
  const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
  __m256i top[kLanes];
  __m256 lo[kLanes], hi[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    top[i] = _mm256_setzero_si256();
    lo[i] = hi[i] = _mm256_setzero_ps();
  }
  const auto take = [&](int chain, __m256 v) {
    top[chain] = _mm256_max_epi32(top[chain], _mm256_and_si256(_mm256_castps_si256(v), abs_mask));
    if (asymmetric) {
      lo[chain] = _mm256_min_ps(v, lo[chain]);
      hi[chain] = _mm256_max_ps(v, hi[chain]);
    }
  };
  std::int64_t i = 0;
  for (; i + 8 * kLanes <= k; i += 8 * kLanes) {
    for (int chain = 0; chain < kLanes; ++chain) take(chain, _mm256_loadu_ps(x + i + 8 * chain));
  }
  for (; i < k; i += 8) take(0, _mm256_maskload_ps(x + i, first_lanes(k - i < 8 ? k - i : 8)));
  for (int chain = 1; chain < kLanes; ++chain) {
    top[0] = _mm256_max_epi32(top[0], top[chain]);
    lo[0] = _mm256_min_ps(lo[0], lo[chain]);
    hi[0] = _mm256_max_ps(hi[0], hi[chain]);
  }
  alignas(32) std::uint32_t tops[8];
  alignas(32) float los[8], his[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(tops), top[0]);
  _mm256_store_ps(los, lo[0]);
  _mm256_store_ps(his, hi[0]);
  RowRange r{tops[0], los[0], his[0]};
  for (int j = 1; j < 8; ++j) {
    r.max_abs_bits = tops[j] > r.max_abs_bits ? tops[j] : r.max_abs_bits;
    r.lo = los[j] < r.lo ? los[j] : r.lo;
    r.hi = his[j] > r.hi ? his[j] : r.hi;
  }
  return r;
}

inline RowQuant choose_row_quant(const float* x, const QuantizeLhs& task) {
  const RowRange r = row_range(x, task.k, task.asymmetric);
  return choose_from_range(task, r.max_abs_bits, r.lo, r.hi);
}

// Eight floats to eight int32: q + `added`. CVTPS2DQ rounds half to even; clamping to whole numbers before it gives the
// same as clamping after it.
struct RowQuantizer {
  __m256 inverse, lo, hi;
  __m256i offset;

  explicit RowQuantizer(const RowQuant& rq, std::int32_t added = 0)
      : inverse(_mm256_set1_ps(rq.inverse)),
        lo(_mm256_set1_ps(rq.lo)),
        hi(_mm256_set1_ps(rq.hi)),
        offset(_mm256_set1_epi32(rq.zero_point + added)) {}

  __m256i operator()(__m256 x) const {
    const __m256 scaled = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, inverse), lo), hi);
    return _mm256_add_epi32(_mm256_cvtps_epi32(scaled), offset);
  }
};

// Sixteen int32 of 0..255 to bytes.
inline __m128i bytes_of(__m256i first_8, __m256i last_8) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first_8, last_8), 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

// Two vectors of eight floats at x, of which n <= 16 are there; the others are zero.
struct Sixteen {
  __m256 first_8, last_8;
};
inline Sixteen load_16(const float* x, std::int64_t n) {
  if (n >= 16) return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
  return {_mm256_maskload_ps(x, first_lanes(n < 8 ? n : 8)),
          n > 8 ? _mm256_maskload_ps(x + 8, first_lanes(n - 8)) : _mm256_setzero_ps()};
}

// Sixteen bytes at x, of which n are there; the others are zero.
inline __m128i load_16(const std::uint8_t* x, std::int64_t n) {
  if (n >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  alignas(16) std::uint8_t tail[16] = {};
  std::memcpy(tail, x, static_cast<std::size_t>(n));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(tail));
}

// Rows as bytes of q + offset, offset 0 or 128.
inline void quantize_bytes(const QuantizeLhs& task, std::int64_t stride, int offset) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(offset ^ 128));  // of q + 128
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const float* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    const RowQuant rq = choose_row_quant(x, task);
    task.scale[m] = rq.scale;
    task.zero_point[m] = rq.zero_point;
    if (rq.inverse == 0.0f) {
      std::memset(q, rq.zero_point + offset, static_cast<std::size_t>(stride));
      continue;
    }
    const RowQuantizer quantized(rq, 128);
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const Sixteen v = load_16(x + i, task.k - i);
      const __m128i bytes = bytes_of(quantized(v.first_8), quantized(v.last_8));
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(bytes, flip));
    }
  }
}

inline void pack_bytes(const PackLhs& task, std::int64_t stride, int offset) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip ^ offset));  // x + 128 is x ^ 0x80
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; i += 16) {
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(load_16(x + i, task.k - i), flip));
    }
  }
}

inline void store_words(int* dst, std::int64_t cols, __m256i result) {
  if (cols >= 8) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), result);
  } else {
    _mm256_maskstore_epi32(dst, first_lanes(cols), result);
  }
}

inline void store_bytes(std::uint8_t* dst, std::int64_t cols, __m128i bytes) {
  if (cols >= 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), bytes);
  } else {
    alignas(16) std::uint8_t all[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(all), bytes);
    std::memcpy(dst, all, static_cast<std::size_t>(cols));
  }
}

// Eight results as int32: whole numbers of -128..255, of which the low bytes are wanted.
inline __m256i requantized(__m256 y, const Epilogue& e) {
  const __m256 raised = _mm256_max_ps(_mm256_mul_ps(y, _mm256_set1_ps(e.dst_inverse)), _mm256_set1_ps(e.dst_lo));
  const __m256i q = _mm256_cvtps_epi32(_mm256_min_ps(raised, _mm256_set1_ps(e.dst_hi)));
  return _mm256_and_si256(_mm256_add_epi32(q, _mm256_set1_epi32(e.dst_zero_point)), _mm256_set1_epi32(0xff));
}

// Finishes `rows` rows of 16 sums, acc[row * acc_stride], into columns col0 .. col0 + 15 of the block, or as many as it
// has. What belongs to the columns is read once.
template <DstKind kKind>
void finish_rows_as(const GemmBlock& block, const std::int32_t* acc, std::int64_t acc_stride, std::int64_t row0,
                    std::int64_t rows, std::int64_t col0) {
  const Epilogue e = block.epilogue;
  const std::int64_t cols = block.cols - col0;
  const auto words = [&](const std::int32_t* array, int half) {
    if (array == nullptr) return _mm256_setzero_si256();
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(array + col0 + 8 * half));
  };
  const auto floats = [&](const float* array, int half) {
    return array == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(array + col0 + 8 * half);
  };
  const __m256i rhs_sum[2] = {words(e.rhs_sum, 0), words(e.rhs_sum, 1)};
  const __m256i rhs_zero_point[2] = {words(e.rhs_zero_point, 0), words(e.rhs_zero_point, 1)};
  const __m256 rhs_scale[2] = {floats(e.rhs_scale, 0), floats(e.rhs_scale, 1)};
  const __m256 bias[2] = {floats(e.bias, 0), floats(e.bias, 1)};
  std::int64_t at = row0 * block.dst_stride + col0;
  for (std::int64_t m = row0; m < row0 + rows; ++m, acc += acc_stride, at += block.dst_stride) {
    __m256i result[2];
    for (int half = 0; half < 2; ++half) {
      __m256i sum = _mm256_load_si256(reinterpret_cast<const __m256i*>(acc + 8 * half));
      if (e.lhs_zero_point != nullptr) {
        sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32(e.lhs_zero_point[m]), rhs_sum[half]));
      }
      if (e.rhs_zero_point != nullptr) {
        sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32(e.lhs_sum[m]), rhs_zero_point[half]));
      }
      result[half] = sum;
      if constexpr (kKind == DstKind::kInt32) continue;
      const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(e.lhs_scale[m]), rhs_scale[half]);
      __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
      if (e.bias != nullptr) y = _mm256_add_ps(y, bias[half]);
      if (e.relu) y = _mm256_andnot_ps(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_LE_OQ), y);  // NaN stays, -0 is +0
      result[half] = kKind == DstKind::kByte ? requantized(y, e) : _mm256_castps_si256(y);
    }
    if constexpr (kKind == DstKind::kByte) {
      store_bytes(static_cast<std::uint8_t*>(block.dst) + at, cols, bytes_of(result[0], result[1]));
    } else {
      store_words(static_cast<int*>(block.dst) + at, cols, result[0]);
      if (cols > 8) store_words(static_cast<int*>(block.dst) + at + 8, cols - 8, result[1]);
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
