// Division and multiples, rounded up. Of numbers that are not negative.
#pragma once

#include <concepts>
#include <type_traits>

namespace octavo {

template <std::integral A, std::integral B>
constexpr std::common_type_t<A, B> ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

template <std::integral A, std::integral B>
constexpr std::common_type_t<A, B> round_up(A a, B b) {
  return ceil_div(a, b) * b;
}

}  // namespace octavo
