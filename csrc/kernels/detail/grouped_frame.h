// The loops of every kernel for grouped codes; kernels/grouped.h says what they compute. A piece of K at a time:
//
//   dots      the products of codes with integers, a sum for each group, row and column: to a buffer in the L1 cache
//   flush     the sums of all groups of the piece, in order, to the floats of the tile: the same code for every form
//
// so that the inner loops know nothing of scales, minima and offsets. What differs is a type `Isa`:
//
//   Int, Float, kVecs     registers of 32-bit lanes, and how many of them hold 16 columns
//   kByteBias             what 8-bit codes are lessened by before they are multiplied: 0, or 128 to make them signed
//   kMr, kFramePanels     rows and panels of a register tile of int8 activations; half the rows of int16
//   kTallestTile          rows (of int8, or halves of int16) of any tile that it has
//   kStreamRows           rows (of int8, or halves of int16) up to which a panel is streamed, one at a time
//   kPlaneRows            rows up to which codes in planes are multiplied as they are, and not made bytes: where the
//                         panel is streamed, or none is
//   kWidensNibbles        4-bit codes are made bytes, too, as those in planes are
//   load32, load_u8, load_s8, set1, zero, store32           integers, one register's columns
//   load_f32, load_f16, set1f, zerof                        floats likewise
//   add, multiply, shift8(a): a * 256                       integers, modulo 2^32
//   to_float(a), join(h, l): float(256 h + l), rounded once
//   fma, fnma(a, b, c): c - a * b, mul, addf, relu
//   dot_pairs(acc, two int16, bytes)                        acc + g0 * even byte + g1 * odd byte, a pair a column
//   store(dst, value, count)                                the first `count` columns
//   add_lines<kCodes>(sums, rows, k, lines, panel_bytes, quads, ahead)     the products of 16 k times `quads`
//   add_planes<bits>(sums, rows, k, chunk, quads)              the same of codes in planes
//   stream_groups<bits>(rows, group_k, lines, g0, g1, put)     put(group, sums) for each group of a panel that is
//                                                              read from memory, or for some more
//   prefetch_panel(line)                                       what comes behind a line that is read from memory
//   prefetch_record(at)                                        a line of records, if panels are streamed
#pragma once

#include <cstdint>

#include "kernels/detail/grouped_flush.h"
#include "kernels/detail/grouped_planes.h"
#include "kernels/detail/grouped_rows.h"
#include "kernels/detail/unroll.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

enum class Codes { kBytes, kLowNibbles, kHighNibbles };

// A chunk of panels that the rows meet tile by tile: its share of the L2 cache.
constexpr std::int64_t kGroupedChunkBytes = 256 << 10;

// Sums of a row and panel that a piece of K makes at most. A piece is whole records and whole groups of activations.
constexpr std::int64_t kPieceGroups = 16;
inline std::int64_t piece_k(const GroupedForm& form) {
  const std::int64_t k = kPieceGroups * form.group_k, most = form.in_planes() ? kSuperK : 2 * kSuperK;
  return form.group_k > kSuperK ? form.group_k : k > most ? most : k;
}

// What instruction sets share that read panels from memory as they do from the caches.
struct NoStreams {
  static constexpr int kFramePanels = 1, kStreamRows = 0, kPlaneRows = 0;
  static constexpr bool kWidensNibbles = false;
  static constexpr std::int64_t kAheadBytes = 0;
  static void prefetch_panel(const std::uint8_t*) {}
};

// Where the integers and the starting sums of R rows of `kParts` parts stand.
template <int R>
struct GroupedRows {
  const std::int8_t* q[R];
  const char* starts[R];
  bool far_prefetch;  // of codes

  GroupedRows(const GroupedTile& tile, const GroupedLhs& lhs, int parts) : far_prefetch(tile.far_prefetch) {
    unrolled<R>([&](auto r) {
      const char* const row = tile.lhs + r / parts * lhs.row_bytes;
      q[r] = reinterpret_cast<const std::int8_t*>(row + r % parts * lhs.part_bytes);
      starts[r] = row + lhs.starts_at + r % parts * lhs.groups * 4;
    });
  }

  // From a group on, which begins at k.
  GroupedRows from(std::int64_t k, std::int64_t group) const {
    GroupedRows later = *this;
    unrolled<R>([&](auto r) {
      later.q[r] += k;
      later.starts[r] += group * 4;
    });
    return later;
  }
};

// The sums of group g, which begins at k.
template <class Isa, int kBits, int R, int P>
[[gnu::always_inline]] inline void sum_group(const GroupedForm& form, const GroupedTile& tile,
                                             const GroupedRows<R>& rows, std::int64_t g, std::int64_t k,
                                             typename Isa::Int (&sums)[R][P][Isa::kVecs]) {
  constexpr int V = Isa::kVecs;
  unrolled<R>([&](auto r) {
    const typename Isa::Int start = Isa::set1(read_as<std::int32_t>(rows.starts[r], g));
    unrolled<P>([&](auto p) { unrolled<V>([&](auto v) { sums[r][p][v] = start; }); });
  });
  const std::int64_t size = form.group_k, group_end = k + size;
  if constexpr (kBits == 8) {
    const std::uint8_t* lines = tile.lines + k * kGroupedNr;
    return Isa::template add_lines<Codes::kBytes>(sums, rows.q, k, lines, tile.panel_bytes, size / 16, tile.ahead);
  }
  while (k < group_end) {
    const std::int64_t half_end = (k | 31) + 1, end = half_end < group_end ? half_end : group_end;
    const std::int64_t quads = (end - k) >> 4;
    if constexpr (kBits == 5 || kBits == 6) {
      const std::uint8_t* const chunk = tile.lines + (k >> 6) * (kGroupedPadK * kGroupedNr * kBits / 8);
      Isa::template add_planes<kBits>(sums, rows.q, k, chunk, quads);
      k = end;
      continue;
    }
    const std::uint8_t* lines = tile.lines + (k >> 6) * (32 * kGroupedNr) + (k & 31) * kGroupedNr;
    if ((k & 32) == 0) {
      Isa::template add_lines<Codes::kLowNibbles>(sums, rows.q, k, lines, tile.panel_bytes, quads, tile.ahead);
    } else {
      Isa::template add_lines<Codes::kHighNibbles>(sums, rows.q, k, lines, tile.panel_bytes, quads, 0);
    }
    k = end;
  }
}

// dots: sums[group - first][row][panel][column] of the groups in k0 <= k < k1.
template <class Isa, int R, int P, int kBits>
[[gnu::flatten, gnu::noinline]] void dots(const GroupedForm& form, const GroupedTile& tile, const GroupedRows<R>& rows,
                                          std::int64_t k0, std::int64_t k1, std::int32_t* out) {
  constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V;
  for (std::int64_t k = k0, g = k0 / form.group_k; k < k1; ++g, k += form.group_k) {
    typename Isa::Int sums[R][P][V];
    sum_group<Isa, kBits>(form, tile, rows, g, k, sums);
    unrolled<R>([&](auto r) {
      unrolled<P>([&](auto p) {
        unrolled<V>([&](auto v) { Isa::store32(out + (r * P + p) * kGroupedNr + v * kLanes, sums[r][p][v]); });
      });
    });
    out += R * P * kGroupedNr;
  }
}

// The same of one panel that comes from memory.
template <class Isa, int R, int kBits>
[[gnu::flatten, gnu::noinline]] void stream_dots(const GroupedForm& form, const GroupedTile& tile,
                                                 const GroupedRows<R>& rows, std::int64_t k0, std::int64_t k1,
                                                 std::int32_t* out) {
  constexpr int V = Isa::kVecs, kLanes = static_cast<int>(kGroupedNr) / V;
  const std::int64_t first = k0 / form.group_k, end = k1 / form.group_k;
  Isa::template stream_groups<kBits>(rows, form.group_k, tile.lines, first, end, [&](std::int64_t g, const auto& sums) {
    std::int32_t* const to = out + (g - first) * R * kGroupedNr;
    unrolled<R>(
        [&](auto r) { unrolled<V>([&](auto v) { Isa::store32(to + r * kGroupedNr + v * kLanes, sums[r][0][v]); }); });
  });
}

// Prefetches the records of the piece after the next, if a panel is streamed for two or three rows of int8 (an int16
// row counts as two), or for four with minima, whose records are larger. One row of int8 gains nothing.
template <class Isa, int kRows>
[[gnu::always_inline]] inline void prefetch_records(const GroupedForm& form, const GroupedTile& tile, std::int64_t k0,
                                                    std::int64_t step) {
  if (kRows == 1 || (kRows > 3 && !form.has_minimum) || tile.far_prefetch) return;
  const std::int64_t record_k = form.two_level ? kSuperK : form.group_k, bytes = step / record_k * form.record_bytes();
  const std::uint8_t* const records = tile.records + k0 / record_k * form.record_bytes() + 2 * bytes;
  for (std::int64_t i = 0; i < bytes; i += kGroupedLineBytes) Isa::prefetch_record(records + i);
}

template <class Isa, int R, int P, int kParts, bool kStream>
void multiply_grouped(const GroupedBlock& block, const GroupedTile& tile) {
  constexpr int kRows = R * kParts;
  const GroupedForm& form = block.form;
  const GroupedLhs lhs(form, block.activations);
  const GroupedRows<kRows> rows(tile, lhs, kParts);
  alignas(64) std::int32_t sums[kPieceGroups * kRows * P * kGroupedNr];
  alignas(64) float y[R * P * kGroupedNr] = {};
  const GroupedFlush<Isa, R, P, kParts> flush{block, tile, lhs, y};
  const std::int64_t step = piece_k(form), end = form.groups() * form.group_k;
  GroupedTile bytes = tile;  // of a piece of codes in planes, always in the same place
  bytes.lines = block.scratch;
  bytes.panel_bytes = step * kGroupedNr;
  for (std::int64_t k0 = 0; k0 < end; k0 += step) {
    const std::int64_t k1 = k0 + step < end ? k0 + step : end;
    if constexpr (kStream) prefetch_records<Isa, kRows>(form, tile, k0, step);
    const auto add = [&](auto bits, const GroupedTile& from, const GroupedRows<kRows>& q, std::int64_t k,
                         std::int64_t k_end) {
      if constexpr (kStream) {
        stream_dots<Isa, kRows, bits>(form, from, q, k, k_end, sums);
      } else {
        dots<Isa, kRows, P, bits>(form, from, q, k, k_end, sums);
      }
    };
    constexpr bool kJoins = kRows <= Isa::kPlaneRows && kStream == (Isa::kStreamRows > 0);
    if constexpr (kJoins) {
      if (form.bits == 5) add(Index<5>{}, tile, rows, k0, k1);
      if (form.bits == 6) add(Index<6>{}, tile, rows, k0, k1);
    }
    if (!kJoins && form.in_planes()) {
      widen<Isa>(form, tile.lines, P, k0, k1, block.scratch, bytes.panel_bytes);
      add(Index<8>{}, bytes, rows.from(k0, k0 / form.group_k), 0, k1 - k0);
    } else if (form.bits == 8) {
      add(Index<8>{}, tile, rows, k0, k1);
    } else if (form.bits == 4) {
      add(Index<4>{}, tile, rows, k0, k1);
    }
    flush.add_piece(k0, k1, sums);
  }
  flush.finish();
}

// The tallest tile of R, half of it, ... 1 rows that `rows` fill; returns its height.
template <class Isa, int R, int P, int kParts>
std::int64_t multiply_some_rows(std::int64_t rows, const GroupedBlock& block, const GroupedTile& tile) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_some_rows<Isa, (R + 1) / 2, P, kParts>(rows, block, tile);
  }
  multiply_grouped<Isa, R, P, kParts, false>(block, tile);
  return R;
}

template <class Isa, int kParts>
std::int64_t multiply_tile(std::int64_t rows, std::int64_t panels, const GroupedBlock& block, const GroupedTile& tile) {
  constexpr int kRows = kParts == 1 ? Isa::kMr : (Isa::kMr + 1) / 2;
  if constexpr (Isa::kFramePanels == 2) {
    if (panels == 2) return multiply_some_rows<Isa, kRows, 2, kParts>(rows, block, tile);
  }
  return multiply_some_rows<Isa, kRows, 1, kParts>(rows, block, tile);
}

// Few rows: the panels one at a time, from memory.
template <class Multiply>
void for_each_panel(const GroupedBlock& block, const GroupedLhs& lhs, const Multiply& multiply) {
  const std::int64_t record_bytes = block.form.records() * block.form.record_bytes();
  GroupedTile tile{lhs.row(block.lhs, 0), 0, block.rhs,         block.records, 0, block.form.panel_bytes(),
                   record_bytes,          0, block.far_prefetch};
  for (; tile.panel * kGroupedNr < block.cols; ++tile.panel) {
    multiply(tile);
    tile.lines += tile.panel_bytes;
    tile.records += tile.panel_record_bytes;
  }
}

template <class Isa, int R, int kParts>
void stream_rows(const GroupedBlock& block, const GroupedLhs& lhs) {
  if constexpr (R > 1) {
    if (block.rows < R) return stream_rows<Isa, R - 1, kParts>(block, lhs);
  }
  for_each_panel(block, lhs, [&](const GroupedTile& tile) { multiply_grouped<Isa, R, 1, kParts, true>(block, tile); });
}

// Many rows: for each chunk of panels: for each tile of rows: the chunk's panels, so that a row of the result is
// written in long runs. multiply(rows left, panels, tile) returns the rows that it did.
template <int kPanels, class Multiply>
void for_each_tile(const GroupedBlock& block, const GroupedLhs& lhs, std::int64_t ahead, const Multiply& multiply) {
  const std::int64_t panel_bytes = block.form.panel_bytes();
  const std::int64_t record_bytes = block.form.records() * block.form.record_bytes();
  const std::int64_t panels = (block.cols + kGroupedNr - 1) / kGroupedNr;
  GroupedTile tile{lhs.row(block.lhs, 0), 0, block.rhs, block.records, 0, panel_bytes, record_bytes, 0, false};
  const std::int64_t fitting = kGroupedChunkBytes / (panel_bytes + record_bytes) / kPanels * kPanels;
  const std::int64_t chunk = fitting < kPanels ? kPanels : fitting > 64 ? 64 : fitting;
  for (std::int64_t c0 = 0; c0 < panels; c0 += chunk) {
    const std::int64_t c1 = c0 + chunk < panels ? c0 + chunk : panels;
    for (std::int64_t m = 0, done = 0; m < block.rows; m += done) {
      tile.lhs = lhs.row(block.lhs, m);
      tile.row0 = m;
      tile.ahead = m == 0 ? ahead : 0;  // the first tile's lines may come from beyond the L2 cache
      for (std::int64_t p = c0; p < c1; p += kPanels) {
        tile.lines = block.rhs + p * panel_bytes;
        tile.records = block.records + p * record_bytes;
        tile.panel = p;
        done = multiply(block.rows - m, c1 - p < kPanels ? c1 - p : kPanels, tile);
      }
    }
  }
}

template <class Isa>
void gemm_grouped(const GroupedBlock& block) {
  const GroupedLhs lhs(block.form, block.activations);
  if constexpr (Isa::kStreamRows > 0) {
    if (block.rows * block.activations.parts() <= Isa::kStreamRows) {
      if (!block.activations.int16) return stream_rows<Isa, Isa::kStreamRows, 1>(block, lhs);
      return stream_rows<Isa, Isa::kStreamRows / 2, 2>(block, lhs);
    }
  }
  for_each_tile<Isa::kFramePanels>(block, lhs, Isa::kAheadBytes,
                                   [&](std::int64_t rows, std::int64_t panels, const GroupedTile& tile) {
                                     return block.activations.int16 ? multiply_tile<Isa, 2>(rows, panels, block, tile)
                                                                    : multiply_tile<Isa, 1>(rows, panels, block, tile);
                                   });
}

template <class Isa>
bool widens(const GroupedForm& form) {
  return form.in_planes() || (Isa::kWidensNibbles && form.bits == 4);
}

template <class Isa>
std::int64_t grouped_scratch_bytes(const GroupedForm& form) {
  return widens<Isa>(form) ? form.wide_panels() * form.wide_panel_bytes() : 0;
}

// kGemm, with codes made bytes where `Isa` does that, for more rows than one tile has: some panels at a time.
template <class Isa, void (*kGemm)(const GroupedBlock&)>
void gemm_of_bytes(const GroupedBlock& block) {
  const GroupedForm& form = block.form;
  if (!widens<Isa>(form) || block.rows * block.activations.parts() <= Isa::kTallestTile) return kGemm(block);
  GroupedBlock bytes = block;
  bytes.form.bits = 8;
  bytes.rhs = block.scratch;
  const std::int64_t step = form.wide_panels(), parameters = kGroupedNr * form.groups();
  for (std::int64_t panel = 0; panel * kGroupedNr < block.cols; panel += step) {
    const std::int64_t col = panel * kGroupedNr, left = block.cols - col;
    bytes.cols = left < step * kGroupedNr ? left : step * kGroupedNr;
    const std::int64_t panels = (bytes.cols + kGroupedNr - 1) / kGroupedNr;
    widen<Isa>(form, block.rhs + panel * form.panel_bytes(), panels, 0, form.k, block.scratch, form.wide_panel_bytes());
    bytes.records = block.records + panel * form.records() * form.record_bytes();
    if (block.offsets != nullptr) bytes.offsets = block.offsets + panel * parameters;
    if (block.sums != nullptr) bytes.sums = block.sums + panel * parameters;
    if (block.bias != nullptr) bytes.bias = block.bias + col;
    bytes.dst = block.dst + col;
    kGemm(bytes);
  }
}

// What a kernel's object defines.
template <class Isa, void (*kGemm)(const GroupedBlock&) = gemm_grouped<Isa>>
constexpr GroupedKernel grouped_kernel(double multiply_adds_per_us) {
  return {.mr = Isa::kMr,
          .multiply_adds_per_us = multiply_adds_per_us,
          .lhs_bytes = grouped_lhs_bytes,
          .scratch_bytes = grouped_scratch_bytes<Isa>,
          .quantize_lhs = quantize_grouped_rows<Isa::kByteBias>,
          .gemm = gemm_of_bytes<Isa, kGemm>};
}

}  // namespace
}  // namespace octavo
