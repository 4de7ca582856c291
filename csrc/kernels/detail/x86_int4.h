// Four-bit weights on x86: how the lhs is packed, and the loops over panels, pieces of K and tiles of rows. A type
// `Isa` derives from Avx512 or Avx2 and adds what differs:
//
//   kMr, kPanels          rows and panels of a register tile
//   kDirectTiles          tiles of rows up to which each tile unpacks nibbles anew on their way into registers
//   kPieceHalves          halves (32 k) of a piece of K, at most
//   kPlainBytes           room for unpacked lines
//   kGemvMaxRows          rows up to which gemv takes one panel at a time, to stream them from memory
//   sum_of_32(q)          the sum of 32 signed bytes
//   low_nibbles(line), high_nibbles(line)          as bytes
//   add_products<kSource>(tile, segment, sums)     adds the products of R rows and the tile's panels over the segment
//
// y lies in scratch and not in registers, which the sums need. A group's sums are rescaled and added to y where the
// group ends; where a piece of K ends before it, they are carried to the next piece as they are.
//
// Packed lhs: row-major int8, then for each row and group -f * (sum of the group's q), where f is the weights' offset
// if it is the same for all, else 1. With f the sums of products start from it as it is, so that symmetric weights cost
// a broadcast a group in place of a zeroed register.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/unroll.h"
#include "kernels/detail/x86_common.h"
#include "kernels/detail/x86_int4_columns.h"
#include "kernels/detail/x86_stream.h"
#include "kernels/int4.h"

namespace octavo {
namespace {

constexpr std::int64_t kHalfLines = kInt4Half / kKr;  // lines of 32 k, of which a chunk of 64 k holds two in one
constexpr std::int64_t kHalfBytes = kHalfLines * kLineBytes;

// Where a tile finds its lines.
enum class Int4Source {
  kPlain,   // unpacked, from the first k of the piece on
  kPacked,  // nibbles, from k = 0 on
  kStream,  // nibbles that come from memory, one panel at a time
};

// The parts of a packed lhs.
struct Int4Lhs {
  std::int64_t rows, stride, groups;

  Int4Lhs(std::int64_t row_count, const Int4Groups& g) : rows(row_count), stride(lhs_stride(g.k)), groups(g.count()) {}
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

template <class Isa>
std::int64_t lhs_bytes_int4(std::int64_t rows, const Int4Groups& groups) {
  return Int4Lhs(rows, groups).bytes();
}

template <class Isa>
void quantize_lhs_int4(const QuantizeLhs& task, const Int4Groups& groups) {
  const Int4Lhs lhs(task.rows, groups);
  quantize_bytes<Isa>(task, lhs.stride, 0);
  const std::int32_t factor = groups.has_offsets ? 1 : kInt4Offset;
  const std::int64_t size = groups.halves_per_group();
  for (std::int64_t m = 0; m < task.rows; ++m) {
    std::int8_t* q = static_cast<std::int8_t*>(task.dst) + m * lhs.stride;
    std::memset(q + task.k, 0, static_cast<std::size_t>(lhs.stride - task.k));
    std::int32_t* starts = lhs.starts(task.dst, m);
    for (std::int64_t g = 0, half = 0; g < lhs.groups; ++g) {
      std::int32_t sum = 0;
      const std::int64_t end = (g + 1) * size < groups.halves() ? (g + 1) * size : groups.halves();
      for (; half < end; ++half) sum += Isa::sum_of_32(q + half * kInt4Half);
      starts[g] = -factor * sum;
    }
  }
}

// R rows by some panels over a piece of K.
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

template <class Isa>
constexpr int kYStride = Isa::kPanels* kNr;

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

// The arrays over groups: the columns of register v of a tile, in one group.
template <class Isa>
Int4Columns<Isa> columns_of(const Int4Block& block, const Int4Tile& tile, int v, std::int64_t group) {
  const std::int64_t panel = tile.panel + v / Isa::kVecs;
  return {block, (panel * tile.group_count + group) * kNr + v % Isa::kVecs * Isa::kLanes};
}

// What the sums of R rows by V registers start with in a segment.
template <class Isa, int R, int V>
void start_sums(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
                typename Isa::Ints (&sums)[R][V]) {
  using Ints = typename Isa::Ints;
  if (!segment.begins) {
    unrolled<R>([&](auto r) {
      unrolled<V>([&](auto v) { sums[r][v] = Isa::load(tile.carried + kYStride<Isa> * r + Isa::kLanes * v); });
    });
    return;
  }
  unrolled<R>([&](auto r) {
    const Ints row = Isa::broadcast(tile.starts[r * tile.group_count + segment.group]);
    unrolled<V>([&](auto v) { sums[r][v] = row; });
  });
  if (block.offset == nullptr && block.column_sums == nullptr) return;
  unrolled<V>([&](auto v) {
    const Int4Columns<Isa> columns = columns_of<Isa>(block, tile, v, segment.group);
    if (block.offset != nullptr) {
      const Ints offset = columns.offset();
      unrolled<R>([&](auto r) { sums[r][v] = Isa::multiply(sums[r][v], offset); });
    }
    if (block.column_sums != nullptr) {
      const Ints column_sum = columns.sum();
      unrolled<R>([&](auto r) {
        const Ints z = Isa::broadcast(block.lhs_zero_point[tile.row0 + r]);
        sums[r][v] = Isa::sub(sums[r][v], Isa::multiply(z, column_sum));
      });
    }
  });
}

// y += float(sums) * scale where the group ends; where it goes on, the sums are put by.
template <class Isa, int R, int V>
void put_sums(const Int4Block& block, const Int4Tile& tile, const Int4Segment& segment,
              const typename Isa::Ints (&sums)[R][V]) {
  using Floats = typename Isa::Floats;
  if (!segment.ends) {
    std::int32_t* const carried = tile.carried;
    unrolled<R>([&](auto r) {
      unrolled<V>([&](auto v) { Isa::store(carried + kYStride<Isa> * r + Isa::kLanes * v, sums[r][v]); });
    });
    return;
  }
  float* const first = tile.y;
  unrolled<V>([&](auto v) {
    const Floats scale = columns_of<Isa>(block, tile, v, segment.group).scale();
    unrolled<R>([&](auto r) {
      float* y = first + kYStride<Isa> * r + Isa::kLanes * v;
      const Floats f = Isa::multiply(Isa::to_floats(sums[r][v]), scale);
      Isa::store(y, Isa::add(segment.group == 0 ? Isa::zero_floats() : Isa::load_floats(y), f));
    });
  });
}

// The float32 scales to prefetch, kScalesAhead groups ahead, for a panel that is streamed in groups of 32 k; null if
// none should be. Every four lines of codes need one line of scales, and since the codes are prefetched far ahead, the
// hardware does not detect the stream of scales. With longer groups or float16 scales, this prefetch would lose as much
// as it gains here.
constexpr std::int64_t kScalesAhead = 32;

inline const float* scales_ahead(const Int4Block& block, const Int4Tile& tile) {
  if (!block.prefetch_scale || block.half_scale || tile.halves_per_group != 1) return nullptr;
  return static_cast<const float*>(block.scale) + (tile.panel * tile.group_count + kScalesAhead) * kNr;
}

// R rows by P panels over the tile's piece of K.
template <class Isa, Int4Source kSource, int R, int P>
[[gnu::flatten, gnu::noinline]] void multiply_int4(const Int4Block& block, const Int4Tile& tile) {
  constexpr bool kPrefetches = kSource == Int4Source::kStream && Isa::kPrefetchScale;
  const float* const scales = kPrefetches ? scales_ahead(block, tile) : nullptr;
  for (Int4Segment segment(tile); segment.begin < tile.half1; segment.advance(tile)) {
    typename Isa::Ints sums[R][P * Isa::kVecs];
    start_sums<Isa>(block, tile, segment, sums);
    if (kPrefetches && scales != nullptr) prefetch_to_l2(scales + segment.group * kNr);
    Isa::template add_products<kSource>(tile, segment, sums);
    put_sums<Isa>(block, tile, segment, sums);
  }
}

// dst = y * lhs_scale, + bias, relu: rows of 16 columns from col0 on, or as many as there are.
template <class Isa>
void finish_int4(const Int4Block& block, const float* y, std::int64_t row0, std::int64_t rows, std::int64_t col0) {
  using Floats = typename Isa::Floats;
  const bool has_bias = block.bias != nullptr;
  Floats bias[Isa::kVecs];
  unrolled<Isa::kVecs>(
      [&](auto v) { bias[v] = has_bias ? Isa::load_floats(block.bias + col0 + Isa::kLanes * v) : Isa::zero_floats(); });
  for (std::int64_t m = row0; m < row0 + rows; ++m, y += kYStride<Isa>) {
    const Floats row_scale = Isa::broadcast(block.lhs_scale[m]);
    Floats line[Isa::kVecs];
    unrolled<Isa::kVecs>([&](auto v) {
      const Floats scaled = Isa::multiply(Isa::load_floats(y + Isa::kLanes * v), row_scale);
      line[v] = with_bias_and_relu<Isa>(scaled, bias[v], has_bias, block.relu);
    });
    Isa::store_floats(block.dst + m * block.dst_stride + col0, block.cols - col0, line);
  }
}

// y, then the carried sums, then plain lines.
template <class Isa>
std::int64_t scratch_bytes_int4(std::int64_t rows) {
  return rows * kYStride<Isa> * 8 + Isa::kPlainBytes;
}

// Products of one block. Panels are taken in strips of kPanels and strips in chunks. For each chunk: for each tile of
// rows: the chunk's strips, so that a row of the result is written in runs as long as the chunk is wide (a strip's 128
// bytes at a time took a tenth of 512x768x3072).
template <class Isa>
class Int4Gemm {
 public:
  explicit Int4Gemm(const Int4Block& block)
      : block_(block),
        lhs_(block.rows, block.groups),
        halves_(block.groups.halves()),
        packed_panel_(block.groups.chunks() * kHalfBytes),
        tiles_((block.rows + Isa::kMr - 1) / Isa::kMr),
        panels_(panels_of(block.cols)),
        strips_((panels_ + Isa::kPanels - 1) / Isa::kPanels),
        y_(static_cast<float*>(block.scratch)),
        carried_(reinterpret_cast<std::int32_t*>(y_ + block.rows * kYStride<Isa>)),
        plain_(reinterpret_cast<std::uint8_t*>(carried_ + block.rows * kYStride<Isa>)) {}

  void run() const {
    if (block_.rows <= Isa::kGemvMaxRows) return stream();
    if (tiles_ <= Isa::kDirectTiles) return run_direct();
    piece_halves() == halves_ ? run_unpacked() : run_in_pieces();
  }

  void stream() const {
    with_constant<Isa::kGemvMaxRows>(block_.rows, [&](auto rows) {
      for (std::int64_t panel = 0; panel < panels_; ++panel) {
        const Int4Tile tile = packed_tile(panel);
        multiply_int4<Isa, Int4Source::kStream, rows, 1>(block_, tile);
        finish_int4<Isa>(block_, tile.y, 0, rows, panel * kNr);
      }
    });
  }

 private:
  struct Strips {
    std::int64_t begin, end;
  };
  struct Piece {
    std::int64_t half0, half1;
    std::int64_t panel_bytes() const { return (half1 - half0) * kHalfBytes; }  // plain
  };

  // Few tiles of rows: each unpacks nibbles on their way into registers.
  void run_direct() const {
    for_each_chunk(packed_panel_, [&](const Strips& chunk) {
      for_each_tile_of_rows([&](std::int64_t m, std::int64_t rows) {
        for (std::int64_t s = chunk.begin; s < chunk.end; ++s) {
          Int4Tile tile = packed_tile(s * Isa::kPanels);
          put_rows(tile, m);
          multiply_strip<Int4Source::kPacked>(tile, rows);
          finish_strip(tile, rows);
        }
      });
    });
  }

  // Many tiles of rows: each chunk is unpacked once, to lines like those of int8 panels, which all tiles read.
  void run_unpacked() const {
    const Piece whole{0, halves_};
    for_each_chunk(whole.panel_bytes(), [&](const Strips& chunk) {
      for (std::int64_t s = chunk.begin; s < chunk.end; ++s)
        unpack_strip(s, whole, plain_strip(s - chunk.begin, whole));
      for_each_tile_of_rows([&](std::int64_t m, std::int64_t rows) {
        for (std::int64_t s = chunk.begin; s < chunk.end; ++s) {
          Int4Tile tile = plain_tile(s, whole, plain_strip(s - chunk.begin, whole));
          put_rows(tile, m);
          multiply_strip<Int4Source::kPlain>(tile, rows);
          finish_strip(tile, rows);
        }
      });
    });
  }

  // The same where K does not fit: strip by strip, a piece of K at a time, while the sums of all rows wait in scratch.
  void run_in_pieces() const {
    const std::int64_t step = piece_halves();
    for (std::int64_t s = 0; s < strips_; ++s) {
      for (std::int64_t half = 0; half < halves_; half += step) {
        const Piece piece{half, half + step < halves_ ? half + step : halves_};
        unpack_strip(s, piece, plain_);
        for_each_tile_of_rows([&](std::int64_t m, std::int64_t rows) {
          Int4Tile tile = plain_tile(s, piece, plain_);
          put_rows(tile, m);
          tile.y += m * kYStride<Isa>;
          tile.carried += m * kYStride<Isa>;
          multiply_strip<Int4Source::kPlain>(tile, rows);
          if (piece.half1 == halves_) finish_strip(tile, rows);
        });
      }
    }
  }

  // Halves of a piece: all of K, or whole groups, where they fit.
  std::int64_t piece_halves() const {
    constexpr std::int64_t kMost = Isa::kPieceHalves;
    const std::int64_t size = block_.groups.halves_per_group();
    return halves_ <= kMost ? halves_ : size >= kMost ? kMost : kMost / size * size;
  }

  // Chunks of as many strips as fit the room for plain lines, where a panel takes so many bytes.
  template <class Body>
  void for_each_chunk(std::int64_t panel_bytes, const Body& body) const {
    const std::int64_t fitting = Isa::kPlainBytes / (Isa::kPanels * panel_bytes), strips = fitting > 1 ? fitting : 1;
    for (std::int64_t s = 0; s < strips_; s += strips) body(Strips{s, s + strips < strips_ ? s + strips : strips_});
  }

  // body(first row, rows). Tiles are as even as they come: 16 rows are 8 + 8 rather than 12 + 4, and 26 are 9 + 9 + 8.
  template <class Body>
  void for_each_tile_of_rows(const Body& body) const {
    const std::int64_t fewest = block_.rows / tiles_, higher = block_.rows % tiles_;
    for (std::int64_t tile = 0, m = 0, rows = 0; tile < tiles_; ++tile, m += rows) {
      rows = fewest + (tile < higher ? 1 : 0);
      body(m, rows);
    }
  }

  // The first rows over all of K, by panels from `panel` on as they lie in memory.
  Int4Tile packed_tile(std::int64_t panel) const {
    return {.lhs = lhs_.row(block_.lhs, 0),
            .lhs_stride = lhs_.stride,
            .starts = lhs_.starts(block_.lhs, 0),
            .group_count = lhs_.groups,
            .halves = halves_,
            .halves_per_group = block_.groups.halves_per_group(),
            .lines = block_.rhs + panel * packed_panel_,
            .panel_bytes = packed_panel_,
            .panel = panel,
            .half0 = 0,
            .half1 = halves_,
            .row0 = 0,
            .y = y_,
            .carried = carried_};
  }

  // The first rows over a piece of K, by a strip whose plain lines are at `lines`.
  Int4Tile plain_tile(std::int64_t strip, const Piece& piece, const std::uint8_t* lines) const {
    Int4Tile tile = packed_tile(strip * Isa::kPanels);
    tile.lines = lines;
    tile.panel_bytes = piece.panel_bytes();
    tile.half0 = piece.half0;
    tile.half1 = piece.half1;
    return tile;
  }

  void put_rows(Int4Tile& tile, std::int64_t m) const {
    tile.lhs = lhs_.row(block_.lhs, m);
    tile.starts = lhs_.starts(block_.lhs, m);
    tile.row0 = m;
  }

  std::int64_t panels_from(std::int64_t panel) const {
    return panels_ - panel < Isa::kPanels ? panels_ - panel : Isa::kPanels;
  }

  std::uint8_t* plain_strip(std::int64_t i, const Piece& piece) const {
    return plain_ + i * Isa::kPanels * piece.panel_bytes();
  }

  void unpack_strip(std::int64_t strip, const Piece& piece, std::uint8_t* dst) const {
    const std::int64_t panel0 = strip * Isa::kPanels, panel1 = panel0 + panels_from(panel0);
    for (std::int64_t panel = panel0; panel < panel1; ++panel) {
      for (std::int64_t half = piece.half0; half < piece.half1; ++half) {
        const std::uint8_t* src = block_.rhs + panel * packed_panel_ + half / 2 * kHalfBytes;
        for (int i = 0; i < kHalfLines; ++i, src += kLineBytes, dst += kLineBytes) {
          if (half % 2 == 0) prefetch_to_l2(src + kAheadBytes);
          for (int v = 0; v < Isa::kVecs; ++v) {
            const typename Isa::Ints both = Isa::load(src + v * Isa::kLanes * kKr);
            Isa::store(dst + v * Isa::kLanes * kKr, half % 2 != 0 ? Isa::high_nibbles(both) : Isa::low_nibbles(both));
          }
        }
      }
    }
  }

  // The fewest rows of an even tile: one tile alone has more than gemv takes, and plain lines are read by many.
  template <Int4Source kSource>
  static constexpr int fewest_rows() {
    constexpr int kTiles = Isa::kDirectTiles + 1, kRows = Isa::kDirectTiles * Isa::kMr + 1;
    constexpr int kOne = Isa::kGemvMaxRows + 1, kOfTwo = (Isa::kMr + 1) / 2;
    return kSource == Int4Source::kPlain ? kRows / kTiles : kOne < kOfTwo ? kOne : kOfTwo;
  }

  template <Int4Source kSource>
  void multiply_strip(const Int4Tile& tile, std::int64_t rows) const {
    with_constant<Isa::kMr, fewest_rows<kSource>()>(rows, [&](auto r) {
      with_constant<Isa::kPanels>(panels_from(tile.panel),
                                  [&](auto p) { multiply_int4<Isa, kSource, r, p>(block_, tile); });
    });
  }

  void finish_strip(const Int4Tile& tile, std::int64_t rows) const {
    for (std::int64_t p = 0; p < panels_from(tile.panel); ++p) {
      finish_int4<Isa>(block_, tile.y + p * kNr, tile.row0, rows, (tile.panel + p) * kNr);
    }
  }

  const Int4Block& block_;
  const Int4Lhs lhs_;
  const std::int64_t halves_, packed_panel_;
  const std::int64_t tiles_;  // of rows
  const std::int64_t panels_, strips_;
  float* const y_;
  std::int32_t* const carried_;
  std::uint8_t* const plain_;
};

// What a kernel's object defines.
template <class Isa>
constexpr Int4Kernel x86_int4_kernel(double multiply_adds_per_us) {
  return {
      .mr = Isa::kMr,
      .lhs_bytes = lhs_bytes_int4<Isa>,
      .scratch_bytes = scratch_bytes_int4<Isa>,
      .quantize_lhs = quantize_lhs_int4<Isa>,
      .gemm = [](const Int4Block& block) { Int4Gemm<Isa>(block).run(); },
      .gemv = [](const Int4Block& block) { Int4Gemm<Isa>(block).stream(); },
      .gemv_max_rows = Isa::kGemvMaxRows,
      .multiply_adds_per_us = multiply_adds_per_us,
  };
}

}  // namespace
}  // namespace octavo
