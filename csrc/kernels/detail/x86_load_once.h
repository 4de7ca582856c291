// Values in registers of their own.
#pragma once

#include <immintrin.h>

namespace octavo {
namespace {

[[gnu::always_inline]] inline __m512i in_a_register(__m512i v) {
#if defined(__AVX512F__)  // not where the tests emulate 512-bit vectors: no register holds one
  __asm__ volatile("" : "+v"(v));
#endif
  return v;
}

// A line that is loaded once. GCC otherwise makes memory operands of all its uses, and loading is what bounds a stream:
// Zen 4 loads 64 bytes a cycle.
inline __m512i load_once(const void* line) { return in_a_register(_mm512_load_si512(line)); }

}  // namespace
}  // namespace octavo
