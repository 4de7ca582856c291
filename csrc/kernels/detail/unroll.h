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

// body(Index<n>{}) for an n of 1 .. kMax that is known only now.
template <int kMax, class Body>
inline void with_constant(std::int64_t n, const Body& body) {
  unrolled<kMax>([&](auto i) {
    if (n == i + 1) body(Index<i + 1>{});
  });
}

}  // namespace
}  // namespace octavo
