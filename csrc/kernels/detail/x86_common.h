// What the x86 kernels share, written once for vectors of either width. A type `Isa` gives the width: Avx512
// (x86_avx512.h), Avx2 (x86_avx2.h), or a kernel's own type that derives from one of them.
//
// Panels: [N/16][K/4][16][4]. A line is 16 columns of 4 k, 64 bytes; it takes Isa::kVecs registers.
// Packed lhs of most kernels: rows of bytes, lhs_stride(k) apart.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/detail/row_quant.h"
#include "kernels/detail/unroll.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;

inline std::int64_t lines_of(std::int64_t k) { return (k + kKr - 1) / kKr; }
inline std::int64_t panels_of(std::int64_t cols) { return (cols + kNr - 1) / kNr; }

// Bytes from an lhs row to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a tile
// into few sets of the L1 cache.
inline std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 63) / 64 * 64;
  return padded % 2048 == 0 ? padded + 64 : padded;
}
inline std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }

// The four bytes at `a` in every lane: 4 k of one row.
template <class Isa>
typename Isa::Ints broadcast_4k(const void* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return Isa::broadcast(four);
}

// Rows as bytes of q + offset, offset 0 or 128. Behind k the rest of 16 bytes holds anything.
template <class Isa>
void quantize_bytes(const QuantizeLhs& task, std::int64_t stride, int offset) {
  const auto choose = [&](const auto& x) { return Isa::choose_row_quant(x, task); };
  for_each_row(task, choose, [&](std::int64_t m, const auto& x, const RowQuant& rq) {
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    if (rq.inverse == 0.0f) {
      std::memset(q, rq.zero_point + offset, static_cast<std::size_t>(stride));
      return;
    }
    const typename Isa::Quantizer quantized(rq, offset);
    for (std::int64_t i = 0; i < task.k; i += 16) {
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), quantized(x + i, task.k - i));
    }
  });
}

// int8 rows as bytes of q + offset, offset 0 or 128, each XORed with task.flip first.
template <class Isa>
void pack_bytes(const PackLhs& task, std::int64_t stride, int offset) {
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip ^ offset));  // x + 128 is x ^ 0x80
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; i += 16) {
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(Isa::load_16(x + i, task.k - i), flip));
    }
  }
}

// The end of every float result: + bias where there is one, then relu. NaN stays, -0 becomes +0.
template <class Isa>
typename Isa::Floats with_bias_and_relu(typename Isa::Floats y, typename Isa::Floats bias, bool has_bias, bool relu) {
  if (has_bias) y = Isa::add(y, bias);
  return relu ? Isa::relu(y) : y;
}

// Finishes `rows` rows of 16 sums, acc[row * acc_stride], into columns col0 .. col0 + 15 of the block, or as many as it
// has. What belongs to the columns is read once.
template <class Isa, DstKind kKind>
void finish_rows_as(const GemmBlock& block, const std::int32_t* acc, std::int64_t acc_stride, std::int64_t row0,
                    std::int64_t rows, std::int64_t col0) {
  using Ints = typename Isa::Ints;
  using Floats = typename Isa::Floats;
  const Epilogue e = block.epilogue;
  const std::int64_t cols = block.cols - col0;
  Ints rhs_sum[Isa::kVecs], rhs_zero_point[Isa::kVecs];
  Floats rhs_scale[Isa::kVecs], bias[Isa::kVecs];
  unrolled<Isa::kVecs>([&](auto v) {
    const std::int64_t at = col0 + Isa::kLanes * v;
    rhs_sum[v] = e.lhs_zero_point != nullptr ? Isa::load_words(e.rhs_sum + at) : Isa::zero();
    rhs_zero_point[v] = e.rhs_zero_point != nullptr ? Isa::load_words(e.rhs_zero_point + at) : Isa::zero();
    rhs_scale[v] = kKind != DstKind::kInt32 ? Isa::load_floats(e.rhs_scale + at) : Isa::zero_floats();
    bias[v] = e.bias != nullptr ? Isa::load_floats(e.bias + at) : Isa::zero_floats();
  });
  std::int64_t at = row0 * block.dst_stride + col0;
  for (std::int64_t m = row0; m < row0 + rows; ++m, acc += acc_stride, at += block.dst_stride) {
    Ints result[Isa::kVecs];
    Floats y[Isa::kVecs];
    unrolled<Isa::kVecs>([&](auto v) {
      Ints sum = Isa::load(acc + Isa::kLanes * v);
      if (e.lhs_zero_point != nullptr) {
        sum = Isa::sub(sum, Isa::multiply(Isa::broadcast(e.lhs_zero_point[m]), rhs_sum[v]));
      }
      if (e.rhs_zero_point != nullptr) {
        sum = Isa::sub(sum, Isa::multiply(Isa::broadcast(e.lhs_sum[m]), rhs_zero_point[v]));
      }
      result[v] = sum;
      if constexpr (kKind != DstKind::kInt32) {
        const Floats scale = Isa::multiply(Isa::broadcast(e.lhs_scale[m]), rhs_scale[v]);
        y[v] = with_bias_and_relu<Isa>(Isa::multiply(Isa::to_floats(sum), scale), bias[v], e.bias != nullptr, e.relu);
      }
    });
    if constexpr (kKind == DstKind::kInt32) Isa::store_words(static_cast<std::int32_t*>(block.dst) + at, cols, result);
    if constexpr (kKind == DstKind::kFloat32) Isa::store_floats(static_cast<float*>(block.dst) + at, cols, y);
    if constexpr (kKind == DstKind::kByte) Isa::store_bytes(static_cast<std::uint8_t*>(block.dst) + at, cols, y, e);
  }
}

template <class Isa>
[[gnu::noinline]] void finish_rows(const GemmBlock& block, const std::int32_t* acc, std::int64_t acc_stride,
                                   std::int64_t row0, std::int64_t rows, std::int64_t col0) {
  switch (block.epilogue.kind) {
    case DstKind::kInt32:
      return finish_rows_as<Isa, DstKind::kInt32>(block, acc, acc_stride, row0, rows, col0);
    case DstKind::kFloat32:
      return finish_rows_as<Isa, DstKind::kFloat32>(block, acc, acc_stride, row0, rows, col0);
    case DstKind::kByte:
      return finish_rows_as<Isa, DstKind::kByte>(block, acc, acc_stride, row0, rows, col0);
  }
}

}  // namespace
}  // namespace octavo
