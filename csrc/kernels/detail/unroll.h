// Loops over arrays of registers. Such an array stays in registers only if each index is a constant when the compiler
// first sees it. A plain loop is unrolled later, when the array has been given memory already, and GCC 12 then spills
// in the inner loop.
#pragma once

#include <cstdint>
#include <utility>

namespace octavo {
namespace {

template <int kIndex>
struct Index {
  constexpr operator int() const { return kIndex; }
};

// body(Index<0>{}), body(Index<1>{}), ... body(Index<kCount - 1>{})
template <int kCount, class Body>
inline void unrolled(const Body& body) {
  [&]<int... kIndices>(std::integer_sequence<int, kIndices...>) { (body(Index<kIndices>{}), ...); }
  (std::make_integer_sequence<int, kCount>{});
}

// body(Index<n>{}) for an n of kMin .. kMax that is known only now.
template <int kMax, int kMin = 1, class Body>
inline void with_constant(std::int64_t n, const Body& body) {
  unrolled<kMax - kMin + 1>([&](auto i) {
    if (n == kMin + i) body(Index<kMin + i>{});
  });
}

}  // namespace
}  // namespace octavo
