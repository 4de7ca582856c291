#include "quantize/words.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace octavo {
namespace {

constexpr std::int64_t kLine = 16;              // words of a cache line
constexpr std::int64_t kAwqInputs = 8 * kLine;  // whose nibbles fill a line of an output
constexpr std::int64_t kAhead = 64;             // rows
constexpr int kColumns[8] = {0, 2, 4, 6, 1, 3, 5, 7};

using Line = std::uint32_t[kLine];

const std::uint8_t* at(const WordGrid& grid, std::int64_t row, std::int64_t column) {
  return grid.data + row * grid.stride_bytes + 4 * column;
}

// A size that is known is copied in registers.
void copy_line(void* to, const void* from, std::int64_t bytes) {
  if (bytes == sizeof(Line)) {
    std::memcpy(to, from, sizeof(Line));
  } else {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
}

// A row of the tile, and the call for one further on: it lies a row of the file away, which no hardware foresees.
void read_line(const WordGrid& grid, std::int64_t row, std::int64_t column, std::int64_t count, Line& to) {
  if (row + kAhead < grid.rows) __builtin_prefetch(at(grid, row + kAhead, column));
  copy_line(to, at(grid, row, column), 4 * count);
}

void transpose(const Line (&from)[kLine], Line (&to)[kLine]) {
  for (int j = 0; j < kLine; ++j) {
    for (int i = 0; i < kLine; ++i) to[j][i] = from[i][j];
  }
}

void swap_bytes_of_big_endian(Line& line) {
  if constexpr (std::endian::native == std::endian::big) {
    for (std::uint32_t& w : line) w = (w >> 24) | ((w >> 8) & 0xff00u) | ((w << 8) & 0xff0000u) | (w << 24);
  }
}

// Exchanges the high fields of a with the low fields of b. Not inlined, where the count would be known: GCC then
// unrolls the loop before it can vectorise it.
[[gnu::noinline]] void exchange(std::uint32_t* __restrict a, std::uint32_t* __restrict b, std::int64_t count, int shift,
                                std::uint32_t low_fields) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t differing = ((a[i] >> shift) ^ b[i]) & low_fields;
    a[i] ^= differing << shift;
    b[i] ^= differing;
  }
}

// Nibble j of word i becomes nibble i of word j, in each of 16 stacks of eight words.
void transpose_nibbles(Line (&words)[8]) {
  exchange(words[0], words[4], 4 * kLine, 16, 0x0000ffffu);
  for (int i : {0, 4}) exchange(words[i], words[i + 2], 2 * kLine, 8, 0x00ff00ffu);
  for (int i : {0, 2, 4, 6}) exchange(words[i], words[i + 1], kLine, 4, 0x0f0f0f0fu);
}

}  // namespace

void turn_words(const WordGrid& from, std::uint8_t* to) {
  Line tile[kLine] = {}, turned[kLine];
  for (std::int64_t r = 0; r < from.rows; r += kLine) {
    const std::int64_t height = std::min(kLine, from.rows - r);
    for (std::int64_t c = 0; c < from.columns; c += kLine) {
      const std::int64_t width = std::min(kLine, from.columns - c);
      for (std::int64_t i = 0; i < height; ++i) read_line(from, r + i, c, width, tile[i]);
      transpose(tile, turned);
      for (std::int64_t j = 0; j < width; ++j) copy_line(to + 4 * ((c + j) * from.rows + r), turned[j], 4 * height);
    }
  }
}

void turn_awq_words(const WordGrid& from, std::uint8_t* to) {
  const std::int64_t row_bytes = (from.rows + 1) / 2;
  Line words[8] = {}, tiles[8][kLine] = {}, turned[kLine];  // tiles[i]: eight inputs a word, of the nibbles i
  for (std::int64_t k = 0; k < from.rows; k += kAwqInputs) {
    const std::int64_t inputs = std::min(kAwqInputs, from.rows - k);
    for (std::int64_t c = 0; c < from.columns; c += kLine) {
      const std::int64_t width = std::min(kLine, from.columns - c);
      for (std::int64_t first = 0; first < inputs; first += 8) {
        for (std::int64_t i = 0; i < 8; ++i) {
          if (first + i < inputs) {
            read_line(from, k + first + i, c, width, words[i]);
          } else {
            std::memset(words[i], 0, sizeof words[i]);
          }
          swap_bytes_of_big_endian(words[i]);
        }
        transpose_nibbles(words);
        for (int i = 0; i < 8; ++i) std::memcpy(tiles[i][first / 8], words[i], sizeof words[i]);
      }
      for (int i = 0; i < 8; ++i) {
        transpose(tiles[i], turned);
        for (std::int64_t j = 0; j < width; ++j) {
          swap_bytes_of_big_endian(turned[j]);
          copy_line(to + (8 * (c + j) + kColumns[i]) * row_bytes + k / 2, turned[j], (inputs + 1) / 2);
        }
      }
    }
  }
}

}  // namespace octavo
