// Products of whole integers with 256-bit registers: VPMADDWD for 16 bits, VPMULLD for 32.
//
// There is no multiplication of 64 bits. With a = 2^32 a1 + a0 and b = 2^32 b1 + b0, modulo 2^64:
//
//       a b = a0 b0 + 2^32 (a1 b0 + a0 b1)
//
// VPMULUDQ gives a0 b0 in 64 bits. Of the bracket 32 bits count: VPMULLD by b with its halves swapped gives both of its
// products side by side. They are summed apart and come together when the sums leave the registers.
//
//       accumulators   low     sum of a0 b0                  64 bits a column
//                      cross   sum of a0 b1 | sum of a1 b0   32 bits each
//
// A tile is 6 rows by a line (12 accumulators) or, for 64 bits, 5 rows by half a line (10).
#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/integer_tile.h"
#include "kernels/detail/x86_avx2.h"

namespace octavo {
namespace {

struct Wide256 {
  using Vec = __m256i;
  static Vec load(const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); }
  static void store(void* at, Vec v) { _mm256_store_si256(static_cast<__m256i*>(at), v); }
  static Vec zero() { return _mm256_setzero_si256(); }
};

struct OneAccumulator : Wide256 {
  using Elem = std::int32_t;
  using Sum = std::int32_t;
  static constexpr int kMr = 6, kPanels = 1, kTileBytes = 64, kRhs = 1, kAccs = 1;
  static void prepare(const void* at, Vec* rhs) { *rhs = load(at); }
  static Vec total(const Vec* acc) { return *acc; }
  static Vec broadcast(const Elem* a) { return _mm256_set1_epi32(*a); }
};

struct Wide16 : OneAccumulator {
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(a, *b)); }
};

struct Wide32 : OneAccumulator {
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm256_add_epi32(*acc, _mm256_mullo_epi32(a, *b)); }
};

struct Wide64 : Wide256 {
  using Elem = std::int64_t;
  using Sum = std::int64_t;
  static constexpr int kMr = 5, kPanels = 1, kTileBytes = 32, kRhs = 2, kAccs = 2;
  static void prepare(const void* at, Vec* rhs) {
    rhs[0] = load(at);
    rhs[1] = _mm256_shuffle_epi32(rhs[0], 0xb1);
  }
  static Vec broadcast(const Elem* a) { return _mm256_set1_epi64x(*a); }
  static void multiply(Vec* acc, Vec a, const Vec* b) {
    acc[0] = in_order(_mm256_add_epi64(acc[0], _mm256_mul_epu32(a, b[0])));
    acc[1] = in_order(_mm256_add_epi32(acc[1], _mm256_mullo_epi32(a, b[1])));
  }
  static Vec total(const Vec* acc) {
    const Vec both = _mm256_add_epi32(acc[1], _mm256_srli_epi64(acc[1], 32));
    return _mm256_add_epi64(acc[0], _mm256_slli_epi64(both, 32));
  }
};

// Where the upper halves are but signs, VPMULDQ is all.
struct Wide64Narrow : OneAccumulator {
  using Elem = std::int64_t;
  using Sum = std::int64_t;
  static Vec broadcast(const Elem* a) { return _mm256_set1_epi64x(*a); }
  static void multiply(Vec* acc, Vec a, const Vec* b) { *acc = _mm256_add_epi64(*acc, _mm256_mul_epi32(a, *b)); }
};

}  // namespace

extern const IntegerKernel integer_avx2;
const IntegerKernel integer_avx2 = kWideKernel<Wide16, Wide32, Wide64, Wide64Narrow>;

}  // namespace octavo
