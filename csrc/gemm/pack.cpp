#include "gemm/pack.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "gemm/gemm.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Below this many weights a second thread costs more than it saves. Weakly founded: packing a weight takes about 0.5
// ns.
constexpr std::int64_t kParallelWeights = 1 << 18;

// One row of a panel: kKr elements of k lie side by side, the next ones `step` further on. A constant kKr makes words.
template <std::int64_t kKr>
std::int8_t* copy_row(const std::int8_t* src, std::int64_t step, std::int64_t k, std::int8_t* dst) {
  for (; k >= kKr; k -= kKr, src += step, dst += kKr) std::memcpy(dst, src, kKr);
  return std::copy_n(src, k, dst);
}

}  // namespace

void pack_panels(std::int64_t panels, std::int64_t weights, IndexFunction pack_one) {
  if (weights >= kParallelWeights) return parallel_for(panels, pack_one);
  for (std::int64_t i = 0; i < panels; ++i) pack_one(i);
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
  assert(kr_ == 4 || kr_ == 8);  // what unpack_rows knows
}

std::size_t PackedRhs::image_bytes(std::int64_t n, std::int64_t k, PanelShape shape) {
  const std::int64_t columns = round_up(n, shape.nr);
  return Image::padded(memory_bytes(columns * round_up(k, shape.kr) + kRhsSlackBytes)) +
         Image::padded(memory_bytes(columns * std::int64_t{sizeof(std::int32_t)}));
}

void PackedRhs::pack(const RhsView& view) {
  pack_panels(panels(), n_ * k_, [&](std::int64_t panel) { pack_panel(view, panel); });
}

void PackedRhs::pack_panel(const RhsView& view, std::int64_t panel) {
  const std::uint8_t flip = view.is_unsigned ? 0x80 : 0;
  const std::int64_t n0 = panel * nr_, cols = std::min<std::int64_t>(nr_, n_ - n0);
  auto* group = data_.as<std::uint8_t>() + panel * panel_bytes();
  std::int32_t* sums = sums_.as<std::int32_t>() + n0;
  for (std::int64_t k0 = 0; k0 < k_; k0 += kr_, group += nr_ * kr_) {
    const std::int64_t depth = std::min<std::int64_t>(kr_, k_ - k0);
    for (std::int64_t i = 0; i < depth; ++i) {
      const std::uint8_t* src = view.data + n0 * view.n_stride + (k0 + i) * view.k_stride;
      for (std::int64_t j = 0; j < cols; ++j) {
        const auto value = static_cast<std::uint8_t>(src[j * view.n_stride] ^ flip);
        group[j * kr_ + i] = value;
        sums[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[j]) +
                                            static_cast<std::uint32_t>(static_cast<std::int8_t>(value)));
      }
    }
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
