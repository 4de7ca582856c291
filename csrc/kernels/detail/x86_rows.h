// How a register tile addresses its rows: several to a base pointer, because there are fewer registers than rows.
#pragma once

namespace octavo {
namespace {

// x86 addresses are a base plus zero, one or two strides, so 12 rows need 4 bases. (Loops spell out how they use them:
// wrapped in functions or a class, GCC 12 keeps the accumulators in memory.)
constexpr int kRowsPerBase = 3;
template <int kRows>
constexpr int kRowBases = (kRows + kRowsPerBase - 1) / kRowsPerBase;

// Keeps a base in a register of its own. Otherwise GCC derives all row pointers of a tile from one base and the
// distances to it, which it then spills.
template <class T>
inline T* kept_apart(T* base) {
  __asm__("" : "+r"(base));
  return base;
}

}  // namespace
}  // namespace octavo
