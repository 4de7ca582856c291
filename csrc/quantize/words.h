// Words of 32 bits that other tools pack across outputs, turned into rows of outputs.
//
//   GPTQ                word (r, c): neighbouring inputs of output c       row c: the words of column c
//   AWQ, GEMM form      word (k, c): input k of eight outputs, nibble i    row 8c + columns[i]: nibbles i of the words
//                       of output 8c + columns[i]                          of column c, the first in a low nibble
//                       columns = 0 2 4 6 1 3 5 7
//
// Both are transpositions, and memory bounds them: a tile is read and written in whole cache lines, and turned in the
// L1 cache in between. This is plain C++ that compilers vectorise for the baseline instruction set. Words may be
// misaligned: they lie in a file. They and the rows are little-endian on every machine.
#pragma once

#include <cstdint>

namespace octavo {

struct WordGrid {
  const std::uint8_t* data;
  std::int64_t rows, columns;
  std::int64_t stride_bytes;  // from a row to the next
};

// to: (columns, 4 * rows) bytes.
void turn_words(const WordGrid& from, std::uint8_t* to);

// to: (8 * columns, (rows + 1) / 2) bytes; where rows is odd the last high nibble of each row is 0.
void turn_awq_words(const WordGrid& from, std::uint8_t* to);

}  // namespace octavo
