// Prefetching of weights that come from beyond the L2 cache.
#pragma once

#include <immintrin.h>

namespace octavo {
namespace {

constexpr int kAheadBytes = 4096;

inline void prefetch_to_l2(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

// For a stream that kRows rows meet once, at its line number kLine. On Zen 4, for weights in L3 and in memory: with one
// and two rows every other line into L2 (its neighbour comes along), where a prefetch of each line into L1 took a
// quarter of the speed, being one load more. With three and four, which multiply for longer than they load, each line
// into L1: 1.8 times as fast from memory with four-bit weights.
template <int kRows, int kLine>
void prefetch_stream(const void* line) {
  if constexpr (kRows > 2) {
    _mm_prefetch(static_cast<const char*>(line) + kAheadBytes, _MM_HINT_T0);
  } else if constexpr (kLine % 2 == 0) {
    prefetch_to_l2(static_cast<const char*>(line) + kAheadBytes);
  }
}

}  // namespace
}  // namespace octavo
