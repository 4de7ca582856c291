// AVX512-VNNI: VPDPBUSD on 512-bit registers, detail/x86_vnni.h.
//
// A tile is 12 rows by 2 panels: 24 accumulators, 2 rhs and the lhs broadcast of 32 registers; 24 VPDPBUSD, 2 loads and
// 12 broadcast loads per step of 4 k for 1,536 multiply-adds.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_vnni.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

struct Avx512Vnni {
  using Vec = __m512i;
  static constexpr int kVecs = 1, kMr = 12, kPanels = 2;
  static constexpr int kGemvLines[4] = {8, 6, 4, 4};

  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec load(const void* at) { return _mm512_load_si512(at); }
  static void store(void* at, Vec v) { _mm512_store_si512(at, v); }
  static Vec broadcast(std::int32_t four) { return _mm512_set1_epi32(four); }
  static Vec add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  static Vec dot(Vec sum, Vec lhs, Vec rhs) { return _mm512_dpbusd_epi32(sum, lhs, rhs); }
  // What the sums of these columns start with: -128 times the sum of the column.
  static Vec start(const std::int32_t* column_sums) {
    return _mm512_sub_epi32(zero(), _mm512_slli_epi32(_mm512_loadu_si512(column_sums), 7));
  }
};

void quantize_lhs(const QuantizeLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const float* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    const RowQuant rq = choose_row_quant(x, task);
    task.scale[m] = rq.scale;
    task.zero_point[m] = rq.zero_point;
    if (rq.inverse == 0.0f) {
      std::memset(q, rq.zero_point + kOffset, static_cast<std::size_t>(stride));
      continue;
    }
    const RowQuantizer quantized(rq, kOffset);
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(first_lanes(task.k - i), x + i);
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), quantized(v));
    }
  }
}

void pack_lhs(const PackLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  const __m128i flip = _mm_set1_epi8(static_cast<char>(task.flip ^ kOffset));  // x + 128 is x ^ 0x80
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; i += 16) {
      const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(task.k - i), x + i);
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(bytes, flip));
    }
  }
}

}  // namespace

extern const Int4Kernel int4_avx512vnni;
extern const Kernel kernel_avx512vnni;
const Kernel kernel_avx512vnni = {
    .name = "avx512vnni",
    .features = kFeatureAvx512Vnni,
    .nr = kNr,
    .kr = kKr,
    .mr = Avx512Vnni::kMr,
    .panels = Avx512Vnni::kPanels,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems<Avx512Vnni>,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm<Avx512Vnni>,
    .gemv = gemv<Avx512Vnni>,
    .gemv_max_rows = kGemvMaxRows,
    .int4 = &int4_avx512vnni,
};

}  // namespace octavo
