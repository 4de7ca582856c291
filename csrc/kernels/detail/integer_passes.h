// Passes over integers of any width, in C++ that compilers vectorise with the flags of the file that includes it (and
// with vectors of GCC 12 and Clang where bytes change places): taking elements in, looking at their range, packing
// digits, combining digits' sums, and vectors times a matrix. kernels/integer.h says what each does. Everything is in
// an anonymous namespace.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/detail/unroll.h"
#include "kernels/integer.h"

namespace octavo {
namespace {

constexpr std::int64_t kPanelCols = 16;

constexpr bool kBigEndian = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;

constexpr int log2_bytes(std::int32_t bytes) { return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3; }

template <class S>
const S* element(const std::byte* at) {
  return reinterpret_cast<const S*>(at);
}

// ---- load ----------------------------------------------------------------------------------------------------------

template <class S, class T>
void load_row(const S* __restrict src, std::int64_t cols, int shift, T* __restrict dst) {
  if (cols == kPanelCols) {  // a constant: straight vector code
    for (std::int64_t c = 0; c < kPanelCols; ++c) dst[c] = static_cast<T>(src[c] >> shift);
  } else {
    for (std::int64_t c = 0; c < cols; ++c) dst[c] = static_cast<T>(src[c] >> shift);
  }
}

template <class S, class T>
[[gnu::noinline]] void load(const LoadTask& task) {
  T* const dst = static_cast<T*>(task.dst);
  const IntegerView& src = task.src;
  const int shift = sizeof(T) < sizeof(S) ? task.shift : 0;
  if (src.col_stride == sizeof(S)) {
    for (std::int64_t r = 0; r < task.rows; ++r) {
      load_row<S, T>(element<S>(src.data + r * src.row_stride), task.cols, shift, dst + r * task.dst_stride);
    }
    return;
  }
  // Squares: whichever way the source lies, the lines that are read and written stay in the L1 cache.
  constexpr std::int64_t kSide = 16;
  for (std::int64_t r0 = 0; r0 < task.rows; r0 += kSide) {
    const std::int64_t rows = task.rows - r0 < kSide ? task.rows - r0 : kSide;
    for (std::int64_t c0 = 0; c0 < task.cols; c0 += kSide) {
      const std::int64_t cols = task.cols - c0 < kSide ? task.cols - c0 : kSide;
      for (std::int64_t c = c0; c < c0 + cols; ++c) {
        const std::byte* const from = src.data + r0 * src.row_stride + c * src.col_stride;
        T* const to = dst + r0 * task.dst_stride + c;
        const auto take = [&](std::int64_t r) {
          to[r * task.dst_stride] = static_cast<T>(*element<S>(from + r * src.row_stride) >> shift);
        };
        std::int64_t r = 0;
        for (; r + 8 <= rows; r += 8) unrolled<8>([&](auto i) { take(r + i); });
        for (; r < rows; ++r) take(r);
      }
    }
  }
}

// A sign matters only where a value gets longer: the rest is the same code for signed and unsigned.
template <class S, class T>
using Loaded = std::conditional_t<(sizeof(T) <= sizeof(S)), std::make_unsigned_t<S>, S>;

template <class S>
void load_from(const LoadTask& task) {
  switch (task.dst_bytes) {
    case 1:
      return load<Loaded<S, std::uint8_t>, std::uint8_t>(task);
    case 2:
      return load<Loaded<S, std::uint16_t>, std::uint16_t>(task);
    case 4:
      return load<Loaded<S, std::uint32_t>, std::uint32_t>(task);
    default:
      return load<Loaded<S, std::uint64_t>, std::uint64_t>(task);
  }
}

// body(S{}) for the type of the elements.
template <class Body>
auto with_element_type(const IntegerView& view, const Body& body) {
  switch (log2_bytes(view.elem_bytes) * 2 + (view.is_signed ? 1 : 0)) {
    case 0:
      return body(std::uint8_t{});
    case 1:
      return body(std::int8_t{});
    case 2:
      return body(std::uint16_t{});
    case 3:
      return body(std::int16_t{});
    case 4:
      return body(std::uint32_t{});
    case 5:
      return body(std::int32_t{});
    case 6:
      return body(std::uint64_t{});
    default:
      return body(std::int64_t{});
  }
}

void load_any(const LoadTask& task) {
  with_element_type(task.src, [&](auto zero) { load_from<decltype(zero)>(task); });
}

// ---- spread --------------------------------------------------------------------------------------------------------

template <class S>
IntegerSpread spread_of(const IntegerView& view, std::int64_t rows, std::int64_t cols) {
  constexpr int kSignShift = 8 * sizeof(S) - 1;
  S bits = 0, all = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::byte* const row = view.data + r * view.row_stride;
    const auto take = [&](S x) {
      if constexpr (S(-1) < S(0)) {
        bits = static_cast<S>(bits | (x ^ (x >> kSignShift)));
        all = static_cast<S>(all | x);
      } else {
        bits = static_cast<S>(bits | x);
      }
    };
    if (view.col_stride == sizeof(S)) {
      const S* const x = element<S>(row);
      for (std::int64_t c = 0; c < cols; ++c) take(x[c]);
    } else {
      for (std::int64_t c = 0; c < cols; ++c) take(*element<S>(row + c * view.col_stride));
    }
  }
  return {static_cast<std::uint64_t>(bits), all < 0};
}

IntegerSpread spread_any(const IntegerView& view, std::int64_t rows, std::int64_t cols) {
  // The order is free: along what lies together.
  const bool turned = view.col_stride != view.elem_bytes && view.row_stride == view.elem_bytes;
  const IntegerView lying{view.data, turned ? view.col_stride : view.row_stride,
                          turned ? view.row_stride : view.col_stride, view.elem_bytes, view.is_signed};
  return with_element_type(
      view, [&](auto zero) { return spread_of<decltype(zero)>(lying, turned ? cols : rows, turned ? rows : cols); });
}

// ---- packing -------------------------------------------------------------------------------------------------------

std::int64_t row_sum(const std::uint8_t* bytes, std::int64_t count, std::uint8_t flip) {
  std::uint32_t sum = 0;  // of x ^ 0x80, which is x + 128
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<std::uint8_t>(bytes[i] ^ 0x80 ^ flip);
  return std::int64_t{sum} - 128 * count;
}

// Vectors as GCC and Clang have them on every architecture.
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));
using Pairs8 = std::uint16_t __attribute__((vector_size(16)));
using Shorts8 = std::int16_t __attribute__((vector_size(16)));

#define OCTAVO_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define OCTAVO_ZIP_HIGH(a, b) \
  __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

// Four bytes of each column side by side. Adds to the sums of even columns and of odd ones, which int16 holds for
// kMostPackedK k.
template <std::int64_t kKr>
[[gnu::always_inline]] inline void pack_four(const std::uint8_t* rows, std::int64_t row_stride, std::uint8_t flip,
                                             std::int8_t* group, Shorts8 (&sums)[2]) {
  Bytes16 row[4];
  for (int i = 0; i < 4; ++i) {
    std::memcpy(row + i, rows + i * row_stride, sizeof row[i]);
    row[i] ^= flip;
    const Shorts8 pairs = reinterpret_cast<Shorts8>(row[i]);
    sums[kBigEndian ? 1 : 0] += pairs << 8 >> 8;
    sums[kBigEndian ? 0 : 1] += pairs >> 8;
  }
  const Pairs8 first[2] = {reinterpret_cast<Pairs8>(OCTAVO_ZIP_LOW(row[0], row[1])),
                           reinterpret_cast<Pairs8>(OCTAVO_ZIP_HIGH(row[0], row[1]))};
  const Pairs8 second[2] = {reinterpret_cast<Pairs8>(OCTAVO_ZIP_LOW(row[2], row[3])),
                            reinterpret_cast<Pairs8>(OCTAVO_ZIP_HIGH(row[2], row[3]))};
  Pairs8 line[4];
  for (int h = 0; h < 2; ++h) {
    line[2 * h] = __builtin_shufflevector(first[h], second[h], 0, 8, 1, 9, 2, 10, 3, 11);
    line[2 * h + 1] = __builtin_shufflevector(first[h], second[h], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  if constexpr (kKr == 4) {
    std::memcpy(group, line, sizeof line);
  } else {
    std::uint32_t words[kPanelCols];
    std::memcpy(words, line, sizeof line);
    for (std::int64_t j = 0; j < kPanelCols; ++j) std::memcpy(group + j * kKr, words + j, sizeof words[j]);
  }
}

template <std::int64_t kKr>
void pack_panel(const std::uint8_t* rows, std::int64_t stride, std::int64_t k, std::uint8_t flip, std::int8_t* panel,
                std::int32_t* column_sums) {
  const auto group = [&](std::int64_t i) { return panel + i / kKr * kKr * kPanelCols + i % kKr; };
  const std::int64_t padded = (k + kKr - 1) / kKr * kKr;
  Shorts8 sums[2] = {};
  std::int64_t i = 0;
  for (; i + 4 <= k; i += 4) pack_four<kKr>(rows + i * stride, stride, flip, group(i), sums);
  for (; i < padded; i += 4) {  // the rest of a group, whose missing k are 0: flipped twice
    std::uint8_t last[4 * kPanelCols];
    std::memset(last, flip, sizeof last);
    for (std::int64_t r = i; r < k; ++r) std::memcpy(last + (r - i) * kPanelCols, rows + r * stride, kPanelCols);
    pack_four<kKr>(last, kPanelCols, flip, group(i), sums);
  }
  for (std::int64_t j = 0; j < kPanelCols; ++j) column_sums[j] += sums[j % 2][j / 2];
}

void pack_digits(const std::uint8_t* rows, std::int64_t stride, std::int64_t k, std::int32_t kr, std::uint8_t flip,
                 std::int8_t* panel, std::int32_t* column_sums) {
  (kr == 4 ? pack_panel<4> : pack_panel<8>)(rows, stride, k, flip, panel, column_sums);
}

#undef OCTAVO_ZIP_LOW
#undef OCTAVO_ZIP_HIGH

void pack_pairs(const std::uint16_t* rows, std::int64_t stride, std::int64_t lines, std::uint16_t* panel) {
  for (std::int64_t g = 0; g < lines; ++g, rows += 2 * stride, panel += 2 * kPanelCols) {
    std::uint32_t line[kPanelCols];
    unrolled<kPanelCols>([&](auto j) {  // straight code, which becomes one vector
      const std::uint32_t first = rows[j], second = rows[stride + j];
      line[j] = kBigEndian ? first << 16 | second : first | second << 16;
    });
    std::memcpy(panel, line, sizeof line);
  }
}

// ---- writing -------------------------------------------------------------------------------------------------------

// Sums to elements of the result: cut off, or extended by their sign.
template <class Sum, class T>
void put_row(const Sum* __restrict sums, std::int64_t cols, bool add, T* __restrict dst) {
  if (add) {
    for (std::int64_t c = 0; c < cols; ++c) dst[c] = static_cast<T>(dst[c] + static_cast<T>(sums[c]));
  } else {
    for (std::int64_t c = 0; c < cols; ++c) dst[c] = static_cast<T>(sums[c]);
  }
}

// Sum is signed, so that 32 bits become 64 by their sign.
template <class Sum>
[[gnu::noinline]] void put_rows(const Sum* sums, std::int64_t sums_stride, std::int64_t rows, std::int64_t cols,
                                void* dst, std::int64_t dst_stride, std::int32_t dst_bytes, bool add) {
  const auto put = [&](auto zero) {
    using T = decltype(zero);
    T* const to = static_cast<T*>(dst);
    for (std::int64_t r = 0; r < rows; ++r) put_row(sums + r * sums_stride, cols, add, to + r * dst_stride);
  };
  switch (dst_bytes) {
    case 1:
      return put(std::uint8_t{});
    case 2:
      return put(std::uint16_t{});
    case 4:
      return put(std::uint32_t{});
    default:
      return put(std::uint64_t{});
  }
}

template <class Acc>
void combine_row(const CombineTask& task, std::int64_t r, Acc* __restrict acc) {
  const std::int32_t* __restrict sums = task.sums + r * task.sums_stride;
  const auto wide = [](std::int32_t sum) { return static_cast<Acc>(static_cast<std::int64_t>(sum)); };
  const int shift = task.shift;
  if (task.first) {
    for (std::int64_t c = 0; c < task.cols; ++c) acc[c] = static_cast<Acc>(wide(sums[c]) << shift);
  } else {
    for (std::int64_t c = 0; c < task.cols; ++c) acc[c] += static_cast<Acc>(wide(sums[c]) << shift);
  }
}

template <class Acc, class Signed>
void combine_of(const CombineTask& task) {
  constexpr std::int64_t kPiece = 256;
  for (std::int64_t r = 0; r < task.rows; ++r) {
    Acc* const acc = static_cast<Acc*>(task.acc) + r * task.sums_stride;
    combine_row(task, r, acc);
    if (!task.last) continue;
    Acc done[kPiece];
    const Acc row_term = task.row_term != nullptr ? static_cast<Acc>(task.row_term[r]) : Acc{0};
    for (std::int64_t c0 = 0; c0 < task.cols; c0 += kPiece) {
      const std::int64_t cols = task.cols - c0 < kPiece ? task.cols - c0 : kPiece;
      for (std::int64_t c = 0; c < cols; ++c) done[c] = acc[c0 + c] + row_term;
      if (task.col_term != nullptr) {
        for (std::int64_t c = 0; c < cols; ++c) done[c] += static_cast<Acc>(task.col_term[c0 + c]);
      }
      std::byte* const dst = static_cast<std::byte*>(task.dst) + (r * task.dst_stride + c0) * task.dst_bytes;
      put_rows(reinterpret_cast<const Signed*>(done), 0, 1, cols, dst, 0, task.dst_bytes, task.add);
    }
  }
}

void combine(const CombineTask& task) {
  if (task.first && task.last && task.row_term == nullptr && task.col_term == nullptr) {
    return put_rows(task.sums, task.sums_stride, task.rows, task.cols, task.dst, task.dst_stride, task.dst_bytes,
                    task.add);
  }
  task.acc_bytes == 4 ? combine_of<std::uint32_t, std::int32_t>(task) : combine_of<std::uint64_t, std::int64_t>(task);
}

// ---- vectors -------------------------------------------------------------------------------------------------------

// kLines lines at once, so that the sums are loaded and stored less often.
template <int kLines, class T>
void add_lines_to(const StreamTask& task, std::int64_t k, T* __restrict sums) {
  T by[kLines];
  const T* line[kLines];
  for (int i = 0; i < kLines; ++i) {
    by[i] = static_cast<const T*>(task.vector)[k + i];
    line[i] = element<T>(task.matrix + (k + i) * task.stride);
  }
  for (std::int64_t c = 0; c < task.count; ++c) {
    T sum = sums[c];
    unrolled<kLines>([&](auto i) { sum += by[i] * line[i][c]; });
    sums[c] = sum;
  }
}

template <class T>
void add_rows_of(const StreamTask& task) {
  T* const sums = static_cast<T*>(task.sums);
  std::int64_t k = 0;
  for (; k + 4 <= task.k; k += 4) add_lines_to<4>(task, k, sums);
  for (; k < task.k; ++k) add_lines_to<1>(task, k, sums);
}

template <class T>
void dot_rows_of(const StreamTask& task) {
  const T* const vector = static_cast<const T*>(task.vector);
  for (std::int64_t c = 0; c < task.count; ++c) {
    const T* const line = element<T>(task.matrix + c * task.stride);
    T sum = 0;
    for (std::int64_t k = 0; k < task.k; ++k) sum += vector[k] * line[k];
    static_cast<T*>(task.sums)[c] = sum;
  }
}

void add_rows(const StreamTask& task) {
  (task.elem_bytes == 4 ? add_rows_of<std::uint32_t> : add_rows_of<std::uint64_t>)(task);
}

void dot_rows(const StreamTask& task) {
  (task.elem_bytes == 4 ? dot_rows_of<std::uint32_t> : dot_rows_of<std::uint64_t>)(task);
}

}  // namespace
}  // namespace octavo
