#include "functional/attention.h"

#include <algorithm>
#include <limits>

#include "base/aligned_buffer.h"
#include "base/arch.h"
#include "base/result_pool.h"
#include "base/thread_pool.h"
#include "functional/kv_panels.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// A task is a block of rows of one head of keys. Its rows are the queries' heads that share it, in this order, so that
// they share what is loaded: with 3 heads for one of keys, row 5 is head 2 of query 1. Scores of a block stay in the L2
// cache.
constexpr std::int64_t kMostRows = 24;
constexpr std::int64_t kLeastRows = 6;
constexpr std::int64_t kScoreElems = 48 * 1024;
constexpr std::int64_t kDepth = 256;  // positions of the values that are multiplied at a time: 16 KiB of a panel

// Below so many multiply-adds a call stays on its thread: about 20 us.
constexpr double kParallelWork = 1 << 20;

std::int64_t padded(std::int64_t n) { return (n + kPanelColumns - 1) / kPanelColumns * kPanelColumns; }

std::int64_t block_rows(std::int64_t length) {
  const std::int64_t fit = kScoreElems / std::max<std::int64_t>(1, padded(length)) / kLeastRows * kLeastRows;
  return std::clamp(fit, kLeastRows, kMostRows);
}

class Block {
 public:
  Block(const Attention& a, std::int64_t sequence, std::int64_t kv_head, std::int64_t first_row, std::int64_t rows)
      : a_(a),
        s_(a.sequences.data()[sequence]),
        sequence_(sequence),
        kv_head_(kv_head),
        first_(first_row),
        rows_(rows) {
    group_ = a.heads / a.kv_heads;
    panels_ = value_panels(a.dim);
    for (std::int64_t r = 0; r < rows; ++r) limit_[r] = a.causal ? s_.length - s_.queries + query(r) + 1 : s_.length;
    positions_ = limit_[rows - 1];  // of the last row, which sees the most
    stride_ = padded(positions_);
    static thread_local AlignedBuffer space;
    space.reserve(memory_bytes(rows * (stride_ + a.dim + panels_ * kPanelColumns) * std::int64_t{sizeof(float)}));
    scores_ = space.as<float>();
    o_ = scores_ + rows * stride_;
    q_ = o_ + rows * panels_ * kPanelColumns;
  }

  [[gnu::noinline]] void run(const FunctionKernel& kernel) {
    kernel_ = &kernel;
    std::fill_n(o_, rows_ * panels_ * kPanelColumns, 0.0F);
    if (positions_ > 0) {
      multiply_keys();
      const bool all_seen = a_.mask.kind == AttentionMask::Kind::kNone || apply_mask();
      softmax();
      if (all_seen) {
        add_values(0, rows_, 0, positions_);
      } else {
        add_seen_values();
      }
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      std::copy_n(o_ + r * panels_ * kPanelColumns, a_.dim,
                  s_.out + query(r) * a_.out_stride + head(r) * a_.out_head_stride);
    }
  }

 private:
  std::int64_t query(std::int64_t row) const { return (first_ + row) / group_; }
  std::int64_t head(std::int64_t row) const { return kv_head_ * group_ + (first_ + row) % group_; }

  void multiply_keys() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      std::copy_n(s_.q + query(r) * a_.q_stride + head(r) * a_.q_head_stride, a_.dim, q_ + r * a_.dim);
    }
    kernel_->panel_product({q_, a_.dim, rows_, s_.keys + kv_head_ * a_.key_head_stride, a_.dim * kPanelColumns,
                            stride_ / kPanelColumns, a_.dim, scores_, stride_, a_.scale, false});
  }

  void softmax() {
    for (std::int64_t r = 0, end = 0; r < rows_; r = end) {
      while (end < rows_ && limit_[end] == limit_[r]) ++end;
      if (limit_[r] == 0) continue;
      float* const x = scores_ + r * stride_;
      kernel_->rowwise[static_cast<int>(Rowwise::kSoftmax)](
          {x, stride_, x, stride_, end - r, limit_[r], nullptr, nullptr, 0.0F});
    }
  }

  // Adds the values of positions from .. to - 1 to rows first .. last - 1, as far as each of them sees. Rows see no
  // less than the row before: what the first one sees is added to all together, and the rest by halves.
  void add_values(std::int64_t first, std::int64_t last, std::int64_t from, std::int64_t to) {
    const std::int64_t common = std::min(limit_[first], to);
    const float* const values = s_.values + kv_head_ * a_.value_head_stride;
    for (std::int64_t t = from; t < common; t += kDepth) {
      kernel_->panel_product({scores_ + first * stride_ + t, stride_, last - first, values + t * kPanelColumns,
                              a_.value_panel_stride, panels_, std::min(kDepth, common - t),
                              o_ + first * panels_ * kPanelColumns, panels_ * kPanelColumns, 1.0F, true});
    }
    from = std::max(from, common);
    if (from >= std::min(limit_[last - 1], to)) return;
    const std::int64_t middle = first + (last - first) / 2;
    add_values(first, middle, from, to);
    add_values(middle, last, from, to);
  }

  // ---- masks ----

  // How many rows, from `row` on, have the same mask.
  std::int64_t rows_of_mask(std::int64_t row) const {
    if (a_.mask.head_stride != 0 && group_ != 1) return 1;
    if (a_.mask.query_stride == 0) return rows_ - row;
    return std::min(rows_ - row, group_ - (first_ + row) % group_);
  }

  // The element of position 0 of a row.
  std::int64_t mask_at(std::int64_t row) const {
    const AttentionMask& m = a_.mask;
    return sequence_ * m.sequence_stride + head(row) * m.head_stride + query(row) * m.query_stride;
  }

  bool seen(std::int64_t row, std::int64_t t) const {
    const std::int64_t at = mask_at(row) + t * a_.mask.key_stride;
    if (a_.mask.kind == AttentionMask::Kind::kBool) return static_cast<const bool*>(a_.mask.data)[at];
    return static_cast<const float*>(a_.mask.data)[at] != kMasked;
  }

  // Adds the mask to the scores, which become -infinity where a position is not seen; whether all are seen.
  bool apply_mask() {
    bool all = true;
    const std::int64_t step = a_.mask.key_stride;
    for (std::int64_t r = 0; r < rows_; ++r) {
      float* const s = scores_ + r * stride_;
      if (a_.mask.kind == AttentionMask::Kind::kBool) {
        const bool* const m = static_cast<const bool*>(a_.mask.data) + mask_at(r);
        for (std::int64_t t = 0; t < limit_[r]; ++t) {
          all = all && m[t * step];
          s[t] = m[t * step] ? s[t] : kMasked;
        }
      } else {
        const float* const m = static_cast<const float*>(a_.mask.data) + mask_at(r);
        for (std::int64_t t = 0; t < limit_[r]; ++t) {
          const bool is_seen = m[t * step] != kMasked;
          all = all && is_seen;
          s[t] = is_seen ? s[t] + m[t * step] : kMasked;
        }
      }
    }
    return all;
  }

  void add_seen_values() {
    for (std::int64_t first = 0, last = 0; first < rows_; first = last) {
      last = first + rows_of_mask(first);
      for (std::int64_t t = 0; t < limit_[last - 1];) {
        const std::int64_t from = t;
        while (t < limit_[last - 1] && seen(first, t)) ++t;
        if (t > from) add_values(first, last, from, t);
        while (t < limit_[last - 1] && !seen(first, t)) ++t;
      }
    }
  }

  const Attention& a_;
  const AttentionSequence& s_;
  const FunctionKernel* kernel_ = nullptr;
  std::int64_t sequence_, kv_head_, first_, rows_, group_, panels_, positions_, stride_;
  std::int64_t limit_[kMostRows];
  float *scores_, *o_, *q_;  // (rows, stride), (rows, dimensions of whole panels), (rows, dim)
};

}  // namespace

double attention_work(const Attention& a) {
  double pairs = 0;
  for (const AttentionSequence& s : a.sequences) {
    const auto queries = static_cast<double>(s.queries), length = static_cast<double>(s.length);
    pairs += a.causal ? queries * (length - queries / 2) : queries * length;
  }
  return 2 * pairs * static_cast<double>(a.heads * a.dim);
}

void attend(const Attention& a) {
  const FunctionKernel& kernel = functions_in_use();
  // Tasks of a sequence: the blocks of its rows, for each head of keys.
  std::vector<std::int64_t> first_task(a.sequences.size() + 1, 0);
  const std::int64_t group = a.heads / a.kv_heads;
  const auto blocks = [&](const AttentionSequence& s) {
    const std::int64_t rows = block_rows(s.length);
    return (s.queries * group + rows - 1) / rows;
  };
  for (std::size_t i = 0; i < a.sequences.size(); ++i) {
    first_task[i + 1] = first_task[i] + a.kv_heads * blocks(a.sequences[i]);
  }
  const auto task = [&](std::int64_t index) {
    const DefaultFloatEnvironment environment;
    const auto after = std::upper_bound(first_task.begin(), first_task.end(), index);
    const std::int64_t i = after - first_task.begin() - 1;
    const AttentionSequence& s = a.sequences.data()[i];
    const std::int64_t per_head = blocks(s), within = index - first_task.data()[i], rows = block_rows(s.length);
    const std::int64_t first = within % per_head * rows;
    Block(a, i, within / per_head, first, std::min(rows, s.queries * group - first)).run(kernel);
  };
  parallel_for_if(attention_work(a) >= kParallelWork, first_task.back(), task);
}

void attend_to_arrays(Attention a, const float* k, const float* v, std::int64_t positions) {
  const auto count = static_cast<std::int64_t>(a.sequences.size());
  a.key_head_stride = key_elems(positions, a.dim);
  a.value_panel_stride = padded(positions) * kPanelColumns;
  a.value_head_stride = value_panels(a.dim) * a.value_panel_stride;
  const std::int64_t head_elems = a.key_head_stride + a.value_head_stride;
  CallMemory memory;
  memory.reserve(memory_bytes(count * a.kv_heads * head_elems * std::int64_t{sizeof(float)}));
  float* const space = memory.as<float>();
  const auto keys_of = [&](std::int64_t i) { return space + i * a.kv_heads * head_elems; };
  const auto values_of = [&](std::int64_t i) { return keys_of(i) + a.kv_heads * a.key_head_stride; };
  for (std::int64_t i = 0; i < count; ++i) {
    a.sequences.data()[i].keys = keys_of(i);
    a.sequences.data()[i].values = values_of(i);
  }
  const auto pack = [&](std::int64_t task) {
    const std::int64_t i = task / a.kv_heads, head = task % a.kv_heads, row = a.kv_heads * a.dim;
    const std::int64_t from = i * positions * row + head * a.dim;
    float* const keys = keys_of(i) + head * a.key_head_stride;
    float* const values = values_of(i) + head * a.value_head_stride;
    // What the products read beyond the last position and dimension is not used, but should be numbers.
    if (positions % kPanelColumns != 0)
      std::fill_n(keys + a.key_head_stride - kPanelColumns * a.dim, kPanelColumns * a.dim, 0.0F);
    if (a.dim % kPanelColumns != 0)
      std::fill_n(values + a.value_head_stride - a.value_panel_stride, a.value_panel_stride, 0.0F);
    write_keys(k + from, row, positions, a.dim, 0, keys);
    write_values(v + from, row, positions, a.dim, 0, values, a.value_panel_stride);
  };
  parallel_for_if(attention_work(a) >= kParallelWork, count * a.kv_heads, pack);
  attend(a);
}

}  // namespace octavo
