// attention over arrays and over caches, writing to a cache, and rope. As in bind_functional.cpp, what is not plain
// gives None; shapes have been checked by the Python layer, and are checked here for memory safety.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <utility>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "bind/head_rows.h"
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
  for (std::int64_t i = 0; i < cache.batch; ++i)
    require(cache.counts[i] <= cache.lengths[i], "more new positions than there are");
  const HeadRows from_k(k), from_v(v);
  for (const HeadRows* rows : {&from_k, &from_v}) {
    if (!rows->is_3d() || rows->rows != cache.rows() || rows->heads != cache.heads || rows->dim != cache.dim)
      return false;
  }
  without_gil(static_cast<double>(2 * from_k.size()), [&] {
    std::int64_t row = 0;
    for (std::int64_t i = 0; i < cache.batch; ++i) {
      const std::int64_t count = cache.counts[i], start = cache.lengths[i] - count;
      for (std::int64_t h = 0; h < cache.heads; ++h) {
        const std::int64_t head = i * cache.heads + h;
        write_keys(from_k.data + row * from_k.stride + h * from_k.head_stride, from_k.stride, count, cache.dim, start,
                   cache.keys + head * cache.key_head_stride);
        write_values(from_v.data + row * from_v.stride + h * from_v.head_stride, from_v.stride, count, cache.dim, start,
                     cache.values + head * cache.value_head_stride, cache.value_panel_stride);
      }
      row += count;
    }
  });
  return true;
}

// q is (rows, heads, dim), the queries of all sequences one after the other: counts[i] of sequence i.
py::object attend_to_cache(py::handle keys, py::handle values, std::int64_t layer, const Lengths& lengths,
                           const Lengths& counts, py::handle q, double scale, bool causal, py::handle out) {
  const Cache cache(keys, values, layer, lengths, counts);
  const HeadRows from(q);
  if (!from.is_3d() || from.rows != cache.rows() || from.dim != cache.dim || from.heads % cache.heads != 0) {
    return py::none();
  }
  py::object result = result_like(from, out);
  if (!result) return py::none();
  const HeadRows to(result);
  Attention a{};
  a.heads = from.heads, a.kv_heads = cache.heads, a.dim = cache.dim;
  a.q_stride = from.stride, a.q_head_stride = from.head_stride;
  a.out_stride = to.stride, a.out_head_stride = to.head_stride;
  a.key_head_stride = cache.key_head_stride;
  a.value_head_stride = cache.value_head_stride;
  a.value_panel_stride = cache.value_panel_stride;
  a.scale = static_cast<float>(scale);
  a.causal = causal;
  a.sequences.reserve(cache.batch);
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < cache.batch; ++i) {
    require(!causal || cache.counts[i] <= cache.lengths[i], "more causal queries than positions");
    a.sequences.push_back({from.data + row * a.q_stride, to.data + row * a.out_stride, cache.counts[i],
                           cache.lengths[i], cache.keys + i * a.kv_heads * a.key_head_stride,
                           cache.values + i * a.kv_heads * a.value_head_stride});
    row += cache.counts[i];
  }
  without_gil(attention_work(a), [&] { attend(a); });
  return result;
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

// Whether the tables (..., pairs) have a row for each row of x (..., heads, dim), or for each of its last axis but two.
bool tables_fit(const HeadRows& x, const PlainFloats& table) {
  if (table.ndim() < 2 || table.cols() == 0 || 2 * table.cols() > x.dim) return false;
  const int nd = x.array->nd;
  if (table.ndim() == 2 && table.shape()[0] == x.array->dimensions[nd - 3]) return true;
  return table.ndim() == nd - 1 && std::equal(table.shape(), table.shape() + nd - 2, x.array->dimensions);
}

py::object turn_pairs(py::handle x, py::handle cos, py::handle sin, bool interleaved, py::handle out) {
  const HeadRows from(x);
  const PlainFloats c(cos), s(sin);
  if (!from.ok() || !c.ok() || !s.ok() || !c.has_shape_of(s) || !tables_fit(from, c)) return py::none();
  py::object result = result_like(from, out);
  if (!result) return py::none();
  const HeadRows to(result);
  if (!to.is_apart_from(c.data(), c.size()) || !to.is_apart_from(s.data(), s.size())) return py::none();
  const std::int64_t pairs = c.cols();
  if (from.size() == 0) return result;
  const std::int64_t table_rows = c.size() / pairs;
  without_gil(static_cast<double>(from.size()), [&] {
    run_rope({from.data, from.stride, from.head_stride, to.data, to.stride, to.head_stride, from.rows, from.heads,
              from.dim, c.data(), s.data(), table_rows, pairs, interleaved});
  });
  return result;
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
  m.def("rope", &turn_pairs, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("interleaved"), out, py::pos_only());
}

}  // namespace octavo
