// The tile instructions in software, for the AMX kernels on CPUs without them: the functions of
// kernels/detail/x86_amx.h, written from the operation and exception sections of Intel's SDM, volume 2 (LDTILECFG,
// STTILECFG, TILELOADD, TILELOADDT1, TILESTORED, TILEZERO, TDPBSSD, TDPBSUD, TILERELEASE).
//
// The functions model_* take the numbers of tiles as arguments, for instructions that are decoded (trapped_tiles.cpp).
//
// Where an instruction would raise an exception the program ends and says why. One rule is the project's own: tiles
// that are not configured are not released.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/detail/x86_amx_config.h"

namespace octavo {

struct TileState {
  TileConfig config;
  std::uint8_t data[kTiles][kTileRows][kTileRowBytes];
};

TileState& tile_state();  // of this thread: amx_model.cpp

namespace {

constexpr std::uint32_t kTileFeature = 0;  // any CPU will do

inline void tile_require(bool condition, const char* exception) {
  if (condition) return;
  std::fprintf(stderr, "AMX model: %s\n", exception);
  std::abort();
}

inline bool tile_is_valid(int tile) {
  const TileConfig& config = tile_state().config;
  return config.palette == 1 && tile >= 0 && tile < kTiles && config.rows[tile] != 0 && config.row_bytes[tile] != 0;
}

inline void tile_configure(const TileConfig& config) {
  TileState& state = tile_state();
  tile_require(config.palette <= 1, "#GP, LDTILECFG: unknown palette");
  for (std::uint8_t byte : config.reserved) tile_require(byte == 0, "#GP, LDTILECFG: reserved byte");
  for (int i = 0; i < 16; ++i) {
    const bool used = i < kTiles;
    tile_require(config.rows[i] <= (used ? kTileRows : 0), "#GP, LDTILECFG: too many rows");
    tile_require(config.row_bytes[i] <= (used ? kTileRowBytes : 0), "#GP, LDTILECFG: too long rows");
    tile_require((config.rows[i] == 0) == (config.row_bytes[i] == 0), "#GP, LDTILECFG: rows without bytes");
  }
  state.config = config;
  std::memset(state.data, 0, sizeof state.data);
}

inline void tile_read_config(TileConfig& config) { config = tile_state().config; }

inline void tile_release() {
  tile_require(tile_state().config.palette != 0, "released without a configuration");
  tile_state() = {};
}

inline void model_zero(int tile) {
  tile_require(tile_is_valid(tile), "#UD, TILEZERO: tile not configured");
  std::memset(tile_state().data[tile], 0, kTileBytes);
}

inline void model_load(int tile, const void* from, std::int64_t stride) {
  tile_require(tile_is_valid(tile), "#UD, TILELOADD: tile not configured");
  TileState& state = tile_state();
  std::memset(state.data[tile], 0, kTileBytes);
  for (int row = 0; row < state.config.rows[tile]; ++row) {
    std::memcpy(state.data[tile][row], static_cast<const std::uint8_t*>(from) + row * stride,
                state.config.row_bytes[tile]);
  }
}

inline void model_store(int tile, void* to, std::int64_t stride) {
  tile_require(tile_is_valid(tile), "#UD, TILESTORED: tile not configured");
  const TileState& state = tile_state();
  for (int row = 0; row < state.config.rows[tile]; ++row) {
    std::memcpy(static_cast<std::uint8_t*>(to) + row * stride, state.data[tile][row], state.config.row_bytes[tile]);
  }
}

// TDPBSSD, or TDPBSUD where bytes of rhs are unsigned.
template <class RhsByte>
void model_dot(int sums_tile, int lhs_tile, int rhs_tile) {
  TileState& state = tile_state();
  const TileConfig& c = state.config;
  tile_require(sums_tile != lhs_tile && sums_tile != rhs_tile && lhs_tile != rhs_tile,
               "#UD, TDPBS?D: the same tile twice");
  tile_require(tile_is_valid(sums_tile) && tile_is_valid(lhs_tile) && tile_is_valid(rhs_tile),
               "#UD, TDPBS?D: not configured");
  tile_require(c.row_bytes[sums_tile] % 4 == 0 && c.row_bytes[lhs_tile] % 4 == 0 && c.row_bytes[rhs_tile] % 4 == 0,
               "#UD, TDPBS?D: rows of no whole doublewords");
  tile_require(c.rows[sums_tile] == c.rows[lhs_tile], "#UD, TDPBS?D: rows of sums and lhs differ");
  tile_require(c.row_bytes[sums_tile] == c.row_bytes[rhs_tile], "#UD, TDPBS?D: columns of sums and rhs differ");
  tile_require(c.row_bytes[lhs_tile] / 4 == c.rows[rhs_tile], "#UD, TDPBS?D: depths of lhs and rhs differ");
  for (int m = 0; m < c.rows[sums_tile]; ++m) {
    std::uint32_t sums[kTileRowBytes / 4];
    std::memcpy(sums, state.data[sums_tile][m], sizeof sums);
    for (int k = 0; k < c.row_bytes[lhs_tile] / 4; ++k) {
      const std::uint8_t* lhs = state.data[lhs_tile][m] + 4 * k;
      for (int n = 0; n < c.row_bytes[sums_tile] / 4; ++n) {
        const std::uint8_t* rhs = state.data[rhs_tile][k] + 4 * n;
        for (int i = 0; i < 4; ++i) {
          sums[n] += static_cast<std::uint32_t>(static_cast<std::int8_t>(lhs[i]) * static_cast<RhsByte>(rhs[i]));
        }
      }
    }
    std::memcpy(state.data[sums_tile][m], sums, sizeof sums);
  }
}

template <int kTile>
void tile_zero() {
  model_zero(kTile);
}

template <int kTile>
void tile_load_apart(const void* from, std::int64_t stride) {
  model_load(kTile, from, stride);
}

template <int kTile>
void tile_load(const void* from) {
  tile_load_apart<kTile>(from, kTileRowBytes);
}

template <int kTile>
void tile_load_far(const void* from) {
  tile_load<kTile>(from);
}

template <int kTile>
void tile_store(void* to) {
  model_store(kTile, to, kTileRowBytes);
}

template <int kSums, int kLhs, int kRhs>
void tile_dot() {
  model_dot<std::int8_t>(kSums, kLhs, kRhs);
}

template <int kSums, int kLhs, int kRhs>
void tile_dot_unsigned() {
  model_dot<std::uint8_t>(kSums, kLhs, kRhs);
}

}  // namespace
}  // namespace octavo
