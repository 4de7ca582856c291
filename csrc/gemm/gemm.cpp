#include "gemm/gemm.h"

#include <algorithm>

#include "base/arch.h"
#include "base/thread_pool.h"

namespace octavo {
namespace {

// Microseconds of work below which a call stays on its thread. A worker that is awake joins within one microsecond; one
// that sleeps takes 5-50, while the caller works alone. On an AMD EPYC (Zen 4) two threads gained from about 35 us on
// where calls followed each other, and from about 150 us on where the worker had fallen asleep.
constexpr double kSerialMicroseconds = 30;

// Bytes of weights that one thread reads from the outer caches in a microsecond, within a factor of two or so.
constexpr double kRhsBytesPerUs = 5e4;

// Column blocks per thread on average, so that a thread that falls behind takes fewer.
constexpr std::int64_t kColumnBlocksPerThread = 4;

// The most rows of a block: beyond this the panels' traffic is already small, and scratch would grow.
constexpr std::int64_t kMaxBlockRows = 512;

// Blocks of fewer rows than this read the weights too often: kernels that take K in pieces then get kMaxBlockRows, or as
// many as take so many bytes, which a thread keeps.
constexpr std::int64_t kFewBlockRows = 256;
constexpr std::int64_t kLongRowsBytes = 8 << 20;

// Results of more times the L2 cache than this are written past the caches. Measured with AMX (docs/kernels.md), reading
// them back then costs less than it saves.
constexpr std::int64_t kStreamedL2Sizes = 4;
constexpr std::int64_t kCacheLineBytes = 64;

int plan_threads(const Product::Size& size) {
  const double multiply_adds = static_cast<double>(size.m) * static_cast<double>(size.n) * static_cast<double>(size.k);
  const double rhs_bytes = static_cast<double>(size.panels) * static_cast<double>(size.panel_bytes);
  const double us = std::max(multiply_adds / size.multiply_adds_per_us, rhs_bytes / kRhsBytesPerUs);
  return us < kSerialMicroseconds ? 1 : num_threads();
}

// Rows are split where there are enough for a good block a thread; otherwise columns are.
bool splits_rows(const Product::Size& size, int threads) { return size.m >= threads * 4 * size.mr; }

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

void run_tasks(int threads, std::int64_t count, IndexFunction body) {
  if (threads > 1) {
    parallel_for(count, body);
  } else {
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
}

// Loads rows into this thread's buffers, which stay as they are until its next call.
const RowBuffers& load_rows(const Product& product, std::int64_t row0, std::int64_t rows) {
  static thread_local RowBuffers buffers;
  buffers.reserve(product.lhs_bytes(rows), rows);
  product.load_rows(row0, rows, buffers);
  return buffers;
}

void multiply_block(const Product& product, const Block& block, const RowBuffers& lhs) {
  static thread_local AlignedBuffer scratch;
  scratch.reserve(memory_bytes(product.scratch_bytes(block.rows)));
  product.multiply_block(block, lhs, scratch.as<void>());
}

// Many rows: each task quantizes a block of rows into its own cache and multiplies it with every panel.
void split_rows(const Product& product, const Product::Size& size, int threads, CallReport& report) {
  const std::int64_t most = rows_per_block(product, size, threads), blocks = ceil_div(size.m, most);
  report.split(blocks, "rows");
  run_tasks(threads, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment environment;
    const std::int64_t row0 = i * most, rows = std::min(most, size.m - row0);
    const RowBuffers& lhs = load_rows(product, row0, rows);
    multiply_block(product, {row0, rows, 0, size.panels}, lhs);
  });
}

// Few rows: this thread quantizes them once; tasks share them and split the panels.
void split_columns(const Product& product, const Product::Size& size, int threads, CallReport& report) {
  const DefaultFloatEnvironment environment;
  const RowBuffers& lhs = load_rows(product, 0, size.m);
  const std::int64_t blocks = threads == 1 ? 1 : std::min(size.panels, threads * kColumnBlocksPerThread);
  report.split(blocks, "columns");
  run_tasks(threads, blocks, [&](std::int64_t i) {
    const DefaultFloatEnvironment worker_environment;
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

void multiply(const Product& product, const char* kernel, CallReport& report) {
  const Product::Size size = product.size();
  const int threads = plan_threads(size);
  report.run_by(kernel, threads);
  if (splits_rows(size, threads)) {
    split_rows(product, size, threads, report);
  } else {
    split_columns(product, size, threads, report);
  }
}

}  // namespace octavo
