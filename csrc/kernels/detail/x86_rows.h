// Where the rows of a register tile stand: several to a base pointer, for there are fewer registers than rows.
#pragma once

namespace octavo {
namespace {

// An address holds a base and none, one or two strides, so that 12 rows take 4 bases. (Loops spell out what they do
// with them: wrapped in functions or a class, GCC 12 keeps the accumulators in memory.)
constexpr int kRowsPerBase = 3;
template <int kRows>
constexpr int kRowBases = (kRows + kRowsPerBase - 1) / kRowsPerBase;

// Keeps a base in a register of its own: without it GCC derives all of a tile's row pointers from one and the
// distances, which it then spills.
template <class T>
inline T* kept_apart(T* base) {
  __asm__("" : "+r"(base));
  return base;
}

}  // namespace
}  // namespace octavo
