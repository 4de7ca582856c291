// The kernel amxint8 where it differs from others: every number of rows up to two pairs of tiles and more, K in pieces,
// results past the caches, and tiles that another library has configured. Against the definitions in reference.h.
//
// On hardware with tiles, with each tile instruction trapped (trapped_tiles.cpp), or by the software model alone
// (amx_model.h).
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#if defined(OCTAVO_EMULATED)
#include "amx_model.h"
#else
#include "kernels/detail/x86_amx.h"
#endif
#include "base/aligned_buffer.h"
#include "base/arch.h"
#include "base/caches.h"
#include "base/thread_pool.h"
#include "check.h"
#include "gemm/gemm.h"
#include "gemm/gemm_grouped.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"
#include "inputs.h"
#include "reference.h"

namespace octavo::test {
namespace {

struct Weights {
  std::int64_t n, k;
  std::vector<std::int8_t> q;
  std::vector<float> scale, bias;

  Weights(Random& random, std::int64_t columns, std::int64_t depth)
      : n(columns), k(depth), q(static_cast<std::size_t>(n * k)), scale(static_cast<std::size_t>(n)), bias(scale) {
    for (auto& v : q) v = static_cast<std::int8_t>(random.between(-128, 127));
    for (float& v : scale) v = static_cast<float>(random.between(1, 1000)) * 1e-4f;
    for (float& v : bias) v = random.real();
  }
  RhsView view() const { return {reinterpret_cast<const std::uint8_t*>(q.data()), n, k, k, 1, false}; }
};

// What of a result lies `first` floats into its memory, in rows `stride` floats apart.
struct Place {
  std::int64_t first, stride;
};

// Rows of a layer at a place that starts on a cache line, or off it, among marks that must stay.
void check_linear(const Shape& s, int variant, Place place) {
  constexpr float kMark = -12345.0f;
  Random random(static_cast<std::uint64_t>(s.m * 1009 + s.k * 31 + s.n + variant));
  const std::vector<float> x = hard_rows(random, s);
  const Weights w(random, s.n, s.k);
  const bool asymmetric = variant % 2 != 0, relu = variant / 2 % 2 != 0;
  const float* bias = variant / 4 % 2 != 0 ? w.bias.data() : nullptr;
  const PackedLinear layer(w.view(), w.scale.data(), bias,
                           {asymmetric ? ActivationScheme::kAsymmetric : ActivationScheme::kSymmetric, relu});
  const std::int64_t count = place.first + s.m * place.stride + 16;
  AlignedBuffer memory;
  memory.reserve(static_cast<std::size_t>(count) * sizeof(float));
  float* const y = memory.as<float>();
  for (std::int64_t i = 0; i < count; ++i) y[i] = kMark;
  layer(x.data(), s.m, s.k, y + place.first, place.stride);
  const std::vector<float> expected = linear(x, s.m, s.k, s.n, w.q, w.scale, bias, asymmetric, relu);
  bool equal = true, intact = true;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = i - place.first, m = at / place.stride, n = at % place.stride;
    if (at < 0 || m >= s.m || n >= s.n) {
      intact = intact && y[i] == kMark;
    } else {
      equal = equal && same_bits(y[i], expected[static_cast<std::size_t>(m * s.n + n)]);
    }
  }
  const std::string what = s.text() + " variant " + std::to_string(variant) + " first " + std::to_string(place.first) +
                           " stride " + std::to_string(place.stride);
  check(equal, what + ": bits");
  check(intact, what + ": marks");
}

// int32 results with zero points, and the same requantized to bytes by a static layer.
void check_integers(const Shape& s) {
  Random random(static_cast<std::uint64_t>(s.m + s.k + s.n));
  const Weights w(random, s.n, s.k);
  std::vector<std::uint8_t> a(static_cast<std::size_t>(s.m * s.k));
  for (auto& v : a) v = static_cast<std::uint8_t>(random.between(0, 255));
  const std::int32_t a_zero = 3, b_zero = -5;
  Guarded<std::int32_t> y(s.m, s.n, s.n);
  matmul_integer({a.data(), s.m, s.k, s.k, true}, w.view(), {&a_zero, true}, {&b_zero, true}, y.get());
  const PackedLinear layer(w.view(), w.scale.data(), w.bias.data(), {});
  Guarded<std::uint8_t> bytes(s.m, s.n, s.n + 1);
  layer.forward_static({a.data(), ElementType::kUint8, s.m, s.k, 0.0625f, a_zero, 0, 255},
                       {bytes.get(), ElementType::kUint8, s.m, s.n + 1, 300.0f, 100, 0, 255});
  bool sums_equal = true, bytes_equal = true;
  for (std::int64_t m = 0; m < s.m; ++m) {
    for (std::int64_t n = 0; n < s.n; ++n) {
      std::int64_t plain = 0, row = 0;  // sum of (a - a_zero) w, and of a - a_zero
      for (std::int64_t k = 0; k < s.k; ++k) {
        const std::int32_t value = a[static_cast<std::size_t>(m * s.k + k)] - a_zero;
        plain += value * w.q[static_cast<std::size_t>(n * s.k + k)];
        row += value;
      }
      sums_equal = sums_equal && y.at(m, n) == static_cast<std::int32_t>(plain - row * b_zero);
      const auto at = static_cast<std::size_t>(n);
      const float scaled = static_cast<float>(static_cast<std::int32_t>(plain)) * (0.0625f * w.scale[at]) + w.bias[at];
      bytes_equal = bytes_equal && bytes.at(m, n) == quantize(scaled, 300.0f, 100, 0, 255);
    }
  }
  check(sums_equal, s.text() + ": integers");
  check(bytes_equal, s.text() + ": bytes");
  check(y.intact() && bytes.intact(), s.text() + ": guards");
}

// Results of more than four times the L2 cache: streamed where each row begins and ends with a cache line.
void check_streamed() {
  constexpr std::int64_t n = 2050, stride = 2064, k = 3;
  const std::int64_t m = static_cast<std::int64_t>(cache_sizes().l2_bytes) * 4 / (stride * 4) + 37;
  check_linear({m, k, n}, 4, {0, stride});
  check_linear({m, k, n}, 6, {16, stride});      // another line
  check_linear({m, k, n}, 0, {3, stride});       // no line
  check_linear({m, k, n}, 0, {0, stride + 1});   // lines in part
  check_linear({m, k, stride}, 2, {0, stride});  // contiguous
  check_linear({m, k, n}, 1, {0, stride});       // zero points: not the common case
  set_num_threads(2);
  check_linear({m, 200, n}, 4, {0, stride});
  set_num_threads(1);
  AlignedBuffer line;
  line.reserve(64);
  const float* const y = line.as<float>();
  check(may_stream(y, m, n, stride), "large results are streamed");
  check(!may_stream(y, m, n, stride + 1), "rows that share lines are not");
  check(!may_stream(y, m, 16, stride), "a few columns of a wide array are not");
}

// A configuration as another library may have it, of two tiles.
TileConfig others_config() {
  TileConfig config;
  config.palette = 1;
  config.rows[0] = config.rows[3] = 5;
  config.row_bytes[0] = config.row_bytes[3] = 20;
  return config;
}

bool configured_as(const TileConfig& expected) {
  TileConfig now;
  tile_read_config(now);
  return std::memcmp(&now, &expected, sizeof now) == 0;
}

// A call of the four-bit kernel, whose results test_int4 checks.
void call_int4(std::int64_t m) {
  constexpr std::int64_t k = 96, n = 20, group_k = 32;
  const std::vector<std::int8_t> weight(n * k, 3);
  const std::vector<float> scale(n * (k / group_k), 0.5f), x(static_cast<std::size_t>(m * k), 1.0f);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  const PackedLinearInt4 layer({weight.data(), n, k, group_k, scale.data(), nullptr, nullptr}, nullptr, {});
  layer(x.data(), m, k, y.data(), n);
  check(y.front() == y.back() && y.front() != 0, "four bits: a result");
}

// The same of grouped codes, whose tiles have rows of 16 bytes here: nibbles, which are made bytes, or bytes.
void call_grouped(std::int64_t m, int bits) {
  constexpr std::int64_t k = 96, n = 20;
  const std::vector<std::uint8_t> codes(n * k, 3);
  const std::vector<float> scale(n * (k / 16), 0.5f), x(static_cast<std::size_t>(m * k), 1.0f);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  GroupedView view{};
  view.n = n;
  view.k = k;
  view.group_k = 16;
  view.bits = bits;
  view.codes = codes.data();
  view.scale = reinterpret_cast<const std::byte*>(scale.data());
  const PackedLinearGrouped layer(view, nullptr, {{false, false, 0}, false});
  layer(x.data(), m, k, y.data(), n);
  check(y.front() == y.back() && y.front() != 0, "grouped codes: a result");
}

void check_configuration_of_others() {
  set_num_threads(1);
  std::uint8_t tile[kTileBytes];
  for (const std::int64_t m : {1, 16, 40}) {
    check_linear({m, 100, 50}, 0, {0, 50});
    check(configured_as({}), "released where nothing was configured");
    tile_configure(others_config());
    std::memset(tile, 77, sizeof tile);
    tile_load<0>(tile);
    check_linear({m, 100, 50}, 0, {0, 50});
    check(configured_as(others_config()), "configured as before the call");
    call_int4(m);
    check(configured_as(others_config()), "configured as before the call of four bits");
    for (const int bits : {4, 8}) {
      call_grouped(m, bits);
      check(configured_as(others_config()), "configured as before the call of grouped codes");
    }
    tile_store<0>(tile);
    check(tile[0] == 0 && tile[kTileRowBytes] == 0 && tile[20] == 77, "what the tiles held is lost");
    tile_release();
  }
}

void check_kernel() {
  for (std::int64_t m = 1; m <= 70; ++m) {
    set_num_threads(1 + static_cast<int>(m % 3));
    check_linear({m, 200, 70}, static_cast<int>(m % 8), {m % 5, 70 + m % 3});
    check_linear({m, 1345, 37}, static_cast<int>(m * 3 % 8), {0, 48});  // more steps than stay near
  }
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    check_linear({65, 16448, 277}, 0, {0, 277});  // pieces: two stripes, two pairs of row tiles and a single one
    check_linear({50, 27400, 33}, 7, {1, 40});
  }
  for (const int threads : {1, 5}) {  // rows are split, or shared by the threads: then more than go at a time
    set_num_threads(threads);
    check_linear({530, 5200, 33}, 5, {0, 33});
    check_integers({530, 5200, 20});
  }
  set_num_threads(1);
  check_integers({33, 30000, 20});
  check_streamed();
  check_configuration_of_others();
  std::printf("kernel amxint8 tiles: %d shapes\n", 140 + 4 + 4 + 1 + 7 + 6);
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo;
  const Kernel& kernel = *find_kernel("amxint8");
  if (const auto missing = missing_features(kernel); !missing.empty()) {
    std::printf("kernel amxint8 tiles: not run, this CPU lacks %s\n", missing[0].c_str());
    return 0;
  }
  force_kernel(&kernel);
  test::check_kernel();
  return test::finish();
}
