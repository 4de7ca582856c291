// AVX512-VNNI: VPDPBUSD on 512-bit registers, detail/x86_vnni.h.
//
// A tile is 12 rows by 2 panels: 24 accumulators, 2 rhs and the lhs broadcast of 32 registers; 24 VPDPBUSD, 2 loads and
// 12 broadcast loads per step of 4 k for 1,536 multiply-adds.
#include <immintrin.h>

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/x86_avx512.h"
#include "kernels/detail/x86_vnni.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

struct Avx512Vnni : Avx512 {
  static constexpr int kMr = 12, kPanels = 2;
  static constexpr int kGemvLines[4] = {8, 4, 4, 4};

  static Ints dot(Ints sum, Ints lhs, Ints rhs) { return _mm512_dpbusd_epi32(sum, lhs, rhs); }
};

}  // namespace

extern const Int4Kernel int4_avx512vnni;
extern const GroupedKernel grouped_avx512vnni;
extern const IntegerKernel integer_avx512vnni;
extern const FunctionKernel functions_avx512vnni;
extern const Kernel kernel_avx512vnni;
constexpr Kernel kernel_avx512vnni =
    vnni_kernel<Avx512Vnni>("avx512vnni", kFeatureAvx512Vnni, 2e5, &integer_avx512vnni, {1.8, 4.1, 8.5, 8.5, 100},
                            &int4_avx512vnni, &grouped_avx512vnni, &functions_avx512vnni);

}  // namespace octavo
