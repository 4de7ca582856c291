// Attention of float32 queries over keys and values in panels (kv_panels.h), on the threads of the pool.
//
//   s[t] = (fma over d ascending of q[d] k[t, d]) * scale, then + mask[t]
//   p    = softmax(s) over the whole row, as kernels/functions.h has it
//   o[d] = fma over t ascending of p[t] v[t, d]
//
// Positions that a query does not see are skipped: those after its own, and those whose mask is false or -infinity. A
// query that sees none gives zeros. octavo._numerics.attention_definition is the same in NumPy.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/functions.h"

namespace octavo {

struct AttentionMask {
  enum class Kind : std::uint8_t { kNone, kBool, kFloat };
  Kind kind = Kind::kNone;
  const void* data = nullptr;
  std::int64_t sequence_stride = 0, head_stride = 0, query_stride = 0, key_stride = 0;  // elements; 0 where it repeats
};

struct AttentionSequence {
  const float* q;  // of its first query
  float* out;
  std::int64_t queries;
  std::int64_t length;  // positions; with `causal`, the queries are the last of them
  const float* keys;    // of the first head
  const float* values;
};

struct Attention {
  std::int64_t heads, kv_heads, dim;  // heads are a multiple of kv_heads
  std::int64_t q_stride, q_head_stride, out_stride, out_head_stride;
  std::int64_t key_head_stride, value_head_stride, value_panel_stride;
  float scale;
  bool causal;
  AttentionMask mask;
  std::vector<AttentionSequence> sequences;
};

// Multiply-adds, about.
double attention_work(const Attention& a);

void attend(const Attention& a);

// The same for `positions` keys and values a sequence in plain arrays (sequences, positions, kv_heads, dim), which are
// packed first: so the result may be one of them. Fills in the sequences' keys and values, and their strides.
void attend_to_arrays(Attention a, const float* k, const float* v, std::int64_t positions);

}  // namespace octavo
