#include "quantize/fake_quant.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"

namespace octavo {
namespace {

// Elements a task takes, so that a thread that falls behind takes fewer, and that a sum is made of.
constexpr std::int64_t kBlockElems = 1 << 16;

// Adding and taking away 1.5 * 2^23 rounds to whole numbers, half to even, up to 2^22; and turns -0 into +0.
constexpr float kToWhole = 0x1.8p23f;

float clamp(float v, float lo, float hi) {  // NaN stays
  v = lo > v ? lo : v;
  return hi < v ? hi : v;
}

struct Channel {
  float scale, inverse, lo, hi;

  float whole(float v) const { return (clamp(v, lo - 1.0f, hi + 1.0f) + kToWhole) - kToWhole; }
  float forward(float x) const { return ((clamp(x * inverse, lo, hi) + kToWhole) - kToWhole) * scale; }
  float backward(float grad, float x) const {
    const float r = whole(x * inverse);
    return r >= lo && r <= hi ? grad : 0.0f;
  }
};

// The two sums of a channel, in lanes: a single chain of additions would bound the pass.
struct Sums {
  static constexpr int kLanes = 8;
  double scale[kLanes] = {}, outside[kLanes] = {};

  void add(int lane, const Channel& c, float grad, float x, float& dx) {
    const float v = x * c.inverse, r = c.whole(v), q = clamp(r, c.lo, c.hi);
    const bool inside = r == q;
    dx = inside ? grad : 0.0f;
    scale[lane] += static_cast<double>(grad * (q - (inside ? v : 0.0f)));
    outside[lane] += static_cast<double>(inside ? 0.0f : grad);
  }
  double scale_total() const { return total(scale); }
  double outside_total() const { return total(outside); }

 private:
  static double total(const double* lanes) {
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += lanes[i];
    return sum;
  }
};

// A piece of the array: `count` elements from `first` on that lie in one channel; or, where channels are the fastest
// axis, whole rows of channels (channel = -1).
struct Block {
  std::int64_t first, count, channel;
};

class Blocks {
 public:
  explicit Blocks(FakeQuantShape shape) : shape_(shape), by_rows_(shape.inner == 1 && shape.channels > 1) {
    if (shape.size() == 0) return;
    if (by_rows_) {
      rows_ = std::max<std::int64_t>(1, kBlockElems / shape.channels);
      count_ = (shape.outer + rows_ - 1) / rows_;
    } else {
      per_run_ = (shape.inner + kBlockElems - 1) / kBlockElems;
      count_ = shape.outer * shape.channels * per_run_;
    }
  }
  std::int64_t count() const { return count_; }
  bool by_rows() const { return by_rows_; }
  Block operator[](std::int64_t i) const {
    if (by_rows_) {
      const std::int64_t row0 = i * rows_, rows = std::min(rows_, shape_.outer - row0);
      return {row0 * shape_.channels, rows * shape_.channels, -1};
    }
    const std::int64_t run = i / per_run_, start = i % per_run_ * kBlockElems;
    return {run * shape_.inner + start, std::min(kBlockElems, shape_.inner - start), run % shape_.channels};
  }

  // Blocks are handed out in groups of about kBlockElems elements, short runs of a channel many at a time.
  template <class Body>
  void in_parallel(const Body& body) const {
    const std::int64_t elems = by_rows_ ? rows_ * shape_.channels : std::min(kBlockElems, shape_.inner);
    const std::int64_t group = count_ == 0 ? 1 : std::max<std::int64_t>(1, kBlockElems / elems);
    parallel_for((count_ + group - 1) / group, [&](std::int64_t task) {
      const DefaultFloatEnvironment environment;
      for (std::int64_t i = task * group; i < std::min(count_, (task + 1) * group); ++i) body(i);
    });
  }

 private:
  FakeQuantShape shape_;
  bool by_rows_;
  std::int64_t rows_ = 0, per_run_ = 0, count_ = 0;
};

Channel channel_of(const FakeQuantParams& p, std::int64_t c) { return {p.scale[c], p.inverse[c], p.lo[c], p.hi[c]}; }

// each(channel, index) for every element of a block.
template <class Each>
void for_each(const Block& block, std::int64_t channels, const FakeQuantParams& params, const Each& each) {
  if (block.channel >= 0) {
    const Channel c = channel_of(params, block.channel);
    for (std::int64_t i = block.first; i < block.first + block.count; ++i) each(c, i);
    return;
  }
  for (std::int64_t row = block.first; row < block.first + block.count; row += channels) {
    for (std::int64_t c = 0; c < channels; ++c) each(channel_of(params, c), row + c);
  }
}

}  // namespace

void fake_quantize(const float* x, FakeQuantShape shape, FakeQuantParams params, float* y) {
  const Blocks blocks(shape);
  blocks.in_parallel([&](std::int64_t i) {
    for_each(blocks[i], shape.channels, params, [&](const Channel& c, std::int64_t at) { y[at] = c.forward(x[at]); });
  });
}

void fake_quantize_backward(const float* grad, const float* x, FakeQuantShape shape, FakeQuantParams params,
                            float* dx) {
  const Blocks blocks(shape);
  blocks.in_parallel([&](std::int64_t i) {
    for_each(blocks[i], shape.channels, params,
             [&](const Channel& c, std::int64_t at) { dx[at] = c.backward(grad[at], x[at]); });
  });
}

void learnable_backward(const float* grad, const float* x, FakeQuantShape shape, FakeQuantParams params, float* dx,
                        double* scale_sum, double* outside_sum) {
  const Blocks blocks(shape);
  const std::int64_t width = blocks.by_rows() ? shape.channels : 1;
  std::vector<double> scale_of(static_cast<std::size_t>(blocks.count() * width));
  std::vector<double> outside_of(scale_of.size());
  blocks.in_parallel([&](std::int64_t i) {
    const Block block = blocks[i];
    double* scale = scale_of.data() + i * width;
    double* outside = outside_of.data() + i * width;
    if (!blocks.by_rows()) {
      const Channel c = channel_of(params, block.channel);
      Sums sums;
      std::int64_t at = block.first;
      const std::int64_t end = block.first + block.count;
      for (; at + Sums::kLanes <= end; at += Sums::kLanes) {
        for (int lane = 0; lane < Sums::kLanes; ++lane) sums.add(lane, c, grad[at + lane], x[at + lane], dx[at + lane]);
      }
      for (; at < end; ++at) sums.add(0, c, grad[at], x[at], dx[at]);
      *scale = sums.scale_total();
      *outside = sums.outside_total();
      return;
    }
    for (std::int64_t row = block.first; row < block.first + block.count; row += width) {
      for (std::int64_t n = 0; n < width; ++n) {
        Sums sums;
        sums.add(0, channel_of(params, n), grad[row + n], x[row + n], dx[row + n]);
        scale[n] += sums.scale[0];
        outside[n] += sums.outside[0];
      }
    }
  });
  std::fill_n(scale_sum, shape.channels, 0.0);
  std::fill_n(outside_sum, shape.channels, 0.0);
  for (std::int64_t i = 0; i < blocks.count(); ++i) {
    for (std::int64_t n = 0; n < width; ++n) {
      const std::int64_t channel = blocks.by_rows() ? n : blocks[i].channel;
      scale_sum[channel] += scale_of[static_cast<std::size_t>(i * width + n)];
      outside_sum[channel] += outside_of[static_cast<std::size_t>(i * width + n)];
    }
  }
}

}  // namespace octavo
