// Products of whole integers with 512-bit registers: VPDPWSSD for 16 bits (32 multiply-adds), VPMULLD for 32 (16) and
// VPMULLQ for 64 (8), where VPDPBUSD has 64 for bytes. VPMULLQ takes as long as the others on AMD, three times as long
// on Intel; 36 products of digits would still take longer.
//
// A tile is 12 rows by 2 panels: 24 accumulators, 2 rhs, the lhs broadcast and a product of 32 registers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/integer_tile.h"

namespace octavo {
namespace {

struct Wide512 {
  using Vec = __m512i;
  static constexpr int kMr = 12, kPanels = 2, kTileBytes = 64, kRhs = 1, kAccs = 1;
  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec load(const void* at) { return _mm512_load_si512(at); }
  static void store(void* at, Vec v) { _mm512_store_si512(at, v); }
  static void prepare(const void* at, Vec* rhs) { *rhs = load(at); }
  static Vec total(const Vec* acc) { return *acc; }
};

struct Wide16 : Wide512 {
  using Elem = std::int32_t;  // a pair
  using Sum = std::int32_t;
  static Vec broadcast(const Elem* a) { return _mm512_set1_epi32(*a); }
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm512_dpwssd_epi32(*acc, a, *b); }
};

struct Wide32 : Wide512 {
  using Elem = std::int32_t;
  using Sum = std::int32_t;
  static Vec broadcast(const Elem* a) { return _mm512_set1_epi32(*a); }
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm512_add_epi32(*acc, _mm512_mullo_epi32(a, *b)); }
};

struct Wide64 : Wide512 {
  using Elem = std::int64_t;
  using Sum = std::int64_t;
  static Vec broadcast(const Elem* a) { return _mm512_set1_epi64(*a); }
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm512_add_epi64(*acc, _mm512_mullo_epi64(a, *b)); }
};

// VPMULDQ, which multiplies the low halves.
struct Wide64Narrow : Wide64 {
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm512_add_epi64(*acc, _mm512_mul_epi32(a, *b)); }
};

}  // namespace

extern const IntegerKernel integer_avx512vnni;
const IntegerKernel integer_avx512vnni = kWideKernel<Wide16, Wide32, Wide64, Wide64Narrow>;

}  // namespace octavo
