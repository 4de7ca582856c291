#include "gemm/integers/multiply.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/result_pool.h"
#include "base/thread_pool.h"
#include "gemm/gemm.h"
#include "gemm/integers/small.h"
#include "gemm/integers/streamed.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Rows up to which the pieces of the rhs are kept in the L2 cache instead of being shared by many blocks of rows; and
// column blocks per thread on average, where all threads pack and multiply their own.
constexpr std::int64_t kFewRows = 16, kFewRowsTasks = 4;
constexpr std::int64_t kFewRowsPieceBytes = 256 << 10, kFewRowsPieceK = 64;

// Columns of the rhs that are looked at together: blocks with digits of their own.
constexpr std::int64_t kRangeCols = 256;

// Multiply-adds up to which threads take matrices of a stack each, instead of sharing every one.
constexpr double kMiddleWork = 1 << 24;

// Elements below which one thread looks. Weakly founded.
constexpr std::int64_t kParallelElems = 1 << 18;

// Whether looking at the values can pay: each is read once more.
bool worth_looking(const IntegerMatrix& lhs, const IntegerMatrix& rhs) {
  return std::min(lhs.rows, rhs.cols) >= 16 && lhs.view.elem_bytes + rhs.view.elem_bytes > 2;
}

struct Matrices {
  const IntegerMatrix& lhs;
  const IntegerMatrix& rhs;
  const IntegerResult& dst;
  const Kernel& kernel;
  std::vector<ValueRange> lhs_ranges;  // of kRangeRows rows each
};

// Columns that are multiplied in one form.
struct Section {
  std::int64_t col0, cols;
  ValueRange range;
  Choice choice;
};

// Ranges of `count` blocks, found by all threads; or those of the type.
template <class BlockAt>
std::vector<ValueRange> look(const IntegerKernel& kernel, const IntegerMatrix& matrix, std::int64_t count,
                             bool look_at_values, const BlockAt& block_at) {
  std::vector<ValueRange> ranges(static_cast<std::size_t>(count), range_of_type(matrix.view));
  if (!look_at_values || matrix.view.elem_bytes == 1) return ranges;
  const auto look_at = [&](std::int64_t i) {
    const auto [row0, rows, col0, cols] = block_at(i);
    ranges[static_cast<std::size_t>(i)] = range_of_values(kernel, matrix.view.at(row0, col0), rows, cols);
  };
  parallel_for_if(matrix.rows * matrix.cols >= kParallelElems, count, look_at);
  return ranges;
}

struct Part {
  std::int64_t row0, rows, col0, cols;
};

std::vector<ValueRange> row_ranges(const IntegerKernel& kernel, const IntegerMatrix& lhs, bool look_at_values) {
  return look(kernel, lhs, ceil_div(lhs.rows, kRangeRows), look_at_values, [&](std::int64_t i) {
    return Part{i * kRangeRows, std::min(kRangeRows, lhs.rows - i * kRangeRows), 0, lhs.cols};
  });
}

std::vector<ValueRange> column_ranges(const IntegerKernel& kernel, const IntegerMatrix& rhs, bool look_at_values) {
  return look(kernel, rhs, ceil_div(rhs.cols, kRangeCols), look_at_values, [&](std::int64_t i) {
    return Part{0, rhs.rows, i * kRangeCols, std::min(kRangeCols, rhs.cols - i * kRangeCols)};
  });
}

Choice choose(const Matrices& product, ValueRange rhs) {
  const bool few = product.lhs.rows <= kFewRows;
  ChoiceInput in{.lhs = {},
                 .rhs = rhs,
                 .k = product.lhs.cols,
                 .piece_k = few ? kFewRowsPieceK : piece_k(Form::kDigits),
                 .result_bytes = product.dst.elem_bytes};
  const int rhs_digits = digits_of(rhs).count, low = std::min(in.result_bytes, 4);
  for (const ValueRange range : product.lhs_ranges) {
    in.lhs = merged(in.lhs, range);
    const int digits = digits_of(range).count;
    in.pairs4 += pairs_of_digits(digits, rhs_digits, low);
    in.pairs_result += pairs_of_digits(digits, rhs_digits, in.result_bytes);
  }
  const auto blocks = static_cast<double>(product.lhs_ranges.size());
  in.pairs4 /= blocks;
  in.pairs_result /= blocks;
  return choose_form(product.kernel, in);
}

// Neighbouring blocks of columns that take the same form with the same digits become one section.
std::vector<Section> sections_of(const Matrices& product, const std::vector<ValueRange>& ranges) {
  std::vector<Section> sections;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const std::int64_t col0 = static_cast<std::int64_t>(i) * kRangeCols;
    const std::int64_t cols = std::min(kRangeCols, product.rhs.cols - col0);
    const Choice choice = choose(product, ranges[i]);
    const auto joins = [&](const Section& last) {
      const Digits mine = digits_of(ranges[i]), its = digits_of(last.range);
      return last.choice.form == choice.form && last.choice.bytes == choice.bytes &&
             (choice.form != Form::kDigits || (mine.count == its.count && mine.top_flipped == its.top_flipped));
    };
    if (!sections.empty() && joins(sections.back())) {
      sections.back().cols += cols;
      sections.back().range = merged(sections.back().range, ranges[i]);
    } else {
      sections.push_back({col0, cols, ranges[i], choice});
    }
  }
  return sections;
}

// Columns of a piece of `depth`, a multiple of a panel's.
std::int64_t piece_cols(Form form, Digits digits, std::int64_t depth, std::int64_t bytes) {
  const std::int64_t cols = form_shape(form).cols;
  const PackedPiece panel({0, depth, 0, cols}, form, digits);
  return std::max<std::int64_t>(1, bytes / panel.panel_and_sums_bytes()) * cols;
}

// visit(place) for the pieces of the columns, k ascending within the same columns.
template <class Visit>
void for_each_piece(std::int64_t col0, std::int64_t cols, std::int64_t k, std::int64_t most_cols, std::int64_t most_k,
                    const Visit& visit) {
  for (std::int64_t c = 0; c < cols; c += most_cols) {
    for (std::int64_t k0 = 0; k0 < k; k0 += most_k) {
      visit(PackedPiece::Place{k0, std::min(most_k, k - k0), col0 + c, std::min(most_cols, cols - c)});
    }
  }
}

// All rows with one piece.
PieceProduct piece_product(const Matrices& product, const PackedPiece& piece, ValueRange rhs_range,
                           const Choice& choice) {
  const PackedPiece::Place& place = piece.place();
  return PieceProduct(product.kernel, choice,
                      {.lhs = product.lhs,
                       .lhs_ranges = product.lhs_ranges,
                       .piece = piece,
                       .rhs_range = rhs_range,
                       .dst = product.dst.at(0, place.col0),
                       .add = place.k0 > 0});
}

// Many rows: all threads pack a piece, then multiply it with their rows.
void multiply_section(const Matrices& product, const Section& section, CallReport& report) {
  const std::int64_t k = product.lhs.cols, most_k = piece_k(section.choice.form);
  const Digits digits = digits_of(section.range).lowest(section.choice.bytes);
  const std::int64_t most_cols = piece_cols(section.choice.form, digits, std::min(k, most_k), kPieceBytes);
  CallMemory memory;
  for_each_piece(section.col0, section.cols, k, most_cols, most_k, [&](const PackedPiece::Place& place) {
    PackedPiece piece(place, section.choice.form, digits);
    memory.reserve(memory_bytes(piece.bytes()));
    piece.pack(*product.kernel.integer, product.rhs, memory.as<void>(), true);
    multiply(piece_product(product, piece, section.range, section.choice), product.kernel.name, report);
  });
}

// What a thread keeps for few rows: about half a MiB.
struct FewRowsSpace {
  AlignedBuffer piece, scratch;
  RowBuffers rows;
};

// Few rows: each thread packs pieces of its columns into its own cache, and multiplies them at once.
void multiply_few_rows(const Matrices& product, const Section& section, std::int64_t col0, std::int64_t cols) {
  const std::int64_t k = product.lhs.cols, m = product.lhs.rows;
  const Form form = section.choice.form;
  const Digits digits = digits_of(section.range).lowest(section.choice.bytes);
  const std::int64_t most_cols = piece_cols(form, digits, std::min(k, kFewRowsPieceK), kFewRowsPieceBytes);
  static thread_local FewRowsSpace space;
  for_each_piece(col0, cols, k, most_cols, kFewRowsPieceK, [&](const PackedPiece::Place& place) {
    PackedPiece piece(place, form, digits);
    space.piece.reserve(memory_bytes(piece.bytes()));
    piece.pack(*product.kernel.integer, product.rhs, space.piece.as<void>(), false);
    const PieceProduct one = piece_product(product, piece, section.range, section.choice);
    const LoadedRows rows = space.rows.reserve(one.lhs_bytes(m), m);
    space.scratch.reserve(memory_bytes(one.scratch_bytes(m)));
    one.load_rows(0, m, rows);
    one.multiply_block({0, m, 0, one.size().panels}, rows, space.scratch.as<void>());
  });
}

void multiply_few_rows(const Matrices& product, const Section& section, CallReport& report) {
  const std::int64_t panel_cols = form_shape(section.choice.form).cols, panels = ceil_div(section.cols, panel_cols);
  const int threads = section.cols * product.lhs.cols < kParallelElems ? 1 : num_threads();
  const std::int64_t tasks = threads == 1 ? 1 : std::min(panels, threads * kFewRowsTasks);
  report.run_by(product.kernel.name, threads);
  report.split(tasks, "columns");
  parallel_for(tasks, [&](std::int64_t i) {
    const std::int64_t first = panels * i / tasks * panel_cols;
    const std::int64_t last = std::min(section.cols, panels * (i + 1) / tasks * panel_cols);
    multiply_few_rows(product, section, section.col0 + first, last - first);
  });
}

void clear(const IntegerResult& dst, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memset(dst.at(r, 0).data, 0, static_cast<std::size_t>(cols * dst.elem_bytes));
  }
}

// True where the product was empty, and is done.
bool is_empty(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst) {
  if (lhs.rows == 0 || rhs.cols == 0) return true;
  if (lhs.cols == 0) clear(dst, lhs.rows, rhs.cols);
  return lhs.cols == 0;
}

void multiply_by(const Kernel& kernel, const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                 CallReport& report) {
  report.run_by(kernel.name, 1);
  if (is_empty(lhs, rhs, dst)) return;
  if (work_of(lhs, rhs) <= kSmallWork) return multiply_small(*kernel.integer, lhs, rhs, dst);
  if (multiply_streamed(kernel, lhs, rhs, dst, report)) return;
  const bool look_at_values = worth_looking(lhs, rhs);
  const Matrices product{lhs, rhs, dst, kernel, row_ranges(*kernel.integer, lhs, look_at_values)};
  for (const Section& section : sections_of(product, column_ranges(*kernel.integer, rhs, look_at_values))) {
    lhs.rows <= kFewRows ? multiply_few_rows(product, section, report) : multiply_section(product, section, report);
  }
}

}  // namespace

void multiply_integers(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                       CallReport& report) {
  multiply_by(kernel_for(lhs.rows), lhs, rhs, dst, report);
}

void multiply_integers_batch(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                             std::int64_t count, const BatchStrides& strides, CallReport& report) {
  const Kernel& kernel = kernel_for(lhs.rows);
  const auto multiply_one = [&](std::int64_t i, CallReport& its_report) {
    const auto moved = [&](const IntegerMatrix& matrix, std::int64_t bytes) {
      IntegerMatrix copy = matrix;
      copy.view.data += i * bytes;
      return copy;
    };
    multiply_by(kernel, moved(lhs, strides.lhs), moved(rhs, strides.rhs),
                IntegerResult{dst.data + i * strides.dst, dst.stride, dst.elem_bytes}, its_report);
  };
  const double work = work_of(lhs, rhs);
  if (work > kMiddleWork) {
    for (std::int64_t i = 0; i < count; ++i) multiply_one(i, report);
    return;
  }
  // Of small ones, a task takes as many as make it worth the handing out.
  const bool small = work <= kSmallWork, alone = small && work * static_cast<double>(count) < 64 * kSmallWork;
  const int threads = alone ? 1 : num_threads();
  const std::int64_t tasks = alone ? 1 : small ? std::min<std::int64_t>(count, 4 * threads) : count;
  report.run_by(kernel.name, threads);
  report.split(tasks, "matrices");
  parallel_for(tasks, [&](std::int64_t t) {
    CallReport silent;  // the report is the whole stack's
    for (std::int64_t i = count * t / tasks; i < count * (t + 1) / tasks; ++i) multiply_one(i, silent);
  });
}

PackedIntegers::PackedIntegers(const IntegerMatrix& matrix) : matrix_(matrix) {
  if (matrix.rows > 0 && matrix.cols > 0) {
    for (const ValueRange range : column_ranges(*active_kernel().integer, matrix, true)) range_ = merged(range_, range);
  }
}

PackedIntegers::~PackedIntegers() {
  for (const auto& pieces : pieces_) delete pieces.load();
}

const PackedIntegers::Pieces& PackedIntegers::pieces(Form form) {
  std::atomic<const Pieces*>& place = pieces_[static_cast<std::size_t>(form)];
  const Pieces* found = place.load();
  if (found != nullptr) return *found;
  auto packed = std::make_unique<const Pieces>(pack(form));
  return place.compare_exchange_strong(found, packed.get()) ? *packed.release() : *found;
}

PackedIntegers::Pieces PackedIntegers::pack(Form form) const {
  Pieces packed;
  const Digits digits = digits_of(range_);
  const std::int64_t k = matrix_.rows, most_k = piece_k(form);
  const std::int64_t most_cols = piece_cols(form, digits, std::min(k, most_k), kPieceBytes);
  for_each_piece(0, matrix_.cols, k, most_cols, most_k, [&](const PackedPiece::Place& place) {
    PackedPiece piece(place, form, digits);
    WeightMemory memory(memory_bytes(piece.bytes()));
    piece.pack(*active_kernel().integer, matrix_, memory.data(), true);
    packed.push_back({piece, std::move(memory)});
  });
  return packed;
}

std::size_t PackedIntegers::size_bytes() const {
  std::size_t bytes = sizeof *this;
  for (const auto& place : pieces_) {
    const Pieces* pieces = place.load();
    if (pieces == nullptr) continue;
    for (const OwnedPiece& owned : *pieces) bytes += memory_bytes(owned.piece.bytes());
  }
  return bytes;
}

void PackedIntegers::multiply(const IntegerMatrix& lhs, const IntegerResult& dst) {
  const Kernel& kernel = kernel_for(lhs.rows);
  CallReport report("packed matmul", lhs.rows, lhs.cols, matrix_.cols);
  report.run_by(kernel.name, 1);
  if (is_empty(lhs, matrix_, dst)) return;
  const Matrices product{lhs, matrix_, dst, kernel, row_ranges(*kernel.integer, lhs, worth_looking(lhs, matrix_))};
  const Choice choice = choose(product, range_);
  for (const OwnedPiece& owned : pieces(choice.form)) {
    octavo::multiply(piece_product(product, owned.piece, range_, choice), kernel.name, report);
  }
}

}  // namespace octavo
