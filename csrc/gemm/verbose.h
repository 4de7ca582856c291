// A line for each product, on stderr or for the caller to take.
//
//   octavo: linear 512x768x3072, kernel avx512vnni, 2 threads, 4 blocks of rows, 3.512 ms
//
// The shape is M x K x N, the rows of all matrices of a stack counted together; the time is that of the whole call,
// packing the operands included. Off, it costs a load and a branch at each of its places.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace octavo {

// Where lines go. kUnset: to stderr if OCTAVO_VERBOSE is 1, nowhere if it is 0, empty or missing; read at the next
// product. kKept: lines wait in the thread that called, until it takes them.
enum class Verbosity : int { kUnset = -1, kOff = 0, kStderr = 1, kKept = 2 };

// Whether there are lines at all. std::invalid_argument where OCTAVO_VERBOSE is neither 0, 1 nor empty.
bool verbose();

Verbosity verbosity() noexcept;
void set_verbosity(Verbosity verbosity) noexcept;

// The lines of this thread's products since it took them last, without their newlines.
std::vector<std::string> take_reports();

// Times one call from its construction to its destruction, then reports it.
class CallReport {
 public:
  CallReport(const char* operation, std::int64_t m, std::int64_t k, std::int64_t n)
      : on_(verbose()), operation_(operation), m_(m), k_(k), n_(n) {
    if (on_) start_ = std::chrono::steady_clock::now();
  }
  // Reports nothing: for a part of a call that has a report of its own.
  CallReport() : on_(false), operation_(nullptr), m_(0), k_(0), n_(0) {}
  CallReport(const CallReport&) = delete;
  CallReport& operator=(const CallReport&) = delete;
  ~CallReport() {
    if (on_) report();
  }

  void run_by(const char* kernel, int threads) {
    kernel_ = kernel;
    threads_ = threads;
  }
  // What the tasks are: that many blocks of "rows", "columns" or "matrices".
  void split(std::int64_t blocks, const char* of) {
    blocks_ = blocks;
    of_ = of;
  }

 private:
  void report() const noexcept;

  bool on_;
  const char* operation_;
  std::int64_t m_, k_, n_;
  const char* kernel_ = "none";
  int threads_ = 1;
  std::int64_t blocks_ = 1;
  const char* of_ = "rows";
  std::chrono::steady_clock::time_point start_;
};

}  // namespace octavo
