#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "base/cpus.h"
#include "base/threads.h"

namespace octavo {
namespace {

// How long an idle worker looks for the next loop before it sleeps. Waking a sleeping worker takes 5-50 us, as long as
// a small layer, and layers follow each other within microseconds. Weakly founded: other values were not tried.
constexpr std::chrono::microseconds kSpin{50};

// How often a spinning worker looks, with a pause after each look, before it reads the clock again. Yielding in place
// of pausing would be fairer to other threads, but can lose the core for milliseconds.
constexpr int kLooksPerClockReading = 32;

// How often the caller looks whether the last worker has finished before it yields: that worker may need its core.
constexpr int kLooksBeforeYielding = 1000;

// Whether this thread is inside an iteration that the pool has handed out.
thread_local bool t_in_loop = false;

class Pool {
 public:
  // Not from within a loop: the caller of the loop around it holds the lock.
  void run(std::int64_t count, IndexFunction body, int threads) {
    std::unique_lock<std::mutex> only_caller(caller_mutex_, std::try_to_lock);
    if (!only_caller.owns_lock()) {
      for (std::int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    start_workers(static_cast<int>(std::min<std::int64_t>(threads, count)) - 1);
    placement_.keep_off_this_cpu(workers_);
    const int helpers = static_cast<int>(std::min<std::int64_t>({threads - 1, count - 1, worker_count()}));
    body_ = &body;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(helpers, std::memory_order_relaxed);
    // Published last: a worker that is still awake from an earlier round may take a place from here on.
    open_places_.store(helpers, std::memory_order_release);
    {
      // The lock orders the new round against a worker that is about to sleep: it sees the round, or gets the notice.
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake(helpers);
    take_iterations();
    // Close the places that no worker has taken: a late worker must not touch `body`.
    const int unused = open_places_.exchange(0, std::memory_order_acq_rel);
    if (unused > 0) busy_.fetch_sub(unused, std::memory_order_acq_rel);
    for (int looks = 0; busy_.load(std::memory_order_acquire) != 0;) {
      if (looks < kLooksBeforeYielding) {
        ++looks;
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  // Held across fork, so that the child does not inherit a lock whose owner is gone.
  std::mutex& caller_mutex() { return caller_mutex_; }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      stop_ = true;
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

 private:
  // As many as can help. Workers that are still awake may take their places; one that finds none sleeps again.
  void wake(int helpers) {
    if (helpers == worker_count()) {
      wake_.notify_all();
    } else {
      for (int i = 0; i < helpers; ++i) wake_.notify_one();
    }
  }
  int worker_count() const { return static_cast<int>(workers_.size()); }

  void start_workers(int wanted) {
    if (worker_count() < wanted) placement_.forget();
    while (worker_count() < wanted) {
      try {
        workers_.emplace_back([this, seen = round_.load(std::memory_order_relaxed)] { work(seen); });
      } catch (const std::system_error&) {
        return;  // the system gives no more threads: fewer workers, the same results
      }
    }
  }

  void take_iterations() {
    t_in_loop = true;
    try {
      for (std::int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count_;
           i = next_.fetch_add(1, std::memory_order_relaxed)) {
        (*body_)(i);
      }
    } catch (...) {
      next_.store(count_, std::memory_order_relaxed);  // the others begin nothing more
      const std::lock_guard<std::mutex> lock(error_mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
    }
    t_in_loop = false;
  }

  bool take_place() {
    int open = open_places_.load(std::memory_order_acquire);
    while (open > 0) {
      if (open_places_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void work(std::uint64_t seen) {
    for (;;) {
      seen = wait_for_round_after(seen);
      if (stop_) return;
      if (!take_place()) continue;
      take_iterations();
      busy_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::uint64_t wait_for_round_after(std::uint64_t seen) {
    const auto give_up = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int look = 0; look < kLooksPerClockReading; ++look) {
        const std::uint64_t now = round_.load(std::memory_order_acquire);
        if (now != seen) return now;
        pause_briefly();
      }
    } while (std::chrono::steady_clock::now() < give_up);
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
    return round_.load(std::memory_order_acquire);
  }

  std::mutex caller_mutex_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> round_{0};
  std::atomic<int> open_places_{0};  // workers that may still join this round
  std::atomic<int> busy_{0};         // places taken and not finished, or not yet closed
  std::atomic<std::int64_t> next_{0};
  std::int64_t count_ = 0;
  const IndexFunction* body_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;  // the first of this round; the caller reads it when busy_ is 0
  std::vector<std::thread> workers_;
  WakeupPlacement placement_;
};

// The pool is never destroyed: its workers may still be running while static objects are torn down at exit.
Pool* g_pool = nullptr;
std::once_flag g_pool_once;
std::atomic<int> g_num_threads{0};

Pool& pool() {
  std::call_once(g_pool_once, [] {
    g_pool = new Pool;
    // The child has the forking thread only. The old pool is left as it is (its threads do not exist there) and a new
    // one starts.
    at_fork([] { g_pool->caller_mutex().lock(); }, [] { g_pool->caller_mutex().unlock(); }, [] { g_pool = new Pool; });
  });
  return *g_pool;
}

// The first number of OMP_NUM_THREADS ("4" or "4,2"), which joblib, Dask and Ray set for their workers; 0 where there is
// none. It is another library's variable: what is not a number here is none of our business.
int openmp_num_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  while (*end == ' ') ++end;
  return end != text && (*end == '\0' || *end == ',') && n >= 1 && n <= kMaxThreads ? static_cast<int>(n) : 0;
}

int initial_num_threads() {
  const char* text = std::getenv("OCTAVO_NUM_THREADS");
  if (text == nullptr || *text == '\0') {
    const int others = openmp_num_threads();
    return others != 0 ? others : available_cpus();
  }
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (*end != '\0' || n < 1 || n > kMaxThreads) {
    throw std::invalid_argument("OCTAVO_NUM_THREADS must be a whole number from 1 to " + std::to_string(kMaxThreads) +
                                ", got \"" + text + "\"; unset it to use every available CPU");
  }
  return static_cast<int>(n);
}

}  // namespace

int num_threads() {
  if (t_in_loop) return 1;
  int n = g_num_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    const int initial = initial_num_threads();
    // Unless another thread has set a number meanwhile, which then stands.
    if (g_num_threads.compare_exchange_strong(n, initial, std::memory_order_relaxed)) n = initial;
  }
  return n;
}

void set_num_threads(int n) { g_num_threads.store(n, std::memory_order_relaxed); }

void parallel_for(std::int64_t count, IndexFunction body) {
  const int threads = count > 1 ? num_threads() : 1;
  if (threads > 1) {
    pool().run(count, body, threads);
  } else {
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
}

}  // namespace octavo
