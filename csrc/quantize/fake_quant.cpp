#include "quantize/fake_quant.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"

namespace octavo {
namespace {

// Elements of one task: 64 KiB of each array, which fits a cache and is large beside the cost of handing it out.
constexpr std::int64_t kTaskElems = 16384;

// Adding and subtracting 1.5 * 2^23 rounds |v| < 2^22 to the nearest integer, ties to even, as rint does, but gives +0
// where rint gives -0. The baseline has no instruction for rint.
constexpr float kRounder = 12582912.0F;

inline float rounded(float v) { return (v + kRounder) - kRounder; }

// NaN stays NaN.
inline float clamped(float v, float lo, float hi) {
  v = v < lo ? lo : v;
  return v > hi ? hi : v;
}

// The numbers of one channel, for runs of elements that share them.
struct OneChannel {
  float scale_value, r_value, lo_value, hi_value;
  float scale(std::int64_t) const { return scale_value; }
  float r(std::int64_t) const { return r_value; }
  float lo(std::int64_t) const { return lo_value; }
  float hi(std::int64_t) const { return hi_value; }
};

// The numbers of all channels, for rows in which element j is of channel j.
struct EachChannel {
  const float *scale_data, *r_data, *lo_data, *hi_data;
  float scale(std::int64_t j) const { return scale_data[j]; }
  float r(std::int64_t j) const { return r_data[j]; }
  float lo(std::int64_t j) const { return lo_data[j]; }
  float hi(std::int64_t j) const { return hi_data[j]; }
};

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

class Channels {
 public:
  Channels(const ChannelShape& shape, const FakeQuantParams& params)
      : scale_(params.scale), r_(size(shape.channels)), lo_(r_.size()), hi_(r_.size()) {
    const DefaultFloatEnvironment environment;  // r may be subnormal
    for (std::size_t c = 0; c < r_.size(); ++c) {
      r_[c] = 1.0F / params.scale[c];
      lo_[c] = static_cast<float>(params.qmin - params.zero_point[c]);
      hi_[c] = static_cast<float>(params.qmax - params.zero_point[c]);
    }
  }
  OneChannel one(std::int64_t channel) const {
    const std::size_t c = size(channel);
    return {scale_[c], r_[c], lo_[c], hi_[c]};
  }
  EachChannel each() const { return {scale_, r_.data(), lo_.data(), hi_.data()}; }

 private:
  const float* scale_;
  std::vector<float> r_, lo_, hi_;
};

// Rows of a task that keeps sums of all channels, which would take more memory than the rows if it had fewer.
constexpr std::int64_t kSummedRows = 16;

// How an array is cut into tasks, which depends on its shape alone. Where inner is 1 a piece is a row of `channels`
// elements. Otherwise it is a run of `inner` elements of one (outer, channel), or a part of one that is longer than
// kTaskElems. A task takes several short pieces.
struct Cut {
  explicit Cut(const ChannelShape& s, std::int64_t least_rows = 1)
      : shape(s),
        rows(s.inner == 1 && s.channels > 1),
        pieces_a_run(rows ? 1 : (s.inner + kTaskElems - 1) / kTaskElems),
        pieces(rows ? s.outer : s.outer * s.channels * pieces_a_run),
        pieces_a_task(
            std::max(rows ? least_rows : 1, kTaskElems / std::max<std::int64_t>(1, rows ? s.channels : s.inner))),
        tasks((pieces + pieces_a_task - 1) / pieces_a_task) {}

  ChannelShape shape;
  bool rows;
  std::int64_t pieces_a_run, pieces, pieces_a_task, tasks;

  struct Piece {
    std::int64_t start, size, channel;
  };
  Piece piece(std::int64_t index) const {
    if (rows) return {index * shape.channels, shape.channels, 0};
    const std::int64_t run = index / pieces_a_run, first = (index % pieces_a_run) * kTaskElems;
    return {run * shape.inner + first, std::min(kTaskElems, shape.inner - first), run % shape.channels};
  }
};

// work(piece's index, piece) for every piece; those of one task in ascending order, on one thread.
template <class Work>
void for_each_piece(const Cut& cut, const Work& work) {
  parallel_for(cut.tasks, [&](std::int64_t task) {
    const DefaultFloatEnvironment environment;
    const std::int64_t first = task * cut.pieces_a_task, last = std::min(first + cut.pieces_a_task, cut.pieces);
    for (std::int64_t i = first; i < last; ++i) work(i, task, cut.piece(i));
  });
}

// Forward

// Whether x holds NaN.
template <class Numbers>
bool forward(const float* x, float* y, std::int64_t n, const Numbers& of) {
  std::int32_t has_nan = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = x[i] * of.r(i);
    has_nan |= static_cast<std::int32_t>(v != v);
    y[i] = rounded(clamped(v, of.lo(i), of.hi(i))) * of.scale(i);
  }
  return has_nan != 0;
}

// Backward

template <class Numbers>
void backward(const float* x, const float* g, float* dx, std::int64_t n, const Numbers& of) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float lo = of.lo(i), hi = of.hi(i);
    const float q = rounded(clamped(x[i] * of.r(i), lo - 1, hi + 1));
    dx[i] = q == clamped(q, lo, hi) ? g[i] : 0.0F;
  }
}

struct Sums {
  double scale = 0, outside = 0;  // of g * dy/dscale; of g where x was clamped
};

// One element's part of both sums, and its dx.
inline float learnable(float x, float g, const OneChannel& of, double& scale, double& outside) {
  const float v = clamped(x * of.r_value, of.lo_value - 1, of.hi_value + 1);
  const float nearest = rounded(v), q = clamped(nearest, of.lo_value, of.hi_value);
  const bool inside = nearest == q;
  scale += static_cast<double>(g) * static_cast<double>(q - (inside ? v : 0.0F));
  outside += static_cast<double>(inside ? 0.0F : g);
  return inside ? g : 0.0F;
}

Sums learnable_run(const float* x, const float* g, float* dx, std::int64_t n, const OneChannel& of) {
  constexpr std::int64_t kLanes = 8;  // sums side by side, which a compiler may keep in vectors
  double scale[kLanes] = {}, outside[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) dx[i + l] = learnable(x[i + l], g[i + l], of, scale[l], outside[l]);
  }
  for (; i < n; ++i) dx[i] = learnable(x[i], g[i], of, scale[i % kLanes], outside[i % kLanes]);
  Sums total;
  for (std::int64_t l = 0; l < kLanes; ++l) {
    total.scale += scale[l];
    total.outside += outside[l];
  }
  return total;
}

}  // namespace

bool fake_quantize(const ChannelShape& shape, const FakeQuantParams& params, const float* x, float* y) {
  const Channels channels(shape, params);
  const Cut cut(shape);
  std::atomic<bool> has_nan{false};
  for_each_piece(cut, [&](std::int64_t, std::int64_t, const Cut::Piece& p) {
    const bool nan = cut.rows ? forward(x + p.start, y + p.start, p.size, channels.each())
                              : forward(x + p.start, y + p.start, p.size, channels.one(p.channel));
    if (nan) has_nan.store(true, std::memory_order_relaxed);
  });
  return !has_nan.load();
}

void fake_quantize_backward(const ChannelShape& shape, const FakeQuantParams& params, const float* x, const float* g,
                            float* dx) {
  const Channels channels(shape, params);
  const Cut cut(shape);
  for_each_piece(cut, [&](std::int64_t, std::int64_t, const Cut::Piece& p) {
    if (cut.rows) {
      backward(x + p.start, g + p.start, dx + p.start, p.size, channels.each());
    } else {
      backward(x + p.start, g + p.start, dx + p.start, p.size, channels.one(p.channel));
    }
  });
}

void fake_quantize_learnable_backward(const ChannelShape& shape, const FakeQuantParams& params, const float* x,
                                      const float* g, float* dx, double* d_scale, double* d_zero_point) {
  const Channels channels(shape, params);
  const Cut cut(shape, kSummedRows);
  // A sum for each piece of a run, or for each channel in each task of rows; then added in ascending order.
  std::vector<Sums> parts(size(cut.rows ? cut.tasks * shape.channels : cut.pieces));
  for_each_piece(cut, [&](std::int64_t index, std::int64_t task, const Cut::Piece& p) {
    if (!cut.rows) {
      parts[size(index)] = learnable_run(x + p.start, g + p.start, dx + p.start, p.size, channels.one(p.channel));
      return;
    }
    Sums* sums = parts.data() + task * shape.channels;
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      const std::int64_t i = p.start + c;
      dx[i] = learnable(x[i], g[i], channels.one(c), sums[c].scale, sums[c].outside);
    }
  });
  for (std::int64_t c = 0; c < shape.channels; ++c) d_scale[c] = d_zero_point[c] = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::int64_t part = static_cast<std::int64_t>(i);
    const std::int64_t c = (cut.rows ? part : part / cut.pieces_a_run) % shape.channels;
    d_scale[c] += parts[i].scale;
    d_zero_point[c] -= static_cast<double>(params.scale[c]) * parts[i].outside;
  }
}

}  // namespace octavo
