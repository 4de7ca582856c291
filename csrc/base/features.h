// Names for what a kernel may need. Plain numbers, because kernel files include nothing else of base/.
#pragma once

#include <cstdint>

namespace octavo {

// Bits of a feature set. One bit stands for all that a kernel of that name needs.
enum Feature : std::uint32_t {
  kFeatureAvx2 = 1u << 0,  // with FMA and F16C
  kFeatureAvxVnni = 1u << 1,
  kFeatureAvx512Vnni = 1u << 2,  // with AVX512 F, BW, DQ and VL
  kFeatureAmxInt8 = 1u << 3,     // with the permission to use tiles
  kFeatureNeon = 1u << 4,
  kFeatureDotprod = 1u << 5,
  kFeatureI8mm = 1u << 6,
  kFeatureSimd128 = 1u << 7,
  kFeatureRelaxedSimd = 1u << 8,
};

}  // namespace octavo
