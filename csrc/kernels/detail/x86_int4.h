// The frame of the x86 kernels for four-bit weights: how the lhs is packed, and the loops over panels, pieces of K and
// tiles of rows. What differs is a type `Isa`:
//
//   kMr, kPanels          rows and panels of a register tile
//   kDirectTiles          tiles of rows up to which nibbles are unpacked on the way into registers, by each tile anew
//   kPieceHalves          halves (32 k) of a piece of K, at most
//   kGemvMaxRows          rows up to which gemv takes one panel at a time, to stream them from memory
//   sum_of_32(q)          the sum of 32 signed bytes
//   quantize(task, stride)                 rows to signed bytes, zeros behind k
//   unpack_line(src, high, dst)            a line's low or high nibbles as a line of bytes
//   multiply<R, P, kSource>(block, tile)   R rows by P panels over a piece of K: adds up y, or carries sums on
//   finish<R>(block, y, row0, col0)        a panel's columns of R rows of y to the caller's array
//
// Many tiles of rows: a piece of K is unpacked once, to plain lines in the nearest cache that has room, which all tiles
// read (and which look like lines of the int8 panels). Sums of a group that ends in the piece are rescaled and added to
// y, which lies in L2 for many rows and is touched once a group; sums of a group that goes on are carried to the next
// piece as they are.
//
// Packed lhs: row-major int8, then for each row and group -f * (sum of the group's q), where f is the offset of the
// weights if it is the same for all, else 1. With f the sums of products start from it as it is: symmetric weights cost
// a broadcast a group instead of a zeroed register.
#pragma once

#include <cstdint>

#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

constexpr int kNr = 16;
constexpr int kKr = 4;
constexpr std::int64_t kLineBytes = kNr * kKr;
constexpr std::int64_t kHalfLines = kInt4Half / kKr;  // lines of 32 k, of which a chunk of 64 k holds two in one

// Where a tile finds its lines.
enum class Int4Source {
  kPlain,   // unpacked, from the first k of the piece on
  kPacked,  // nibbles, from k = 0 on
  kStream,  // nibbles that come from memory, one panel at a time
};

struct Int4Lhs {
  std::int64_t rows, stride, groups;

  Int4Lhs(std::int64_t row_count, const Int4Groups& g)
      : rows(row_count), stride((g.k + kInt4Chunk - 1) / kInt4Chunk * kInt4Chunk), groups(g.count()) {
    if (stride % 2048 == 0) stride += kInt4Chunk;  // or the rows of a tile fall into few sets of the L1 cache
  }
  std::int64_t bytes() const { return rows * (stride + groups * static_cast<std::int64_t>(sizeof(std::int32_t))); }
  const std::int8_t* row(const void* lhs, std::int64_t m) const {
    return static_cast<const std::int8_t*>(lhs) + m * stride;
  }
  // The starting sums of row m, one a group.
  std::int32_t* starts(const void* lhs, std::int64_t m) const {
    const void* first = row(lhs, rows);
    return static_cast<std::int32_t*>(const_cast<void*>(first)) + m * groups;
  }
};

struct Int4Tile {
  const std::int8_t* lhs;  // its first row, k = 0
  std::int64_t lhs_stride;
  const std::int32_t* starts;  // its first row's, group_count a row
  std::int64_t group_count;
  std::int64_t halves, halves_per_group;  // of all K
  const std::uint8_t* lines;              // its first panel's, as Int4Source says
  std::int64_t panel_bytes;               // from there to the next panel's
  std::int64_t panel;                     // its first, counted in the block
  std::int64_t half0, half1;              // its piece of K
  std::int64_t row0;
  float* y;               // rows of kYStride
  std::int32_t* carried;  // likewise: sums of a group that began in an earlier piece, or goes on in a later one
};

// A group, or what of it lies in a piece. Walked without divisions: a group of 32 k is few instructions.
struct Int4Segment {
  std::int64_t group, begin, end;  // halves
  bool begins, ends;               // the group

  // The piece's first; a piece begins with a group or inside a long one.
  explicit Int4Segment(const Int4Tile& tile) : group(tile.half0 / tile.halves_per_group), begin(tile.half0) {
    bound(tile);
  }
  void advance(const Int4Tile& tile) {
    ++group;
    begin = end;
    bound(tile);
  }

 private:
  void bound(const Int4Tile& tile) {
    const std::int64_t group_begin = group * tile.halves_per_group, whole = group_begin + tile.halves_per_group;
    const std::int64_t group_end = whole < tile.halves ? whole : tile.halves;
    end = group_end < tile.half1 ? group_end : tile.half1;
    begins = begin == group_begin;
    ends = end == group_end;
  }
};

template <class Isa>
constexpr int kYStride = Isa::kPanels* kNr;

template <class Isa>
std::int64_t lhs_bytes_int4(std::int64_t rows, const Int4Groups& groups) {
  return Int4Lhs(rows, groups).bytes();
}

// y, then the carried sums, then plain lines.
template <class Isa>
std::int64_t scratch_bytes_int4(std::int64_t rows) {
  return rows * kYStride<Isa> * 8 + Isa::kPlainBytes;
}

template <class Isa>
void quantize_lhs_int4(const QuantizeLhs& task, const Int4Groups& groups) {
  const Int4Lhs lhs(task.rows, groups);
  Isa::quantize(task, lhs.stride);
  const std::int32_t factor = groups.has_offsets ? 1 : kInt4Offset;
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::int8_t* q = lhs.row(task.dst, m);
    std::int32_t* starts = lhs.starts(task.dst, m);
    const std::int64_t size = groups.halves_per_group();
    for (std::int64_t g = 0, half = 0; g < lhs.groups; ++g) {
      std::int32_t sum = 0;
      const std::int64_t end = (g + 1) * size < groups.halves() ? (g + 1) * size : groups.halves();
      for (; half < end; ++half) sum += Isa::sum_of_32(q + half * kInt4Half);
      starts[g] = -factor * sum;
    }
  }
}

// body(Index<n>{}) for an n of 1 .. kMax that is known only now.
template <int kMax, class Body>
inline void with_constant(std::int64_t n, const Body& body) {
  unrolled<kMax>([&](auto i) {
    if (n == i + 1) body(Index<i + 1>{});
  });
}

template <class Isa>
void unpack_piece(const Int4Tile& piece, std::int64_t panels, std::uint8_t* dst) {
  for (std::int64_t p = 0; p < panels; ++p) {
    for (std::int64_t half = piece.half0; half < piece.half1; ++half) {
      const std::uint8_t* src = piece.lines + p * piece.panel_bytes + half / 2 * kHalfLines * kLineBytes;
      for (int i = 0; i < kHalfLines; ++i, dst += kLineBytes) {
        if (half % 2 == 0) prefetch_to_l2(src + i * kLineBytes + kAheadBytes);
        Isa::unpack_line(src + i * kLineBytes, half % 2 != 0, dst);
      }
    }
  }
}

// Halves of a piece: all of K, or whole groups, where they fit.
template <class Isa>
std::int64_t piece_halves(const Int4Groups& groups) {
  constexpr std::int64_t kMost = Isa::kPieceHalves;
  const std::int64_t size = groups.halves_per_group(), halves = groups.halves();
  return halves <= kMost ? halves : size >= kMost ? kMost : kMost / size * size;
}

// The block's first rows and first panel over all of K.
inline Int4Tile whole_tile(const Int4Block& block, const Int4Lhs& lhs) {
  Int4Tile tile{};
  tile.lhs = lhs.row(block.lhs, 0);
  tile.lhs_stride = lhs.stride;
  tile.starts = lhs.starts(block.lhs, 0);
  tile.group_count = lhs.groups;
  tile.halves = tile.half1 = block.groups.halves();
  tile.halves_per_group = block.groups.halves_per_group();
  tile.lines = block.rhs;
  tile.panel_bytes = block.groups.chunks() * kHalfLines * kLineBytes;
  tile.y = static_cast<float*>(block.scratch);
  return tile;
}

template <class Isa>
void multiply_strip(const Int4Block& block, const Int4Tile& tile, std::int64_t rows, std::int64_t panels, bool direct) {
  with_constant<Isa::kMr>(rows, [&](auto r) {
    with_constant<Isa::kPanels>(panels, [&](auto p) {
      direct ? Isa::template multiply<r, p, Int4Source::kPacked>(block, tile)
             : Isa::template multiply<r, p, Int4Source::kPlain>(block, tile);
    });
  });
}

template <class Isa>
void finish_strip(const Int4Block& block, const Int4Tile& tile, std::int64_t rows, std::int64_t panels) {
  for (std::int64_t p = 0; p < panels; ++p) {
    Isa::finish(block, tile.y + p * kNr, tile.row0, rows, (tile.panel + p) * kNr);
  }
}

// Strips of kPanels panels. For each chunk of strips: for each tile of rows: the chunk's strips, so that a row of the
// result is written in runs as long as the chunk is wide (a strip's 128 bytes at a time took a tenth of 512x768x3072).
// Where K comes in pieces the tiles' sums wait in scratch for the next one, and a chunk is one strip.
template <class Isa>
void gemm_int4(const Int4Block& block) {
  const Int4Lhs lhs(block.rows, block.groups);
  // Rows of tiles as even as they come: 16 rows are 8 + 8 rather than 12 + 4.
  const std::int64_t tiles = (block.rows + Isa::kMr - 1) / Isa::kMr, tile_rows = (block.rows + tiles - 1) / tiles;
  const bool direct = tiles <= Isa::kDirectTiles;
  const std::int64_t halves = block.groups.halves(), step = direct ? halves : piece_halves<Isa>(block.groups);
  const bool whole = step == halves;

  float* const y = static_cast<float*>(block.scratch);
  std::int32_t* const carried = reinterpret_cast<std::int32_t*>(y + block.rows * kYStride<Isa>);
  std::uint8_t* const plain = reinterpret_cast<std::uint8_t*>(carried + block.rows * kYStride<Isa>);
  const std::int64_t packed_panel = block.groups.chunks() * kHalfLines * kLineBytes;
  const std::int64_t panel_bytes = direct ? packed_panel : step * kHalfLines * kLineBytes;
  const std::int64_t strip_bytes = Isa::kPanels * panel_bytes, fitting = Isa::kPlainBytes / strip_bytes;
  const std::int64_t chunk = whole && fitting > 1 ? fitting : 1;
  const std::int64_t strips = (block.cols + kYStride<Isa> - 1) / kYStride<Isa>;
  const auto panels_of = [&](std::int64_t strip) {
    const std::int64_t left = (block.cols + kNr - 1) / kNr - strip * Isa::kPanels;
    return left < Isa::kPanels ? left : Isa::kPanels;
  };

  for (std::int64_t s0 = 0; s0 < strips; s0 += chunk) {
    const std::int64_t s1 = s0 + chunk < strips ? s0 + chunk : strips;
    for (std::int64_t half = 0; half < halves; half += step) {
      Int4Tile tile = whole_tile(block, lhs);
      tile.half0 = half;
      tile.half1 = half + step < halves ? half + step : halves;
      for (std::int64_t s = s0; s < s1 && !direct; ++s) {
        tile.lines = block.rhs + s * Isa::kPanels * packed_panel;
        unpack_piece<Isa>(tile, panels_of(s), plain + (s - s0) * strip_bytes);
      }
      tile.panel_bytes = direct ? packed_panel : (tile.half1 - half) * kHalfLines * kLineBytes;
      for (std::int64_t m = 0; m < block.rows; m += tile_rows) {
        const std::int64_t rows = block.rows - m < tile_rows ? block.rows - m : tile_rows;
        tile.lhs = lhs.row(block.lhs, m);
        tile.starts = lhs.starts(block.lhs, m);
        tile.row0 = m;
        tile.y = y + (whole ? 0 : m * kYStride<Isa>);
        tile.carried = carried + (whole ? 0 : m * kYStride<Isa>);
        for (std::int64_t s = s0; s < s1; ++s) {
          const std::int64_t panels = panels_of(s);
          tile.panel = s * Isa::kPanels;
          tile.lines = direct ? block.rhs + tile.panel * packed_panel : plain + (s - s0) * strip_bytes;
          multiply_strip<Isa>(block, tile, rows, panels, direct);
          if (tile.half1 == halves) finish_strip<Isa>(block, tile, rows, panels);
        }
      }
    }
  }
}

template <class Isa>
void gemv_int4(const Int4Block& block) {
  const Int4Lhs lhs(block.rows, block.groups);
  Int4Tile tile = whole_tile(block, lhs);
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += kNr, ++tile.panel, tile.lines += tile.panel_bytes) {
    with_constant<Isa::kGemvMaxRows>(block.rows,
                                     [&](auto r) { Isa::template multiply<r, 1, Int4Source::kStream>(block, tile); });
    Isa::finish(block, tile.y, 0, block.rows, n0);
  }
}

// What a kernel's object defines.
template <class Isa>
constexpr Int4Kernel x86_int4_kernel() {
  return {
      .mr = Isa::kMr,
      .lhs_bytes = lhs_bytes_int4<Isa>,
      .scratch_bytes = scratch_bytes_int4<Isa>,
      .quantize_lhs = quantize_lhs_int4<Isa>,
      .gemm = gemm_int4<Isa>,
      .gemv = gemv_int4<Isa>,
      .gemv_max_rows = Isa::kGemvMaxRows,
  };
}

}  // namespace
}  // namespace octavo
