#include "gemm/gemm.h"

#include <algorithm>

#include "base/arch.h"
#include "base/caches.h"
#include "base/thread_pool.h"
#include "gemm/image.h"

namespace octavo {
namespace {

// Microseconds of work below which a call stays on its thread. A worker that is awake joins within one microsecond; one
// that sleeps takes 5-50, while the caller works alone. On an AMD EPYC (Zen 4) two threads gained from about 35 us on
// where calls followed each other, and from about 150 us on where the worker had fallen asleep.
constexpr double kSerialMicroseconds = 30;

// As long as a worker may take to wake up: threads that split few rows have at least so much to do, each.
constexpr double kWakeMicroseconds = 50;

// Bytes of weights that one thread reads from the outer caches in a microsecond, within a factor of two or so.
constexpr double kRhsBytesPerUs = 5e4;

// Threads quantize rows that they share together if the rows have at least so many elements. Weakly founded: with two
// threads it made no difference beyond noise, but with many threads a single one that quantizes for all should matter.
constexpr std::int64_t kLoadedTogether = 8192;

// Column blocks per thread on average, so that a thread that falls behind takes fewer.
constexpr std::int64_t kColumnBlocksPerThread = 4;

// The most rows of a block: beyond this the panels' traffic is already small, and scratch would grow.
constexpr std::int64_t kMaxBlockRows = 512;

// Blocks of fewer rows than this read the weights too often: kernels that take K in pieces then get kMaxBlockRows, or
// as many as take so many bytes, which a thread keeps.
constexpr std::int64_t kFewBlockRows = 256;
constexpr std::int64_t kLongRowsBytes = 8 << 20;

// Results larger than this many times the L2 cache are written past the caches. Measured with AMX (docs/kernels.md),
// reading them back then costs less than it saves.
constexpr std::int64_t kStreamedL2Sizes = 4;
constexpr std::int64_t kCacheLineBytes = 64;

// If a process holds more weights than this many times the L3 cache, they most likely come from memory. An L3 of 32 MB
// still delivered a part of 45 MB that were used again and again.
constexpr std::size_t kColdL3Sizes = 2;

// What a product takes one thread, which multiplies or waits for weights.
double microseconds(const Product::Size& size) {
  const double multiply_adds = static_cast<double>(size.m) * static_cast<double>(size.n) * static_cast<double>(size.k);
  const double rhs_bytes = static_cast<double>(size.panels) * static_cast<double>(size.panel_bytes);
  return std::max(multiply_adds / size.multiply_adds_per_us, rhs_bytes / kRhsBytesPerUs);
}

int plan_threads(const Product::Size& size) { return microseconds(size) < kSerialMicroseconds ? 1 : num_threads(); }

// A packed block fills at most half of the L2 cache. Blocks are multiples of mr where that leaves them about even: two
// threads take 128 rows as 64 + 64 and not as 72 + 56, which took a tenth longer with mr = 12.
std::int64_t rows_per_block(const Product& product, const Product::Size& size, int threads) {
  const std::int64_t tile_bytes = product.lhs_bytes(size.mr);
  const auto rows_in = [&](std::int64_t bytes) {
    return std::clamp<std::int64_t>(bytes / tile_bytes * size.mr, size.mr, kMaxBlockRows);
  };
  const std::int64_t fitting = rows_in(static_cast<std::int64_t>(cache_sizes().l2_bytes) / 2);
  const std::int64_t most = size.long_rows && fitting < kFewBlockRows ? rows_in(kLongRowsBytes) : fitting;
  const std::int64_t even = ceil_div(size.m, round_up(ceil_div(size.m, most), threads));
  const std::int64_t whole = round_up(even, size.mr);
  return threads > 1 && whole - even > even / 16 ? even : whole;
}

// Rows are split if there are enough for each thread; otherwise columns are.
//
// If threads split the rows, each of them reads all the weights. From its own L2 cache a thread reads them fast enough
// even for one register tile of rows. From L3, which the threads share, or from memory, more rows are needed to make
// this worthwhile; how many is weakly founded. Fewer rows are split into one block per thread, provided that a thread
// has time to wake up before the caller could take its block as well, and that the rows are not so long that blocks
// must be smaller. On two cores of an AMD EPYC (Zen 4), 48 to 94 rows split in halves took 0.88 to 0.97 of the time
// that split columns took (docs/kernels.md).
bool splits_rows(const Product& product, const Product::Size& size, int threads) {
  if (size.m >= threads * 4 * size.mr) return true;
  if (threads == 1 || microseconds(size) < threads * kWakeMicroseconds) return false;
  const CacheSizes& caches = cache_sizes();
  const auto weight_bytes = static_cast<std::size_t>(size.panels * size.panel_bytes);
  const int tiles = weight_bytes <= caches.l2_bytes ? 1 : weight_bytes <= caches.l3_bytes / 4 ? 2 : 4;
  return size.m >= threads * tiles * size.mr && rows_per_block(product, size, threads) * threads >= size.m;
}

// This thread's memory for rows, which stays as it is until its next call.
LoadedRows row_memory(const Product& product, std::int64_t rows) {
  static thread_local RowBuffers buffers;
  return buffers.reserve(product.lhs_bytes(rows), rows);
}

// Loads all rows for all threads. Each takes a part if there is enough to do and the kernel can pack a part alone.
void load_shared_rows(const Product& product, const Product::Size& size, int threads, const LoadedRows& to) {
  const bool together = threads > 1 && size.apart_rows != 0 && size.m * size.k >= kLoadedTogether;
  const std::int64_t part = together ? round_up(ceil_div(size.m, threads), size.apart_rows) : size.m;
  parallel_for_if(threads > 1, ceil_div(size.m, part), [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t row0 = i * part, rows = std::min(part, size.m - row0);
    product.load_rows(row0, rows, to.from(row0, product.lhs_bytes(row0)));
  });
}

void multiply_block(const Product& product, const Block& block, const LoadedRows& lhs) {
  static thread_local AlignedBuffer scratch;
  scratch.reserve(memory_bytes(product.scratch_bytes(block.rows)));
  product.multiply_block(block, lhs, scratch.as<void>());
}

// Many rows: each task quantizes a block of rows into its own cache and multiplies it with every panel.
void split_rows(const Product& product, const Product::Size& size, int threads, CallReport& report) {
  const std::int64_t most = rows_per_block(product, size, threads), blocks = ceil_div(size.m, most);
  report.split(blocks, "rows");
  parallel_for_if(threads > 1, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t row0 = i * most, rows = std::min(most, size.m - row0);
    const LoadedRows lhs = row_memory(product, rows);
    product.load_rows(row0, rows, lhs);
    multiply_block(product, {row0, rows, 0, size.panels}, lhs);
  });
}

// Few rows: they are quantized once; tasks share them and split the panels.
void split_columns(const Product& product, const Product::Size& size, int threads, CallReport& report) {
  const LoadedRows lhs = row_memory(product, size.m);
  load_shared_rows(product, size, threads, lhs);
  const std::int64_t blocks = threads == 1 ? 1 : std::min(size.panels, threads * kColumnBlocksPerThread);
  report.split(blocks, "columns");
  parallel_for_if(threads > 1, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t panel0 = size.panels * i / blocks, panel1 = size.panels * (i + 1) / blocks;
    multiply_block(product, {0, size.m, panel0, panel1 - panel0}, lhs);
  });
}

}  // namespace

bool may_stream(const float* dst, std::int64_t m, std::int64_t n, std::int64_t stride) {
  constexpr std::int64_t kElemBytes = sizeof(float);
  return m * n * kElemBytes > kStreamedL2Sizes * static_cast<std::int64_t>(cache_sizes().l2_bytes) &&
         stride * kElemBytes % kCacheLineBytes == 0 && reinterpret_cast<std::uintptr_t>(dst) % kCacheLineBytes == 0;
}

bool weights_are_cold() { return ImageBytes::total() > kColdL3Sizes * cache_sizes().l3_bytes; }

void multiply(const Product& product, const char* kernel, CallReport& report) {
  const Product::Size size = product.size();
  const int threads = plan_threads(size);
  report.run_by(kernel, threads);
  if (splits_rows(product, size, threads)) {
    split_rows(product, size, threads, report);
  } else {
    split_columns(product, size, threads, report);
  }
}

}  // namespace octavo
