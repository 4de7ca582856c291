#include "gemm/pack.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "gemm/gemm.h"
#include "gemm/registry.h"
#include "kernels/integer.h"

namespace octavo {
namespace {

// Below this many weights a second thread costs more than it saves. Weakly founded: packing a weight takes about 0.1
// ns.
constexpr std::int64_t kParallelWeights = 1 << 18;

// Weights that are packed in blocks: so many k of so many panels. And k of a column that
// are packed at once.
constexpr std::int64_t kRowsAtOnce = 64, kPanelsAtOnce = 8, kPanelColumns = 16, kStretch = 512;

// A column's k to words, `step` bytes apart, XORed with flip.
template <class Word>
void put_words(const std::uint8_t* src, std::int64_t k, std::uint8_t flip, std::uint8_t* dst, std::int64_t step) {
  constexpr std::int64_t kBytes = sizeof(Word);
  const Word flips = static_cast<Word>(0x0101010101010101u) * flip;
  Word word;
  for (; k >= kBytes; k -= kBytes, src += kBytes, dst += step) {
    std::memcpy(&word, src, kBytes);
    word ^= flips;
    std::memcpy(dst, &word, kBytes);
  }
  if (k == 0) return;
  word = 0;  // the last one is padded with zeros
  for (std::int64_t i = 0; i < k; ++i) reinterpret_cast<std::uint8_t*>(&word)[i] = src[i] ^ flip;
  std::memcpy(dst, &word, kBytes);
}

// One row of a panel: kKr elements of k lie side by side, the next ones `step` further on. A constant kKr makes words.
template <std::int64_t kKr>
std::int8_t* copy_row(const std::int8_t* src, std::int64_t step, std::int64_t k, std::int8_t* dst) {
  for (; k >= kKr; k -= kKr, src += step, dst += kKr) std::memcpy(dst, src, kKr);
  return std::copy_n(src, k, dst);
}
static_assert(kRowsAtOnce <= kMostPackedK);

}  // namespace

void pack_panels(std::int64_t panels, std::int64_t weights, IndexFunction pack_one) {
  parallel_for_if(weights >= kParallelWeights, panels, pack_one);
}

// Short stretches of k, so that the panel's lines stay in L1.
void pack_columns(const IntegerKernel& kernel, const ByteColumns& src, std::uint8_t flip, PanelShape shape,
                  std::int8_t* panel, std::int32_t* sums) {
  if (src.cols < shape.nr) std::memset(panel, 0, static_cast<std::size_t>(round_up(src.k, shape.kr) * shape.nr));
  for (std::int64_t k0 = 0; k0 < src.k; k0 += kStretch) {
    const std::int64_t depth = std::min(kStretch, src.k - k0), step = shape.nr * shape.kr;
    for (std::int64_t j = 0; j < src.cols; ++j) {
      const std::uint8_t* const from = src.data + j * src.stride + k0;
      auto* const to = reinterpret_cast<std::uint8_t*>(panel) + k0 * shape.nr + j * shape.kr;
      (shape.kr == 4 ? put_words<std::uint32_t> : put_words<std::uint64_t>)(from, depth, flip, to, step);
      sums[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[j]) +
                                          static_cast<std::uint32_t>(kernel.row_sum(from, depth, flip)));
    }
  }
}

PackedRhs::PackedRhs(std::int64_t n, std::int64_t k, PanelShape shape, Image& image)
    : n_(n),
      k_(k),
      nr_(shape.nr),
      kr_(shape.kr),
      panels_(ceil_div(n_, nr_)),
      panel_bytes_(round_up(k_, kr_) * nr_),
      data_(image.take(memory_bytes(panels_ * panel_bytes_ + kRhsSlackBytes))),
      sums_(image.take(static_cast<std::size_t>(padded_n()) * sizeof(std::int32_t))) {
  assert(kr_ == 4 || kr_ == 8);  // what pack and unpack_rows know
  assert(nr_ == kPanelColumns);  // what pack_digits knows
}

std::size_t PackedRhs::image_bytes(std::int64_t n, std::int64_t k, PanelShape shape) {
  const std::int64_t columns = round_up(n, shape.nr);
  return Image::padded(memory_bytes(columns * round_up(k, shape.kr) + kRhsSlackBytes)) +
         Image::padded(memory_bytes(columns * std::int64_t{sizeof(std::int32_t)}));
}

void PackedRhs::pack(const RhsView& view) {
  const IntegerKernel& kernel = *active_kernel().integer;
  if (view.k_stride == 1) {
    return pack_panels(panels(), n_ * k_, [&](std::int64_t panel) {
      const std::int64_t n0 = panel * nr_;
      pack_columns(kernel, {view.data + n0 * view.n_stride, view.n_stride, std::min<std::int64_t>(nr_, n_ - n0), k_},
                   view.is_unsigned ? 0x80 : 0, PanelShape{nr_, kr_}, data_.as<std::int8_t>() + panel * panel_bytes(),
                   sums_.as<std::int32_t>() + n0);
    });
  }
  pack_panels(ceil_div(panels(), kPanelsAtOnce), n_ * k_, [&](std::int64_t i) {
    for (std::int64_t k = 0; k < k_; k += kRowsAtOnce) {
      pack_block(kernel, view, i * kPanelsAtOnce, std::min(panels_, (i + 1) * kPanelsAtOnce), k);
    }
  });
}

// Weights that lie in another way, kRowsAtOnce k from k0 on: by way of a block in the L1 cache, so that memory is read
// in runs of some lines.
void PackedRhs::pack_block(const IntegerKernel& kernel, const RhsView& view, std::int64_t panel0, std::int64_t panel1,
                           std::int64_t k0) {
  const std::uint8_t flip = view.is_unsigned ? 0x80 : 0;
  alignas(64) std::uint8_t rows[kRowsAtOnce * kPanelsAtOnce * kPanelColumns];
  const std::int64_t depth = std::min(kRowsAtOnce, k_ - k0), n0 = panel0 * nr_, stride = kPanelsAtOnce * nr_;
  const std::int64_t cols = std::min(n_, panel1 * nr_) - n0;
  if (cols % nr_ != 0) std::memset(rows, flip, sizeof rows);  // columns that are not there are zeros
  const std::uint8_t* const from = view.data + n0 * view.n_stride + k0 * view.k_stride;
  const IntegerView src{reinterpret_cast<const std::byte*>(from), view.k_stride, view.n_stride, 1, false};
  kernel.load({src, depth, cols, 0, rows, stride, 1});
  for (std::int64_t p = panel0; p < panel1; ++p) {
    kernel.pack_digits(rows + (p - panel0) * nr_, stride, depth, kr_, flip,
                       data_.as<std::int8_t>() + p * panel_bytes() + k0 * nr_, sums_.as<std::int32_t>() + p * nr_);
  }
}

void PackedRhs::unpack(std::int8_t* dst) const {
  for (std::int64_t n = 0; n < n_; ++n, dst += k_) unpack_rows(&n, 1, dst);
}

void PackedRhs::unpack_rows(const std::int64_t* rows, std::int64_t count, std::int8_t* dst) const {
  const std::int64_t step = nr_ * kr_;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int8_t* src = panel(rows[i] / nr_) + rows[i] % nr_ * kr_;
    dst = kr_ == 4 ? copy_row<4>(src, step, k_, dst) : copy_row<8>(src, step, k_, dst);
  }
}

void PackedRhs::unpack_columns(const std::int64_t* columns, std::int64_t count, std::int8_t* dst) const {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = columns[i] / kr_ * (nr_ * kr_) + columns[i] % kr_;
    for (std::int64_t n0 = 0; n0 < n_; n0 += nr_) {
      const std::int8_t* src = panel(n0 / nr_) + at;
      const std::int64_t cols = std::min<std::int64_t>(nr_, n_ - n0);
      for (std::int64_t j = 0; j < cols; ++j) *dst++ = src[j * kr_];
    }
  }
}

}  // namespace octavo
