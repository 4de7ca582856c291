// AVX-VNNI: VPDPBUSD on 256-bit registers in its VEX form, detail/x86_vnni.h. For CPUs without AVX512 (Intel's client
// cores since Alder Lake and Sierra Forest).
//
// A tile is 6 rows by 1 panel, whose line is two registers: 12 accumulators, 2 rhs and the lhs broadcast of 16
// registers; 12 VPDPBUSD, 2 loads and 6 broadcast loads per step of 4 k for 384 multiply-adds. At two VPDPBUSD and two
// loads a cycle the multiplications need 6 cycles and the loads 4, and 12 accumulators cover a latency of 6.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/features.h"
#include "kernels/detail/x86_avx2.h"
#include "kernels/detail/x86_vnni.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// The tests also build this file for AVX512-VNNI, which has the same instruction in EVEX form: CPUs with one of the two
// often lack the other.
#if defined(__AVXVNNI__)
constexpr std::uint32_t kFeature = kFeatureAvxVnni;
__m256i dpbusd(__m256i sum, __m256i lhs, __m256i rhs) { return _mm256_dpbusd_avx_epi32(sum, lhs, rhs); }
#else
constexpr std::uint32_t kFeature = kFeatureAvx512Vnni;
__m256i dpbusd(__m256i sum, __m256i lhs, __m256i rhs) { return _mm256_dpbusd_epi32(sum, lhs, rhs); }
#endif

struct AvxVnni {
  using Vec = __m256i;
  static constexpr int kVecs = 2, kMr = 6, kPanels = 1;
  static constexpr int kGemvLines[4] = {4, 2, 1, 1};

  static Vec zero() { return _mm256_setzero_si256(); }
  static Vec load(const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); }
  static void store(void* at, Vec v) { _mm256_store_si256(static_cast<__m256i*>(at), v); }
  static Vec broadcast(std::int32_t four) { return _mm256_set1_epi32(four); }
  static Vec add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static Vec dot(Vec sum, Vec lhs, Vec rhs) { return dpbusd(sum, lhs, rhs); }
  // What the sums of these columns start with: -128 times the sum of the column.
  static Vec start(const std::int32_t* column_sums) {
    const Vec sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column_sums));
    return _mm256_sub_epi32(zero(), _mm256_slli_epi32(sums, 7));
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
      const Sixteen v = load_16(x + i, task.k - i);
      const __m128i bytes = bytes_of(quantized(v.first_8), quantized(v.last_8));
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), bytes);
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
      _mm_store_si128(reinterpret_cast<__m128i*>(q + i), _mm_xor_si128(load_16(x + i, task.k - i), flip));
    }
  }
}

}  // namespace

extern const Int4Kernel int4_avx2;
extern const Kernel kernel_avxvnni;
const Kernel kernel_avxvnni = {
    .name = "avxvnni",
    .features = kFeature | kFeatureAvx2,
    .nr = kNr,
    .kr = kKr,
    .mr = AvxVnni::kMr,
    .panels = AvxVnni::kPanels,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems<AvxVnni>,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm<AvxVnni>,
    .gemv = gemv<AvxVnni>,
    .gemv_max_rows = kGemvMaxRows,
    .int4 = &int4_avx2,
};

}  // namespace octavo
