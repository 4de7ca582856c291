// Attention on every kernel that this machine runs, against its definition with std::fma, to the bit. Softmax itself is
// tested by test_functions: here it is the portable kernel's.
//
// Outputs stand between guard elements. The last lines name the kernels that ran: CI reads them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "every_kernel.h"
#include "functional/attention.h"
#include "gemm/registry.h"

namespace octavo::test {
namespace {

constexpr float kGuard = 12345.0F;

struct Shape {
  std::int64_t queries, positions, heads, kv_heads, dim;
  bool causal;
  int mask;  // 0: none, 1: bool, 2: float
};

struct Case {
  explicit Case(const Shape& s) : shape(s) {
    std::mt19937 random(17);
    const auto numbers = [&](std::int64_t count) {
      std::vector<float> x(static_cast<std::size_t>(count));
      for (float& number : x) number = static_cast<float>(static_cast<int>(random() % 4001) - 2000) / 1000.0F;
      return x;
    };
    q = numbers(s.queries * s.heads * s.dim);
    k = numbers(s.positions * s.kv_heads * s.dim);
    v = numbers(s.positions * s.kv_heads * s.dim);
    added = numbers(s.queries * s.positions);
    for (std::int64_t i = 0; i < s.queries * s.positions; ++i) {
      seen.push_back(random() % 3 == 0 ? 0 : 1);
      if (seen.back() == 0) added.data()[i] = -std::numeric_limits<float>::infinity();
    }
  }

  std::vector<float> expected() const {
    const auto row_softmax = find_kernel("scalar")->functions->rowwise[static_cast<int>(Rowwise::kSoftmax)];
    std::vector<float> out(q.size(), 0.0F), scores(static_cast<std::size_t>(shape.positions));
    float* const row = scores.data();
    for (std::int64_t i = 0; i < shape.queries; ++i) {
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const std::int64_t limit = shape.causal ? shape.positions - shape.queries + i + 1 : shape.positions;
        const std::int64_t group = h / (shape.heads / shape.kv_heads);
        const float* const query = q.data() + (i * shape.heads + h) * shape.dim;
        float* const o = out.data() + (i * shape.heads + h) * shape.dim;
        for (std::int64_t t = 0; t < limit; ++t) {
          float sum = 0;
          for (std::int64_t d = 0; d < shape.dim; ++d) sum = std::fma(query[d], key(k, t, group)[d], sum);
          row[t] = sum * kScale;
          if (shape.mask == 2) row[t] += added.data()[i * shape.positions + t];
          if (!sees(i, t)) row[t] = -std::numeric_limits<float>::infinity();
        }
        row_softmax({row, limit, row, limit, 1, limit, nullptr, nullptr, 0});
        for (std::int64_t t = 0; t < limit; ++t) {
          if (!sees(i, t)) continue;
          for (std::int64_t d = 0; d < shape.dim; ++d) o[d] = std::fma(row[t], key(v, t, group)[d], o[d]);
        }
      }
    }
    return out;
  }

  std::vector<float> computed() const {
    std::vector<float> out(q.size() + 2, kGuard);
    Attention a{};
    a.heads = shape.heads, a.kv_heads = shape.kv_heads, a.dim = shape.dim;
    a.q_stride = a.out_stride = shape.heads * shape.dim;
    a.q_head_stride = a.out_head_stride = shape.dim;
    a.scale = kScale;
    a.causal = shape.causal;
    if (shape.mask != 0) {
      a.mask.kind = shape.mask == 1 ? AttentionMask::Kind::kBool : AttentionMask::Kind::kFloat;
      a.mask.data = shape.mask == 1 ? static_cast<const void*>(seen.data()) : added.data();
      a.mask.query_stride = shape.positions, a.mask.key_stride = 1;
    }
    a.sequences.push_back({q.data(), out.data() + 1, shape.queries, shape.positions, nullptr, nullptr});
    attend_to_arrays(std::move(a), k.data(), v.data(), shape.positions);
    return out;
  }

  bool sees(std::int64_t i, std::int64_t t) const {
    return shape.mask == 0 || seen.data()[i * shape.positions + t] != 0;
  }
  const float* key(const std::vector<float>& of, std::int64_t t, std::int64_t group) const {
    return of.data() + (t * shape.kv_heads + group) * shape.dim;
  }

  static constexpr float kScale = 0.3F;
  Shape shape;
  std::vector<float> q, k, v, added;
  std::vector<char> seen;
};

void check_case(const Shape& s, const std::string& kernel) {
  const Case c(s);
  const std::vector<float> expected = c.expected();
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    const std::vector<float> got = c.computed();
    const std::string what = kernel + " T " + std::to_string(s.queries) + " S " + std::to_string(s.positions) + " H " +
                             std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " D " +
                             std::to_string(s.dim) + (s.causal ? " causal" : "") + " mask " + std::to_string(s.mask);
    check(std::memcmp(got.data() + 1, expected.data(), expected.size() * sizeof(float)) == 0, what);
    check(got.front() == kGuard && got.back() == kGuard, what + ": guards");
  }
}

void check_kernel(const Kernel& kernel) {
  force_kernel(&kernel);  // one without functions leaves them to the next of the table
  int shapes = 0;
  const auto run = [&](const Shape& shape) {
    check_case(shape, kernel.name);
    ++shapes;
  };
  for (const std::int64_t heads : {1, 3, 8}) {
    for (const auto& [queries, positions] : {std::pair{1, 1}, {1, 50}, {7, 16}, {13, 37}, {30, 30}}) {
      for (const std::int64_t dim : {1, 16, 40}) {
        for (const int mask : {0, 1, 2}) {
          for (const bool causal : {false, true}) run({queries, positions, heads, 1, dim, causal, mask});
        }
      }
    }
  }
  run({60, 60, 12, 4, 64, true, 0});  // above the least work of several threads
  std::printf("kernel %s attention: %d shapes\n", kernel.name, shapes);
}

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  return octavo::test::check_every_kernel({argc, argv}, " attention", octavo::test::check_kernel);
}
