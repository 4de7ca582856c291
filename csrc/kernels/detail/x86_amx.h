// The tile instructions, a function each. Tiles in memory are contiguous, a row of 64 bytes behind the row before it,
// but for those of one function, whose rows lie `stride` bytes apart.
//
// They are written out because the compilers' own headers differ: GCC 12's tile load does not say that it reads memory,
// and neither GCC's nor Clang's macros take a tile's number from a template. No tile register needs saving around them:
// compilers never use one. tests/native/amx_model.h gives the same functions in software.
#pragma once

#include <cstdint>

#include "base/features.h"
#include "kernels/detail/x86_amx_config.h"

namespace octavo {
namespace {

constexpr std::uint32_t kTileFeature = kFeatureAmxInt8;

inline void tile_configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }

// The configuration in use; palette 0 where there is none.
inline void tile_read_config(TileConfig& config) { __asm__ volatile("sttilecfg %0" : "=m"(config)); }

inline void tile_release() { __asm__ volatile("tilerelease"); }

template <int kTile>
void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kTile>
void tile_load(const void* from) {
  using Bytes = const char[kTileBytes];
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0"
                   :
                   : "i"(kTile), "r"(from), "r"(std::int64_t{kTileRowBytes}), "m"(*static_cast<Bytes*>(from)));
}

// The same for data that is not read again from the L1 cache, which it does not push others out of: a hint.
template <int kTile>
void tile_load_far(const void* from) {
  using Bytes = const char[kTileBytes];
  __asm__ volatile("tileloaddt1 (%1,%2,1), %%tmm%c0"
                   :
                   : "i"(kTile), "r"(from), "r"(std::int64_t{kTileRowBytes}), "m"(*static_cast<Bytes*>(from)));
}

template <int kTile>
void tile_load_apart(const void* from, std::int64_t stride) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(from), "r"(stride) : "memory");
}

template <int kTile>
void tile_store(void* to) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)"
                   :
                   : "i"(kTile), "r"(to), "r"(std::int64_t{kTileRowBytes})
                   : "memory");
}

// sums += lhs * rhs, int8 by int8: sums[m][n] += lhs[m][4 g + i] * rhs[g][4 n + i] over g < 16 and i < 4.
template <int kSums, int kLhs, int kRhs>
void tile_dot() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kLhs), "i"(kRhs));
}

// The same with unsigned bytes in rhs.
template <int kSums, int kLhs, int kRhs>
void tile_dot_unsigned() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kLhs), "i"(kRhs));
}

}  // namespace
}  // namespace octavo
