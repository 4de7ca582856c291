// OCTAVO_VERBOSE=1: a line on stderr for each product.
//
//   octavo: linear 512x768x3072, kernel avx512vnni, 2 threads, 4 blocks of rows, 3.512 ms
//
// The shape is M x K x N; the time is that of the whole call, packing of operands included. Switched off it costs a
// load and a branch at each of its three places.
#pragma once

#include <chrono>
#include <cstdint>

namespace octavo {

// Whether OCTAVO_VERBOSE is 1: read once. std::invalid_argument where it is neither 0, 1 nor empty.
bool verbose();

// Times one call from its construction to its destruction, then prints it.
class CallReport {
 public:
  CallReport(const char* operation, std::int64_t m, std::int64_t k, std::int64_t n)
      : on_(verbose()), operation_(operation), m_(m), k_(k), n_(n) {
    if (on_) start_ = std::chrono::steady_clock::now();
  }
  CallReport(const CallReport&) = delete;
  CallReport& operator=(const CallReport&) = delete;
  ~CallReport() {
    if (on_) print();
  }

  void run_by(const char* kernel, int threads) {
    kernel_ = kernel;
    threads_ = threads;
  }
  // What the tasks are: that many blocks of "rows" or "columns".
  void split(std::int64_t blocks, const char* of) {
    blocks_ = blocks;
    of_ = of;
  }

 private:
  void print() const;

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
