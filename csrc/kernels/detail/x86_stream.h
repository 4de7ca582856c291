// Prefetching of weights that come from beyond the L2 cache.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

constexpr int kAheadBytes = 4096;

// Weights of which a thread reads more than this in a call come from beyond its L2 cache. Of those that are in it
// already any prefetch took a tenth of the speed.
constexpr std::int64_t kNearBytes = 1 << 20;

inline void prefetch_to_l2(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

// For a stream that some rows meet once, at its line number kLine. Few rows load as fast as they can: every other line
// into L2, and its neighbour comes along. On Zen 4, from L3 and from memory, a prefetch of each line into L1 took them
// a quarter of the speed, being one load more. Rows that multiply for longer than they load (kBusy; 2 and more of AVX2,
// 3 and more of VNNI) take each line into L1: twice the speed for four of them.
template <bool kBusy, int kLine>
void prefetch_stream(const void* line) {
  const char* const ahead = static_cast<const char*>(line) + kAheadBytes;
  if constexpr (kBusy) {
    _mm_prefetch(ahead, _MM_HINT_T0);
  } else if constexpr (kLine % 2 == 0) {
    _mm_prefetch(ahead, _MM_HINT_T1);
  }
}

}  // namespace
}  // namespace octavo
