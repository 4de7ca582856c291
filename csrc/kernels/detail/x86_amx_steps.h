// Products of tiles, for weights of any number of bits: TDPB*D multiplies 16 rows of 64 int8 by 64 rows of 16 bytes and
// adds them to 16 x 16 int32. A tile is 16 rows of 64 bytes:
//
//       rhs tile    16 panel lines, 64 k of 16 columns, straight from the packed panel; 1 KiB in a run
//       lhs tile    64 k of 16 rows, 1 KiB in a run:  lhs[row / 16][k / 64][row % 16][k % 64], zero beyond K
//       sums        16 rows of 16 columns
//
// Of eight tiles four hold sums. For 2 row tiles by 2 panels a step of 64 k is
//
//       lhs 0 -> t4, rhs 0 -> t6, sum 0, lhs 1 -> t5, sum 2, rhs 1 -> t6, sums 1 and 3
//
// and t7 is not used: one register more made no difference where a core ran one thread, and where it shared its tiles
// with a second one each register that was in use cost a fifth of the time. For 1 row tile by up to 4 panels the lhs is
// t4, and the panels take turns in t6.
//
// The rhs is loaded with TILELOADDT1, so that the L1 cache is left to the lhs, up to kNearSteps; longer rows do not
// stay there, and are loaded so, too.
//
// Sums leave the tiles between two multiplications: all four are stored and those that are needed set to zero, or
// loaded. While the next multiplication goes on, a `Leaving` finishes them, a few rows a step. So a multiplication
// takes what the one before it left, and its caller keeps in mind what it leaves itself.
//
// Included after the tile instructions (x86_amx.h, or the tests' model of them).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_common.h"

namespace octavo {
namespace {

constexpr int kStepK = kTileRowBytes;  // K of a step: a row of an lhs tile
constexpr int kSumTiles = 4, kLhsTile = 4, kRhsTile = 6;
constexpr int kTileSums = kTileRows * kNr;
constexpr int kPairRows = 2 * kTileRows;
constexpr std::int64_t kTileLines = kTileBytes / kLineBytes;  // of the cache, and of a panel

constexpr std::int64_t kNearSteps = 20;

// Tiles for the time of a task. Other users of the tiles on this thread find their configuration again, but not what
// the tiles held.
class Tiles {
 public:
  explicit Tiles(const TileConfig& config) {
    tile_read_config(before_);
    tile_configure(config);
  }
  ~Tiles() {
    if (before_.palette == 0) {
      tile_release();
    } else {
      tile_configure(before_);
    }
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  TileConfig before_{};
};

// Steps of `k_bytes` of K. Every tile whole, or the lhs and its sums with no more rows than there are: fewer rows
// multiply faster.
inline TileConfig tile_config(std::int64_t rows, int k_bytes) {
  const auto lhs_rows = static_cast<std::uint8_t>(rows < kTileRows ? rows : kTileRows);
  TileConfig config{};
  config.palette = 1;
  for (int i = 0; i < kTiles; ++i) {
    config.row_bytes[i] = static_cast<std::uint16_t>(i == kLhsTile || i == kLhsTile + 1 ? k_bytes : kTileRowBytes);
    config.rows[i] = i < kRhsTile ? lhs_rows : static_cast<std::uint8_t>(k_bytes / kKr);
  }
  return config;
}

// Brings lines that are needed later into the L2 cache: runs of run_bytes, `stride` apart.
struct Prefetch {
  const std::int8_t* run = nullptr;
  std::int64_t runs = 0, run_bytes = 0, stride = 0, lines_a_step = 0;
  std::int64_t at = 0;

  [[gnu::always_inline]] void step() {
    for (std::int64_t i = 0; i < lines_a_step && runs > 0; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(run + at), _MM_HINT_T1);
      at += kLineBytes;
      if (at < run_bytes) continue;
      at = 0;
      run += stride;
      --runs;
    }
  }
};

// One multiplication: a pair of row tiles, or one, by a few panels over consecutive steps of K.
struct TileProduct {
  const std::int8_t* lhs;
  std::int64_t row_tile_bytes;
  const std::int8_t* rhs;
  std::int64_t panel_bytes;
  std::int64_t steps;
  const std::int32_t* initial = nullptr;  // sums so far, [row tile][panel][16][16]; null: zero
  std::int64_t near_bytes = 0;            // of each panel: what lies so far ahead is prefetched into the L1 cache; or 0
  bool far_lhs = false;                   // it does not stay in the L1 cache
};

// The tiles of one step. `Format` says how a rhs tile is multiplied with, and whether few rows stream the rhs
// (near_bytes). Branches on `of` go the same way in all steps: beside tiles they cost little, where copies of the code
// without them would take twice the room.
template <class Format, int kRowTiles, int kPanels>
[[gnu::always_inline]] inline void multiply_step(const std::int8_t* lhs, const std::int8_t* rhs,
                                                 const TileProduct& of) {
  static_assert(kRowTiles * kPanels <= kSumTiles);
  const auto load_lhs = [&](auto r) {
    const std::int8_t* from = lhs + r * of.row_tile_bytes;
    if (of.far_lhs) {
      tile_load_far<kLhsTile + r>(from);
    } else {
      tile_load<kLhsTile + r>(from);
    }
  };
  load_lhs(Index<0>{});
  unrolled<kPanels>([&](auto p) {
    const std::int8_t* from = rhs + p * of.panel_bytes;
    if constexpr (kRowTiles == 1 && Format::kStreamed) {
      for (std::int64_t i = 0; i < kTileLines && of.near_bytes != 0; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(from + of.near_bytes + i * kLineBytes), _MM_HINT_T0);
      }
    }
    tile_load_far<kRhsTile>(from);
    unrolled<kRowTiles>([&](auto r) {
      if constexpr (p == 0 && r > 0) load_lhs(r);
      Format::template dot<r * kPanels + p, kLhsTile + r, kRhsTile>();
    });
  });
}

// Between two multiplications: all sums to `leaving`, and those that this one needs from their beginning.
template <int kUsed>
void exchange_sums(std::int32_t* leaving, const std::int32_t* initial) {
  unrolled<kSumTiles>([&](auto i) { tile_store<i>(leaving + i * kTileSums); });
  if (initial == nullptr) {
    unrolled<kUsed>([&](auto i) { tile_zero<i>(); });
  } else {
    unrolled<kUsed>([&](auto i) { tile_load<i>(initial + i * kTileSums); });
  }
}

}  // namespace
}  // namespace octavo
