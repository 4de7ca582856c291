// The arrays over groups of four-bit weights, a register of columns at a time.
#pragma once

#include <cstdint>

#include "kernels/int4.h"

namespace octavo {
namespace {

template <class Isa>
struct Int4Columns {
  const Int4Block& block;
  std::int64_t at;  // the first column's element

  typename Isa::Floats scale() const {
    if (block.half_scale) return Isa::load_halves(static_cast<const std::uint16_t*>(block.scale) + at);
    return Isa::load_floats(static_cast<const float*>(block.scale) + at);
  }
  typename Isa::Ints offset() const { return Isa::load_bytes(block.offset + at); }
  typename Isa::Ints sum() const {
    if (block.wide_sums()) return Isa::load_words(static_cast<const std::int32_t*>(block.column_sums) + at);
    return Isa::load_shorts(static_cast<const std::int16_t*>(block.column_sums) + at);
  }
};

}  // namespace
}  // namespace octavo
