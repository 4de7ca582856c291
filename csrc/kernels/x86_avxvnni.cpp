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

void quantize_lhs(const QuantizeLhs& task) { quantize_bytes(task, lhs_stride(task.k), kOffset); }
void pack_lhs(const PackLhs& task) { pack_bytes(task, lhs_stride(task.k), kOffset); }

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
