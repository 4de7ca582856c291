// VPDPBUSD kernels of any vector width: four products of an unsigned and a signed byte are added to an int32 lane.
//
// The rhs is signed and lies in memory as VPDPBUSD wants it: a panel line of 64 bytes is 16 columns of 4 k. The lhs has
// to be unsigned, so its rows are stored as q + 128, and the accumulators start at -128 times the sum of their column:
//
//       sum (q + 128) w - 128 sum w = sum q w
//
// VPDPBUSD does not saturate: four products of at most 255 * 128 fit int32 by far, and sums wrap as the contract has
// it.
//
//       rhs registers   c0: k0 k1 k2 k3 | c1: k0 k1 k2 k3 | ... | c15           one line of a panel
//       lhs broadcast       k0 k1 k2 k3 |     k0 k1 k2 k3 | ... |               one row's 4 k, 4 bytes
//       accumulators    c0              | c1              | ... | c15           16 x int32
//
// A tile is Isa::kMr rows by Isa::kPanels panels. One to four rows stream the panels instead, one at a time, with
// accumulators for each of several lines in flight.
//
// An Isa gives: Vec; kVecs, the registers of a line; kMr, kPanels; kGemvLines[4], lines in flight for 1 to 4 rows;
// zero, load, store, broadcast, add, dot(sum, unsigned lhs, signed rhs) and start(column sums). finish_rows is that of
// x86_avx2.h or x86_avx512.h, whichever the kernel file has included before.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_rows.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr std::int64_t kGemvMaxRows = 4;
constexpr int kOffset = 128;

// Bytes from an lhs row to the next: whole lines, and never a multiple of 2 KiB, which would put the rows of a tile
// into few sets of the L1 cache.
inline std::int64_t lhs_stride(std::int64_t k) {
  const std::int64_t padded = (k + 63) / 64 * 64;
  return padded % 2048 == 0 ? padded + 64 : padded;
}
inline std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }

// A chunk of panels that the lhs meets tile by tile. Its share of the L2 cache, of which the lhs block takes half.
constexpr std::int64_t kChunkBytes = 256 << 10;
constexpr std::int64_t kMaxChunkPanels = 64;

template <class Isa>
std::int64_t scratch_elems(std::int64_t, std::int64_t) {
  return Isa::kMr * Isa::kPanels * kNr;
}

// Where a tile stands. K is not cut into pieces: a step takes fewer bytes of operands than the L2 cache delivers in
// half its time (176 in 24 cycles of AVX512-VNNI), and sums that leave the registers once are finished at once.
template <class Isa>
struct Tile {
  const std::uint8_t* lhs;
  std::int64_t lhs_stride;
  const std::int8_t* panel;
  std::int64_t panel_bytes, groups;
  std::int64_t row0, col0;
  std::int64_t ahead;  // bytes from each line to the one that is prefetched with it
};

template <class Isa>
typename Isa::Vec broadcast_4k(const std::uint8_t* a) {
  std::int32_t four;
  std::memcpy(&four, a, sizeof four);
  return Isa::broadcast(four);
}

constexpr int kUnroll = 2;

template <class Isa, int R, int kUsed>
void multiply_tile(const GemmBlock& block, const Tile<Isa>& tile) {
  using Vec = typename Isa::Vec;
  constexpr int kVecs = Isa::kVecs, kLanes = kNr / kVecs, kVecBytes = kLanes * kKr, kAccStride = Isa::kPanels * kNr;
  constexpr int kBases = kRowBases<R>;
  Vec sums[R][kUsed * kVecs];
  unrolled<kUsed * kVecs>([&](auto v) {
    const Vec start = Isa::start(block.column_sums + tile.col0 + kLanes * v);
    unrolled<R>([&](auto r) { sums[r][v] = start; });
  });
  const std::int64_t stride = tile.lhs_stride;
  const std::uint8_t* a[kBases];
  const std::int8_t* line[kUsed];
  unrolled<kBases>([&](auto i) { a[i] = tile.lhs + kRowsPerBase * i * stride; });
  unrolled<kUsed>([&](auto p) { line[p] = tile.panel + p * tile.panel_bytes; });
  const auto step = [&](auto i) {
    Vec b[kUsed * kVecs];
    unrolled<kUsed>([&](auto p) { prefetch_to_l2(line[p] + i * kLineBytes + tile.ahead); });
    unrolled<kUsed * kVecs>(
        [&](auto v) { b[v] = Isa::load(line[v / kVecs] + i * kLineBytes + v % kVecs * kVecBytes); });
    unrolled<R>([&](auto r) {
      const Vec row = broadcast_4k<Isa>(a[r / kRowsPerBase] + r % kRowsPerBase * stride + i * kKr);
      unrolled<kUsed * kVecs>([&](auto v) { sums[r][v] = Isa::dot(sums[r][v], row, b[v]); });
    });
  };
  std::int64_t g = 0;
  for (; g + kUnroll <= tile.groups; g += kUnroll) {
    unrolled<kUnroll>(step);
    unrolled<kBases>([&](auto i) { a[i] = kept_apart(a[i] + kUnroll * kKr); });
    unrolled<kUsed>([&](auto p) { line[p] += kUnroll * kLineBytes; });
  }
  if (g < tile.groups) unrolled<1>(step);
  unrolled<R>([&](auto r) {
    unrolled<kUsed * kVecs>([&](auto v) { Isa::store(block.scratch + kAccStride * r + kLanes * v, sums[r][v]); });
  });
  for (int p = 0; p < kUsed; ++p) {
    finish_rows(block, block.scratch + kNr * p, kAccStride, tile.row0, R, tile.col0 + kNr * p);
  }
}

// The tile of `rows` rows, 1 <= rows <= R.
template <class Isa, int kUsed, int R = Isa::kMr>
void multiply_rows(std::int64_t rows, const GemmBlock& block, const Tile<Isa>& tile) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<Isa, kUsed, R - 1>(rows, block, tile);
  }
  multiply_tile<Isa, R, kUsed>(block, tile);
}

// For each chunk of panels that fits a share of the L2 cache: for each tile of rows, which then stays in the L1 cache:
// the chunk's panels. So a row of the result is written in runs as long as the chunk is wide; runs of one tile's 128
// bytes take twice as long.
template <class Isa>
void gemm(const GemmBlock& block) {
  constexpr int kMr = Isa::kMr, kPanels = Isa::kPanels;
  const std::int64_t stride = lhs_stride(block.k);
  const std::int64_t groups = (block.k + kKr - 1) / kKr, panel_bytes = groups * kLineBytes;
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  // Rows of tiles as even as they come: 16 rows are 8 + 8 rather than 12 + 4.
  const std::int64_t tiles = (block.rows + kMr - 1) / kMr, tile_rows = (block.rows + tiles - 1) / tiles;
  const std::int64_t panels = (block.cols + kNr - 1) / kNr, fitting = kChunkBytes / panel_bytes / kPanels * kPanels;
  const std::int64_t chunk = fitting < kPanels ? kPanels : fitting > kMaxChunkPanels ? kMaxChunkPanels : fitting;
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < panels ? c0 + chunk : panels;
    for (std::int64_t m = 0; m < block.rows; m += tile_rows) {
      const std::int64_t rows = block.rows - m < tile_rows ? block.rows - m : tile_rows;
      const std::int64_t ahead = m == 0 ? kAheadBytes : 0;  // the first tile's lines may come from beyond L2
      for (std::int64_t p = c0; p < c1; p += kPanels) {
        const std::int8_t* const panel = block.rhs + p * panel_bytes;
        const Tile<Isa> tile{lhs + m * stride, stride, panel, panel_bytes, groups, m, p * kNr, ahead};
        if constexpr (kPanels > 1) {
          static_assert(kPanels == 2);
          if (c1 - p == 1) {
            multiply_rows<Isa, 1>(rows, block, tile);
            continue;
          }
        }
        multiply_rows<Isa, kPanels>(rows, block, tile);
      }
    }
  }
}

// R rows by one panel, several lines at a time, each with accumulators of its own.
template <class Isa, int R, bool kFar>
void stream_panel(const GemmBlock& block, const std::uint8_t* lhs, std::int64_t stride, const std::int8_t* line,
                  std::int64_t groups, std::int64_t n0) {
  using Vec = typename Isa::Vec;
  constexpr int kVecs = Isa::kVecs, kLanes = kNr / kVecs, kVecBytes = kLanes * kKr, kLines = Isa::kGemvLines[R - 1];
  Vec sums[R][kLines * kVecs];
  unrolled<R>([&](auto r) {
    unrolled<kLines * kVecs>([&](auto i) {
      sums[r][i] = i < kVecs ? Isa::start(block.column_sums + n0 + kLanes * (i % kVecs)) : Isa::zero();
    });
  });
  const auto multiply_line = [&](auto i) {
    unrolled<R>([&](auto r) {
      const Vec row = broadcast_4k<Isa>(lhs + r * stride + i * kKr);
      unrolled<kVecs>([&](auto v) {
        const Vec b = Isa::load(line + i * kLineBytes + v * kVecBytes);
        sums[r][i * kVecs + v] = Isa::dot(sums[r][i * kVecs + v], row, b);
      });
    });
  };
  std::int64_t g = 0;
  for (; g + kLines <= groups; g += kLines, line += kLines * kLineBytes, lhs += kLines * kKr) {
    unrolled<kLines>([&](auto i) {
      if constexpr (kFar) prefetch_stream<(R > 2), i>(line + i * kLineBytes);
      multiply_line(i);
    });
  }
  for (; g < groups; ++g, line += kLineBytes, lhs += kKr) multiply_line(Index<0>{});
  unrolled<R>([&](auto r) {
    unrolled<(kLines - 1) * kVecs>([&](auto i) {
      Vec& total = sums[r][i % kVecs];
      total = Isa::add(total, sums[r][i + kVecs]);
    });
    unrolled<kVecs>([&](auto v) { Isa::store(block.scratch + kNr * r + kLanes * v, sums[r][v]); });
  });
  finish_rows(block, block.scratch, kNr, 0, R, n0);
}

template <class Isa, int R, bool kFar>
void stream_panels(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k), groups = (block.k + kKr - 1) / kKr;
  const std::uint8_t* lhs = static_cast<const std::uint8_t*>(block.lhs);
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, panel += groups * kLineBytes) {
    stream_panel<Isa, R, kFar>(block, lhs, stride, panel, groups, n0);
  }
}

// `rows` rows, 1 <= rows <= R.
template <class Isa, int R = kGemvMaxRows>
void stream_rows(const GemmBlock& block) {
  if constexpr (R > 1) {
    if (block.rows < R) return stream_rows<Isa, R - 1>(block);
  }
  const bool far = block.cols * block.k > kNearBytes;
  far ? stream_panels<Isa, R, true>(block) : stream_panels<Isa, R, false>(block);
}

template <class Isa>
void gemv(const GemmBlock& block) {
  stream_rows<Isa>(block);
}

}  // namespace
}  // namespace octavo
