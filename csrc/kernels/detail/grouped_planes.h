// Codes of 4 to 6 bits, nibbles and what lies above them in planes (kernels/grouped.h), made bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/unroll.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

// Words in a register of the instruction set that a kernel is compiled for, of which a compiler says so, or a word.
constexpr int kWordsBytes = __BIGGEST_ALIGNMENT__ < 8 ? 8 : __BIGGEST_ALIGNMENT__;
using Words [[gnu::vector_size(kWordsBytes)]] = std::uint64_t;
static_assert(kGroupedLineBytes % sizeof(Words) == 0);

inline void load(Words& words, const std::uint8_t* at) { std::memcpy(&words, at, sizeof words); }

// The 16 lines of a chunk as bytes: those of its low nibbles, then those of its high ones.
template <int kHighBits>
[[gnu::always_inline]] inline void widen_chunk(const std::uint8_t* chunk, std::uint8_t* lines) {
  constexpr int kLines = static_cast<int>(kGroupedChunkLines), kFields = 8 / kHighBits;  // of a byte of a plane
  constexpr std::uint64_t kEach = 0x0101010101010101u, kNibbles = 15 * kEach;
  constexpr std::uint64_t kUpper = ((1 << kHighBits) - 1) * 16 * kEach;
  for (std::int64_t i = 0; i < kGroupedLineBytes; i += sizeof(Words)) {
    unrolled<2 * kHighBits>([&](auto p) {
      Words plane;
      load(plane, chunk + p * kGroupedLineBytes + i);
      unrolled<kFields>([&](auto field) {
        constexpr int kLine = p * kFields + field;
        constexpr int kLeft = 4 - field * kHighBits;  // from where the field stands to 4
        Words code, upper = plane;
        load(code, chunk + (2 * kHighBits + kLine % kLines) * kGroupedLineBytes + i);
        if constexpr (kLine >= kLines) code >>= 4;
        if constexpr (kLeft > 0) {
          upper <<= kLeft;
        } else {
          upper >>= -kLeft;
        }
        code = (code & kNibbles) | (upper & kUpper);
        std::memcpy(lines + kLine * kGroupedLineBytes + i, &code, sizeof code);
      });
    });
  }
}

// The same of nibbles alone.
[[gnu::always_inline]] inline void widen_nibbles(const std::uint8_t* chunk, std::uint8_t* lines) {
  constexpr std::int64_t kHalfBytes = kGroupedChunkLines * kGroupedLineBytes;
  constexpr std::uint64_t kNibbles = 0x0f0f0f0f0f0f0f0fu;
  for (std::int64_t i = 0; i < kHalfBytes; i += sizeof(Words)) {
    Words both;
    load(both, chunk + i);
    const Words low = both & kNibbles, high = both >> 4 & kNibbles;
    std::memcpy(lines + i, &low, sizeof low);
    std::memcpy(lines + kHalfBytes + i, &high, sizeof high);
  }
}

// The chunks of k0 <= k < k1 of some panels as bytes: those of each panel `stride` behind those of the one before. Isa
// prefetches the lines to come.
template <class Isa>
[[gnu::noinline]] void widen(const GroupedForm& form, const std::uint8_t* panel, std::int64_t panels, std::int64_t k0,
                             std::int64_t k1, std::uint8_t* bytes, std::int64_t stride) {
  const std::int64_t chunk_bytes = kGroupedPadK * kGroupedNr * form.bits / 8, first = k0 / kGroupedPadK;
  for (; panels > 0; --panels, panel += form.panel_bytes(), bytes += stride) {
    std::uint8_t* to = bytes;
    for (std::int64_t chunk = first; chunk * kGroupedPadK < k1; ++chunk, to += kGroupedPadK * kGroupedNr) {
      const std::uint8_t* const from = panel + chunk * chunk_bytes;
      for (std::int64_t i = 0; i < chunk_bytes; i += kGroupedLineBytes) Isa::prefetch_panel(from + i);
      if constexpr (Isa::kWidensNibbles) {
        if (form.bits == 4) {
          widen_nibbles(from, to);
          continue;
        }
      }
      form.bits == 5 ? widen_chunk<1>(from, to) : widen_chunk<2>(from, to);
    }
  }
}

}  // namespace
}  // namespace octavo
