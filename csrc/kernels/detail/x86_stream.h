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
// 3 and more of VNNI) have each line fetched twice: from afar into L2, which waits for more lines at a time than L1
// does, and then into L1. Into L1 alone, four rows of weights of 17 and 45 MB took 1.1 to 1.3 times as long.
constexpr int kFarAheadBytes = 16384, kNearAheadBytes = 2048;

template <bool kBusy, int kLine>
void prefetch_stream(const void* line) {
  const char* const at = static_cast<const char*>(line);
  if constexpr (kBusy) {
    _mm_prefetch(at + kNearAheadBytes, _MM_HINT_T0);
    prefetch_to_l2(at + kFarAheadBytes);
  } else if constexpr (kLine % 2 == 0) {
    prefetch_to_l2(at + kAheadBytes);
  }
}

}  // namespace
}  // namespace octavo
