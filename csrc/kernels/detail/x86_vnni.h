// VPDPBUSD kernels of any vector width: four products of an unsigned and a signed byte are added to an int32 lane.
//
// The rhs is signed and lies in memory as VPDPBUSD takes it: a panel line of 64 bytes is 16 columns of 4 k. The lhs has
// to be unsigned, so its rows are stored as q + 128, and the accumulators start at -128 times the sum of their column:
//
//       sum (q + 128) w - 128 sum w = sum q w
//
// VPDPBUSD does not saturate: int32 easily holds four products of at most 255 * 128, and sums wrap as the contract
// says.
//
//       rhs registers   c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c15           one line of a panel
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, 4 bytes
//       accumulators    c0              | c1              | ... | c15           16 x int32
//
// A tile is Isa::kMr rows by Isa::kPanels panels. One to four rows stream the panels instead, one at a time, with
// accumulators for each of several lines in flight.
//
// An Isa derives from Avx512 or Avx2 and adds: kMr, kPanels; kGemvLines[4], lines in flight for 1 to 4 rows;
// and dot(sum, unsigned lhs, signed rhs).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_common.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr std::int64_t kGemvMaxRows = 4;
constexpr int kOffset = 128;

// A chunk of panels, which all tiles of rows read in turn: its share of the L2 cache, of which the lhs block takes
// half.
constexpr std::int64_t kChunkBytes = 256 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

template <class Isa>
std::int64_t scratch_elems(std::int64_t, std::int64_t) {
  return Isa::kMr * Isa::kPanels * kNr;
}

// Where a tile stands. K is not cut into pieces: the L2 cache delivers a step's operands in less than half its time
// (176 bytes in 24 cycles with AVX512-VNNI), and sums that leave the registers only once can be finished at once.
struct Tile {
  const std::uint8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* panel;
  std::int64_t panel_bytes, lines;
  std::int64_t row0, col0;
  std::int64_t ahead;  // bytes from each line to the one that is prefetched with it
};

// What the sums of these columns start with.
template <class Isa>
typename Isa::Ints start_of(const std::int32_t* column_sums) {
  return Isa::times_minus_128(Isa::load_words(column_sums));
}

constexpr int kUnroll = 2;

template <class Isa, int R, int kUsed>
[[gnu::noinline]] void multiply_tile(const GemmBlock& block, const Tile& tile) {
  using Ints = typename Isa::Ints;
  constexpr int kVecs = Isa::kVecs, kLanes = Isa::kLanes, kVecBytes = kLanes * kKr, kAccStride = Isa::kPanels * kNr;
  constexpr int kBases = kRowBases<R>;
  Ints sums[R][kUsed * kVecs];
  unrolled<kUsed * kVecs>([&](auto v) {
    const Ints start = start_of<Isa>(block.column_sums + tile.col0 + kLanes * v);
    unrolled<R>([&](auto r) { sums[r][v] = start; });
  });
  const std::int64_t stride = tile.lhs_stride;
  const std::uint8_t* a[kBases];
  const std::int8_t* line[kUsed];
  unrolled<kBases>([&](auto i) { a[i] = tile.lhs + kRowsPerBase * i * stride; });
  unrolled<kUsed>([&](auto p) { line[p] = tile.panel + p * tile.panel_bytes; });
  const auto step = [&](auto i) {
    Ints b[kUsed * kVecs];
    unrolled<kUsed>([&](auto p) { prefetch_to_l2(line[p] + i * kLineBytes + tile.ahead); });
    unrolled<kUsed * kVecs>(
        [&](auto v) { b[v] = Isa::load(line[v / kVecs] + i * kLineBytes + v % kVecs * kVecBytes); });
    unrolled<R>([&](auto r) {
      const Ints row = broadcast_4k<Isa>(a[r / kRowsPerBase] + r % kRowsPerBase * stride + i * kKr);
      unrolled<kUsed * kVecs>([&](auto v) { sums[r][v] = Isa::dot(sums[r][v], row, b[v]); });
    });
  };
  std::int64_t l = 0;
  for (; l + kUnroll <= tile.lines; l += kUnroll) {
    unrolled<kUnroll>(step);
    unrolled<kBases>([&](auto i) { a[i] = kept_apart(a[i] + kUnroll * kKr); });
    unrolled<kUsed>([&](auto p) { line[p] += kUnroll * kLineBytes; });
  }
  if (l < tile.lines) unrolled<1>(step);
  unrolled<R>([&](auto r) {
    unrolled<kUsed * kVecs>([&](auto v) { Isa::store(block.scratch + kAccStride * r + kLanes * v, sums[r][v]); });
  });
  for (int p = 0; p < kUsed; ++p) {
    finish_rows<Isa>(block, block.scratch + kNr * p, kAccStride, tile.row0, R, tile.col0 + kNr * p);
  }
}

// For each chunk of panels, which stays in the L2 cache: for each tile of rows, which stays in the L1 cache: the
// chunk's panels. So each row of the result is written in runs as long as the chunk is wide. Runs of a single tile's
// 128 bytes take twice as long.
template <class Isa>
void gemm(const GemmBlock& block) {
  constexpr int kMr = Isa::kMr, kPanels = Isa::kPanels;
  const std::int64_t stride = lhs_stride(block.k), lines = lines_of(block.k), panel_bytes = lines * kLineBytes;
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  // Tiles are as even as possible: 16 rows are 8 + 8 rather than 12 + 4.
  const std::int64_t tiles = (block.rows + kMr - 1) / kMr, tile_rows = (block.rows + tiles - 1) / tiles;
  const std::int64_t panels = panels_of(block.cols), fitting = kChunkBytes / panel_bytes / kPanels * kPanels;
  const std::int64_t chunk = fitting < kPanels ? kPanels : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < panels ? c0 + chunk : panels;
    for (std::int64_t m = 0; m < block.rows; m += tile_rows) {
      const std::int64_t rows = block.rows - m < tile_rows ? block.rows - m : tile_rows;
      for (std::int64_t p = c0; p < c1; p += kPanels) {
        const Tile tile{
            .lhs = lhs + m * stride,
            .lhs_stride = stride,
            .panel = block.rhs + p * panel_bytes,
            .panel_bytes = panel_bytes,
            .lines = lines,
            .row0 = m,
            .col0 = p * kNr,
            .ahead = m == 0 ? kAheadBytes : 0,  // the first tile's lines may come from beyond L2
        };
        with_constant<kPanels>(c1 - p < kPanels ? c1 - p : kPanels, [&](auto used) {
          with_constant<kMr>(rows, [&](auto r) { multiply_tile<Isa, r, used>(block, tile); });
        });
      }
    }
  }
}

// R rows by one panel, several lines at a time, each with accumulators of its own.
//
// Left alone, GCC loads a line again for each row and copies the sums back and forth: two and three rows took 1.4 and
// 1.7 times as long. Only one row from beyond L2 is left alone, which a tighter loop made no faster.
template <class Isa, int R, bool kFar>
void stream_panel(const GemmBlock& block, const std::uint8_t* lhs, std::int64_t stride, const std::int8_t* line,
                  std::int64_t lines, std::int64_t n0) {
  using Ints = typename Isa::Ints;
  constexpr int kVecs = Isa::kVecs, kLanes = Isa::kLanes, kVecBytes = kLanes * kKr, kLines = Isa::kGemvLines[R - 1];
  constexpr bool kHeld = R > 1 || !kFar;
  const auto held = [](Ints v) {
    if constexpr (kHeld) v = Isa::in_register(v);
    return v;
  };
  Ints sums[R][kLines * kVecs];
  unrolled<R>([&](auto r) {
    unrolled<kLines * kVecs>([&](auto v) {
      sums[r][v] = held(v < kVecs ? start_of<Isa>(block.column_sums + n0 + kLanes * (v % kVecs)) : Isa::zero());
    });
  });
  const auto multiply_line = [&](auto l) {
    Ints b[kVecs];
    unrolled<kVecs>([&](auto v) { b[v] = held(Isa::load(line + l * kLineBytes + v * kVecBytes)); });
    unrolled<R>([&](auto r) {
      const Ints row = broadcast_4k<Isa>(lhs + r * stride + l * kKr);
      unrolled<kVecs>([&](auto v) { sums[r][l * kVecs + v] = Isa::dot(sums[r][l * kVecs + v], row, b[v]); });
    });
  };
  // From memory both prefetches ask for the same line: the second one made no difference, and one loop serves both.
  const int near_ahead = block.rhs_cold ? kColdAheadBytes : kNearAheadBytes;
  const int far_ahead = block.rhs_cold ? kColdAheadBytes : kFarAheadBytes;
  std::int64_t i = 0;
  for (; i + kLines <= lines; i += kLines, line += kLines * kLineBytes, lhs += kLines * kKr) {
    unrolled<kLines>([&](auto l) {
      const auto* const at = reinterpret_cast<const char*>(line + l * kLineBytes);
      if constexpr (kFar && R > 2) {
        _mm_prefetch(at + near_ahead, _MM_HINT_T0);
        prefetch_to_l2(at + far_ahead);
      } else if constexpr (kFar && l % 2 == 0) {
        prefetch_to_l2(at + R * kAheadBytes);
      }
      multiply_line(l);
    });
  }
  for (; i < lines; ++i, line += kLineBytes, lhs += kKr) multiply_line(Index<0>{});
  unrolled<R>([&](auto r) {
    unrolled<(kLines - 1) * kVecs>([&](auto v) {
      Ints& total = sums[r][v % kVecs];
      total = Isa::add(total, sums[r][v + kVecs]);
    });
    unrolled<kVecs>([&](auto v) { Isa::store(block.scratch + kNr * r + kLanes * v, sums[r][v]); });
  });
  finish_rows<Isa>(block, block.scratch, kNr, 0, R, n0);
}

template <class Isa>
void gemv(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k), lines = lines_of(block.k);
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  const auto stream = [&](auto rows, auto far) {
    const std::int8_t* panel = block.rhs;
    for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += lines * kLineBytes) {
      stream_panel<Isa, rows, far != 0>(block, lhs, stride, panel, lines, n0);
    }
  };
  with_constant<kGemvMaxRows>(block.rows, [&](auto rows) {
    block.cols* block.k > kNearBytes ? stream(rows, Index<1>{}) : stream(rows, Index<0>{});
  });
}

template <class Isa>
void quantize_lhs(const QuantizeLhs& task) {
  quantize_bytes<Isa>(task, lhs_stride(task.k), kOffset);
}

template <class Isa>
void pack_lhs(const PackLhs& task) {
  pack_bytes<Isa>(task, lhs_stride(task.k), kOffset);
}

// The row of the table.
template <class Isa>
constexpr Kernel vnni_kernel(const char* name, std::uint32_t features, double multiply_adds_per_us,
                             const IntegerKernel* integer, IntegerCosts integer_costs, const Int4Kernel* int4 = nullptr,
                             const GroupedKernel* grouped = nullptr, const FunctionKernel* functions = nullptr) {
  return {
      .name = name,
      .features = features,
      .nr = kNr,
      .kr = kKr,
      .mr = Isa::kMr,
      .panels = Isa::kPanels,
      .lhs_elem_bytes = 1,
      .lhs_bytes = lhs_bytes,
      .scratch_elems = scratch_elems<Isa>,
      .quantize_lhs = quantize_lhs<Isa>,
      .pack_lhs = pack_lhs<Isa>,
      .gemm = gemm<Isa>,
      .gemv = gemv<Isa>,
      .gemv_max_rows = kGemvMaxRows,
      .multiply_adds_per_us = multiply_adds_per_us,
      .int4 = int4,
      .grouped = grouped,
      .integer = integer,
      .integer_costs = integer_costs,
      .functions = functions,
      .apart_rows = 1,
  };
}

}  // namespace
}  // namespace octavo
