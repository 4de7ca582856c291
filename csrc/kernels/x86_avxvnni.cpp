// AVX-VNNI: VPDPBUSD on 256-bit registers in its VEX form, detail/x86_vnni.h. For CPUs without AVX512 (Intel's client
// cores since Alder Lake and Sierra Forest).
//
// A tile is 6 rows by 1 panel, whose line is two registers: 12 accumulators, 2 rhs and the lhs broadcast of 16
// registers; 12 VPDPBUSD, 2 loads and 6 broadcast loads per step of 4 k for 384 multiply-adds. At two VPDPBUSD and two
// loads a cycle the multiplications need 6 cycles and the loads 4, and 12 accumulators cover a latency of 6.
#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/x86_avx2.h"
#include "kernels/detail/x86_vnni.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

// The tests also build this file for AVX512-VNNI, which has the same instruction in EVEX form, because CPUs with one of
// the two often lack the other.
#if defined(__AVXVNNI__)
constexpr std::uint32_t kFeature = kFeatureAvxVnni;
__m256i dpbusd(__m256i sum, __m256i lhs, __m256i rhs) { return _mm256_dpbusd_avx_epi32(sum, lhs, rhs); }
#else
constexpr std::uint32_t kFeature = kFeatureAvx512Vnni;
__m256i dpbusd(__m256i sum, __m256i lhs, __m256i rhs) { return _mm256_dpbusd_epi32(sum, lhs, rhs); }
#endif

struct AvxVnni : Avx2 {
  static constexpr int kMr = 6, kPanels = 1;
  static constexpr int kGemvLines[4] = {4, 2, 1, 1};

  static Ints dot(Ints sum, Ints lhs, Ints rhs) { return dpbusd(sum, lhs, rhs); }
};

}  // namespace

extern const IntegerKernel integer_avx2;
extern const Kernel kernel_avxvnni;
// Costs were not measured on such a CPU: they follow from how many multiply-adds a cycle each instruction makes.
constexpr Kernel kernel_avxvnni =
    vnni_kernel<AvxVnni>("avxvnni", kFeature | kFeatureAvx2, 1.5e5, &integer_avx2, {2, 8, 24, 8, 60});

}  // namespace octavo
