// Prefetching of weights that come from beyond the L2 cache.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

constexpr int kAheadBytes = 4096;

// Where a thread reads more weights than this in a call, they come from beyond its L2 cache. Prefetching weights that
// are in it already cost a tenth of the speed.
constexpr std::int64_t kNearBytes = 1 << 20;

// GCC takes a function that only prefetches for one without effects, and drops its calls: so such functions are always
// inlined, and lambdas that only prefetch are avoided.
[[gnu::always_inline]] inline void prefetch_to_l2(const void* at) {
  _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1);
}

// Prefetches for a stream of lines that is read once, at its line number kLine.
//
// One or two rows of int8 are bound by loads, and a prefetch is one load more: on Zen 4 prefetching each line into L1
// cost them a quarter of the speed, from L3 and from memory. So only every other line is prefetched, into L2; its
// neighbour comes along. Rows that take longer to multiply than to load (kBusy: from 2 rows on with AVX2 and with four
// bits, from 3 on with VNNI and int8) prefetch each line twice: far ahead into L2, which can wait for more lines at a
// time than L1, and later into L1. With L1 alone four rows took 1.1 to 1.3 times as long for weights of 17 and 45 MB,
// of which L3 holds all or a part. Two rows took half as long with four bits in groups of 128 as with every other line,
// and 1.2 times as long with int8. If no part of the weights is in L3, three and four rows of int8 with VNNI are faster
// with L1 alone, kColdAheadBytes ahead (docs/kernels.md).
constexpr int kFarAheadBytes = 16384, kNearAheadBytes = 2048, kColdAheadBytes = 6144;

template <bool kBusy, int kLine>
[[gnu::always_inline]] inline void prefetch_stream(const void* line) {
  const char* const at = static_cast<const char*>(line);
  if constexpr (kBusy) {
    _mm_prefetch(at + kNearAheadBytes, _MM_HINT_T0);
    prefetch_to_l2(at + kFarAheadBytes);
  } else if constexpr (kLine % 2 == 0) {
    prefetch_to_l2(at + kAheadBytes);
  }
}

// Nibbles in groups of 32, and grouped codes of one or two rows, are busy with more than loads and products. On Zen 5
// each line into L2, kStreamAheadBytes ahead, made them 1.1 to 2 times as fast from memory; longer groups gained
// nothing from memory and lost 6 to 9 % from L3. On Zen 4 that was slower than no prefetch at all, and prefetching
// every other line, kAheadBytes ahead, was 1.3 to 1.6 times as fast as that. The exception is nibbles of two rows,
// which are busier still (grouped codes; gemm_grouped.cpp tells CPUs apart by AVX-VNNI).
constexpr int kStreamAheadBytes = 12288;

}  // namespace
}  // namespace octavo
