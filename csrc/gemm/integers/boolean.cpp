#include "gemm/integers/boolean.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "gemm/gemm.h"
#include "gemm/pack.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Columns go in strips of 512: 64 bytes of bits for each k, together for all k of a strip.
constexpr std::int64_t kWords = 8, kStripCols = 64 * kWords;

constexpr std::int64_t kRowBytes = kWords * 8;  // of a strip

// k whose places in a row of the lhs are listed at a time, before all strips take them.
constexpr std::int64_t kListK = 128;

// Rows of the lhs that a task takes.
constexpr std::int64_t kTaskRows = 64;

// Bytes of the lhs and the result below which one thread goes through them. Weakly founded.
constexpr double kParallelBytes = 1 << 18;

using Word = std::uint64_t;
constexpr Word kEachByte = 0x0101010101010101u;

// Eight bytes as they lie in memory, the first one lowest on every machine.
Word load_word(const std::uint8_t* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  if constexpr (std::endian::native == std::endian::big) {
    Word turned = 0;
    for (int i = 0; i < 8; ++i) turned |= (word >> (56 - 8 * i) & 0xff) << (8 * i);
    return turned;
  }
  return word;
}
void store_word(std::uint8_t* bytes, Word word) {
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

// 1 in each byte that is not 0.
Word truths(Word bytes) {
  constexpr Word kLow7 = 0x7f7f7f7f7f7f7f7fu;
  return (((bytes & kLow7) + kLow7) | bytes) >> 7 & kEachByte;
}

// The lowest bits of 8 bytes as 8 bits: byte i moves to bit 56 + i, and no two meet.
std::uint8_t bits_of(Word ones) { return static_cast<std::uint8_t>(ones * 0x0102040810204080u >> 56); }

// 8 bits as 8 bytes of 0 or 1.
Word bytes_of(std::uint8_t bits) { return truths(bits * kEachByte & 0x8040201008040201u); }

// A row of bytes, true where not 0, that lie together; copied to `buffer` where they do not.
const std::uint8_t* row_bytes(const IntegerKernel& kernel, const IntegerView& row, std::int64_t cols,
                              AlignedBuffer& buffer) {
  if (row.col_stride == 1) return reinterpret_cast<const std::uint8_t*>(row.data);
  buffer.reserve(memory_bytes(cols));
  kernel.load({row, 1, cols, 0, buffer.as<void>(), cols, 1});
  return buffer.as<const std::uint8_t>();
}

// The bits of at most kStripCols bytes; those behind them are 0.
void put_bits(const std::uint8_t* bytes, std::int64_t count, Word* words) {
  std::uint8_t bits[kWords * sizeof(Word)] = {};
  std::int64_t c = 0;
  for (; c + 8 <= count; c += 8) bits[c / 8] = bits_of(truths(load_word(bytes + c)));
  for (; c < count; ++c) bits[c / 8] = static_cast<std::uint8_t>(bits[c / 8] | (bytes[c] != 0) << (c % 8));
  for (std::int64_t w = 0; w < kWords; ++w) words[w] = load_word(bits + w * std::int64_t{sizeof(Word)});
}

// A piece of the rhs: some k by all columns.
class BitRows {
 public:
  BitRows(const IntegerKernel& kernel, const IntegerMatrix& rhs, std::int64_t k0, std::int64_t depth)
      : k_(depth), strips_(ceil_div(rhs.cols, kStripCols)) {
    words_.reserve(memory_bytes(strips_ * k_ * kRowBytes));
    pack_panels(ceil_div(k_, kTaskRows), k_ * rhs.cols, [&](std::int64_t t) {
      AlignedBuffer buffer;
      for (std::int64_t k = t * kTaskRows; k < std::min(k_, (t + 1) * kTaskRows); ++k) {
        pack_row(row_bytes(kernel, rhs.view.at(k0 + k, 0), rhs.cols, buffer), rhs.cols, k);
      }
    });
  }
  const Word* row(std::int64_t strip, std::int64_t k) const {
    return words_.as<const Word>() + (strip * k_ + k) * kWords;
  }
  std::int64_t depth() const { return k_; }
  std::int64_t strips() const { return strips_; }

 private:
  void pack_row(const std::uint8_t* bytes, std::int64_t cols, std::int64_t k) {
    for (std::int64_t s = 0; s < strips_; ++s) {
      put_bits(bytes + s * kStripCols, std::min(kStripCols, cols - s * kStripCols),
               words_.as<Word>() + (s * k_ + k) * kWords);
    }
  }

  std::int64_t k_, strips_;
  AlignedBuffer words_;
};

// Where bytes[0 .. count) are not 0; count <= kListK.
std::int64_t list_truths(const std::uint8_t* bytes, std::int64_t count, std::int32_t* places) {
  std::int64_t listed = 0, i = 0;
  for (; i + 8 <= count; i += 8) {
    for (unsigned bits = bits_of(truths(load_word(bytes + i))); bits != 0; bits &= bits - 1) {
      places[listed++] = static_cast<std::int32_t>(i + std::countr_zero(bits));
    }
  }
  for (; i < count; ++i) {
    if (bytes[i] != 0) places[listed++] = static_cast<std::int32_t>(i);
  }
  return listed;
}

// One strip of a row of the result.
struct StripSums {
  Word words[kWords];
  bool full;
};

void or_rows(const BitRows& rhs, std::int64_t strip, std::int64_t k0, const std::int32_t* places, std::int64_t count,
             const Word* all, StripSums& sums) {
  constexpr std::int64_t kRowsAtOnce = 16;  // before looking whether it is full
  const Word* const first = rhs.row(strip, k0);
  for (std::int64_t i = 0; i < count && !sums.full; i += kRowsAtOnce) {
    for (std::int64_t j = i; j < std::min(count, i + kRowsAtOnce); ++j) {
      const Word* const row = first + places[j] * kWords;
      for (std::int64_t w = 0; w < kWords; ++w) sums.words[w] |= row[w];
    }
    sums.full = std::equal(all, all + kWords, sums.words);
  }
}

void put_strip(const StripSums& sums, std::int64_t cols, std::uint8_t* dst) {
  std::int64_t c = 0;
  const auto bits = [&](std::int64_t at) { return static_cast<std::uint8_t>(sums.words[at / 64] >> (at % 64)); };
  for (; c + 8 <= cols; c += 8) store_word(dst + c, bytes_of(bits(c)));
  for (; c < cols; ++c) dst[c] = bits(c) & 1;
}

// The bits of each word of a strip that stand for columns.
void put_column_bits(std::int64_t cols, Word* all) {
  for (std::int64_t w = 0; w < kWords; ++w) {
    const std::int64_t bits = std::clamp<std::int64_t>(cols - 64 * w, 0, 64);
    all[w] = bits == 64 ? ~Word{0} : (Word{1} << bits) - 1;
  }
}

// With `joins` what dst holds already, of pieces before this one, joins the result.
void multiply_row(const BitRows& rhs, const std::uint8_t* lhs, bool joins, std::int64_t n, std::uint8_t* dst,
                  std::vector<StripSums>& strips) {
  strips.assign(static_cast<std::size_t>(rhs.strips()), StripSums{});
  for (std::int64_t s = 0; joins && s < rhs.strips(); ++s) {
    put_bits(dst + s * kStripCols, std::min(kStripCols, n - s * kStripCols), strips[static_cast<std::size_t>(s)].words);
  }
  std::int64_t open = rhs.strips();
  std::int32_t places[kListK];
  for (std::int64_t k0 = 0; k0 < rhs.depth() && open > 0; k0 += kListK) {
    const std::int64_t count = list_truths(lhs + k0, std::min(kListK, rhs.depth() - k0), places);
    for (std::int64_t s = 0; s < rhs.strips(); ++s) {
      StripSums& sums = strips[static_cast<std::size_t>(s)];
      if (sums.full) continue;
      Word all[kWords];
      put_column_bits(n - s * kStripCols, all);
      or_rows(rhs, s, k0, places, count, all, sums);
      open -= sums.full ? 1 : 0;
    }
  }
  for (std::int64_t s = 0; s < rhs.strips(); ++s) {
    put_strip(strips[static_cast<std::size_t>(s)], std::min(kStripCols, n - s * kStripCols), dst + s * kStripCols);
  }
}

}  // namespace

void multiply_booleans(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                       CallReport& report) {
  const std::int64_t m = lhs.rows, k = lhs.cols, n = rhs.cols;
  if (m == 0 || n == 0) return;
  const Kernel& kernel = kernel_for(m);
  const std::int64_t tasks = ceil_div(m, kTaskRows);
  const bool shared = static_cast<double>(m) * static_cast<double>(k + n) >= kParallelBytes;
  report.run_by(kernel.name, shared ? num_threads() : 1);
  report.split(tasks, "rows");
  const std::int64_t most_k = std::max(kListK, kPieceBytes / (ceil_div(n, kStripCols) * kRowBytes));
  for (std::int64_t k0 = 0; k0 < std::max<std::int64_t>(k, 1); k0 += most_k) {
    const BitRows bits(*kernel.integer, rhs, k0, std::min(most_k, k - k0));
    const auto multiply_some = [&](std::int64_t t) {
      std::vector<StripSums> strips;
      AlignedBuffer buffer;
      for (std::int64_t r = t * kTaskRows; r < std::min(m, (t + 1) * kTaskRows); ++r) {
        multiply_row(bits, row_bytes(*kernel.integer, lhs.view.at(r, k0), bits.depth(), buffer), k0 != 0, n,
                     reinterpret_cast<std::uint8_t*>(dst.at(r, 0).data), strips);
      }
    };
    parallel_for_if(shared, tasks, multiply_some);
  }
}

}  // namespace octavo
