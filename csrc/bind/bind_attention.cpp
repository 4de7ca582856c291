// attention over arrays and over caches, writing to a cache, and rope. As in bind_functional.cpp, what is not plain gives
// None; shapes have been checked by the Python layer, and are checked here for memory safety.
#include <pybind11/stl.h>

#include <cstdint>
#include <numeric>
#include <optional>
#include <utility>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "bind/layer_call.h"
#include "bind/plain_floats.h"
#include "functional/attention.h"
#include "functional/kv_panels.h"
#include "functional/rope.h"

namespace octavo {
namespace {

using Lengths = CArray<std::int64_t>;

// The arrays of a KVCache: keys (layers, batch, heads, blocks, dim, 16), values (layers, batch, heads, panels,
// positions, 16).
struct Cache {
  float *keys, *values;  // of the layer
  std::int64_t batch, heads, dim, positions;
  std::int64_t key_head_stride, value_panel_stride, value_head_stride;
  const std::int64_t *lengths, *counts;  // of each sequence; counts, of the positions written last

  Cache(py::handle key_array, py::handle value_array, std::int64_t layer, const Lengths& l, const Lengths& c) {
    const PlainFloats k(key_array), v(value_array);
    require(k.ok() && v.ok() && k.ndim() == 6 && v.ndim() == 6 && k.is_writable() && v.is_writable(),
            "keys and values must be the arrays of a cache");
    batch = k.shape()[1], heads = k.shape()[2], dim = k.shape()[4], positions = k.shape()[3] * kPanelColumns;
    require(v.shape()[0] == k.shape()[0] && v.shape()[1] == batch && v.shape()[2] == heads &&
                v.shape()[3] == value_panels(dim) && v.shape()[4] == positions && k.shape()[5] == kPanelColumns &&
                v.shape()[5] == kPanelColumns,
            "keys and values must be the arrays of one cache");
    require(layer >= 0 && layer < k.shape()[0], "no such layer");
    require(l.ndim() == 1 && l.size() == batch && c.ndim() == 1 && c.size() == batch, "one length a sequence");
    key_head_stride = positions * dim;
    value_panel_stride = positions * kPanelColumns;
    value_head_stride = value_panels(dim) * value_panel_stride;
    keys = k.data() + layer * batch * heads * key_head_stride;
    values = v.data() + layer * batch * heads * value_head_stride;
    lengths = l.data(), counts = c.data();
    for (std::int64_t i = 0; i < batch; ++i) {
      require(counts[i] >= 0 && lengths[i] >= 0 && lengths[i] <= positions, "a length exceeds the cache");
    }
  }

  std::int64_t rows() const { return std::accumulate(counts, counts + batch, std::int64_t{0}); }
};

bool write_cache(py::handle keys, py::handle values, std::int64_t layer, const Lengths& lengths, const Lengths& counts,
                 py::handle k, py::handle v) {
  const Cache cache(keys, values, layer, lengths, counts);
  const PlainFloats from_k(k), from_v(v);
  if (!from_k.ok() || !from_v.ok()) return false;
  const std::int64_t width = cache.heads * cache.dim, elems = cache.rows() * width;
  require(from_k.size() == elems && from_v.size() == elems, "k and v must have a row for each new position");
  without_gil(static_cast<double>(2 * elems), [&] {
    const float *key_rows = from_k.data(), *value_rows = from_v.data();
    for (std::int64_t i = 0; i < cache.batch; ++i) {
      const std::int64_t count = cache.counts[i], start = cache.lengths[i] - count;
      if (start < 0) continue;
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        write_keys(key_rows + h * cache.dim, width, count, cache.dim, start,
                   cache.keys + (i * cache.heads + h) * cache.key_head_stride);
        write_values(value_rows + h * cache.dim, width, count, cache.dim, start,
                     cache.values + (i * cache.heads + h) * cache.value_head_stride, cache.value_panel_stride);
      }
      key_rows += count * width;
      value_rows += count * width;
    }
  });
  return true;
}

// q is (..., heads, dim), the queries of all sequences one after the other: counts[i] of sequence i.
py::object attend_to_cache(py::handle keys, py::handle values, std::int64_t layer, const Lengths& lengths,
                           const Lengths& counts, py::handle q, double scale, bool causal, py::handle out) {
  const Cache cache(keys, values, layer, lengths, counts);
  const PlainFloats from(q);
  if (!from.ok() || from.ndim() < 3) return py::none();
  PlainResult to(from, out);
  if (!to.ok()) return py::none();
  Attention a{};
  a.heads = from.shape()[from.ndim() - 2], a.kv_heads = cache.heads, a.dim = cache.dim;
  require(from.cols() == a.dim && a.heads % a.kv_heads == 0, "q does not fit the cache");
  require(from.size() == cache.rows() * a.heads * a.dim, "q must have the rows that counts tell of");
  a.q_stride = a.out_stride = a.heads * a.dim;
  a.q_head_stride = a.out_head_stride = a.dim;
  a.key_head_stride = cache.key_head_stride;
  a.value_head_stride = cache.value_head_stride;
  a.value_panel_stride = cache.value_panel_stride;
  a.scale = static_cast<float>(scale);
  a.causal = causal;
  a.sequences.reserve(cache.batch);
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < cache.batch; ++i) {
    require(!causal || cache.counts[i] <= cache.lengths[i], "more causal queries than positions");
    a.sequences.push_back({from.data() + row * a.q_stride, to.data() + row * a.q_stride, cache.counts[i],
                           cache.lengths[i], cache.keys + i * a.kv_heads * a.key_head_stride,
                           cache.values + i * a.kv_heads * a.value_head_stride});
    row += cache.counts[i];
  }
  without_gil(attention_work(a), [&] { attend(a); });
  return to.array();
}

AttentionMask mask_of(const py::array& array, const std::int64_t (&shape)[4]) {
  AttentionMask mask;
  const bool is_bool = array.dtype().kind() == 'b';
  require(is_bool || py::isinstance<py::array_t<float>>(array), "a mask must be bool or float32");
  require(array.ndim() == 4, "a mask must be 4-D");
  const std::int64_t item = array.itemsize();
  std::int64_t strides[4];
  for (int i = 0; i < 4; ++i) {
    require(array.shape(i) == shape[i] && array.strides(i) % item == 0, "a mask must have shape (batch, H, T, S)");
    strides[i] = array.strides(i) / item;
  }
  mask.kind = is_bool ? AttentionMask::Kind::kBool : AttentionMask::Kind::kFloat;
  mask.data = array.data();
  mask.sequence_stride = strides[0], mask.head_stride = strides[1];
  mask.query_stride = strides[2], mask.key_stride = strides[3];
  return mask;
}

// q (..., T, H, D), k and v (..., S, Hkv, D), mask None or (batch, H, T, S).
py::object attend_over(py::handle q, py::handle k, py::handle v, double scale, bool causal,
                       const std::optional<py::array>& mask, py::handle out) {
  const PlainFloats from(q), keys(k), values(v);
  if (!from.ok() || !keys.ok() || !values.ok()) return py::none();
  const int nd = from.ndim();
  require(nd >= 3 && keys.ndim() == nd && values.has_shape_of(keys), "shapes of q, k and v differ");
  std::int64_t batch = 1;
  for (int i = 0; i < nd - 3; ++i) {
    require(from.shape()[i] == keys.shape()[i], "leading axes of q and k differ");
    batch *= from.shape()[i];
  }
  const std::int64_t queries = from.shape()[nd - 3], positions = keys.shape()[nd - 3];
  Attention a{};
  a.heads = from.shape()[nd - 2], a.kv_heads = keys.shape()[nd - 2], a.dim = from.cols();
  require(a.dim == keys.cols() && a.kv_heads > 0 && a.heads % a.kv_heads == 0, "heads of q and k do not fit");
  require(!causal || queries <= positions, "more causal queries than positions");
  PlainResult to(from, out);
  if (!to.ok()) return py::none();
  a.q_stride = a.out_stride = a.heads * a.dim;
  a.q_head_stride = a.out_head_stride = a.dim;
  a.scale = static_cast<float>(scale);
  a.causal = causal;
  if (mask) a.mask = mask_of(*mask, {batch, a.heads, queries, positions});
  for (std::int64_t i = 0; i < batch; ++i) {
    const std::int64_t first = i * queries * a.q_stride;
    a.sequences.push_back({from.data() + first, to.data() + first, queries, positions, nullptr, nullptr});
  }
  without_gil(attention_work(a), [&] { attend_to_arrays(std::move(a), keys.data(), values.data(), positions); });
  return to.array();
}

// x (..., heads, dim); cos and sin (..., pairs), whose rows serve those of x in turn.
py::object turn_pairs(py::handle x, py::handle cos, py::handle sin, bool interleaved, py::handle out) {
  const PlainFloats from(x), c(cos), s(sin);
  if (!from.ok() || !c.ok() || !s.ok() || from.ndim() < 3) return py::none();
  require(c.ndim() >= 2 && c.has_shape_of(s), "shapes of cos and sin differ");
  PlainResult to(from, out);
  if (!to.ok() || !to.is_apart_from(c) || !to.is_apart_from(s)) return py::none();
  const std::int64_t heads = from.shape()[from.ndim() - 2], dim = from.cols(), pairs = c.cols();
  require(2 * pairs <= dim, "x has too few dimensions for cos");
  if (from.size() == 0) return to.array();
  const std::int64_t rows = from.size() / (heads * dim), table_rows = pairs == 0 ? 1 : c.size() / pairs;
  require(table_rows > 0 && rows % table_rows == 0, "rows of cos do not fit x");
  without_gil(static_cast<double>(from.size()), [&] {
    run_rope({from.data(), to.data(), rows, heads, dim, c.data(), s.data(), table_rows, pairs, interleaved});
  });
  return to.array();
}

}  // namespace

void bind_attention(py::module_& m) {
  const auto keys = py::arg("keys"), values = py::arg("values"), layer = py::arg("layer");
  const auto lengths = py::arg("lengths").noconvert(), counts = py::arg("counts").noconvert();
  const auto q = py::arg("q"), k = py::arg("k"), v = py::arg("v"), out = py::arg("out");
  m.def("write_cache", &write_cache, keys, values, layer, lengths, counts, k, v, py::pos_only());
  m.def("attend_to_cache", &attend_to_cache, keys, values, layer, lengths, counts, q, py::arg("scale"),
        py::arg("causal"), out, py::pos_only());
  m.def("attend", &attend_over, q, k, v, py::arg("scale"), py::arg("causal"), py::arg("mask").none(true), out,
        py::pos_only());
  m.def("rope", &turn_pairs, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("interleaved"), out,
        py::pos_only());
}

}  // namespace octavo
