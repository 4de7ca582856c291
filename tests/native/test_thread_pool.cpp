// The pool alone: every iteration once, from many callers at once, nested, and on both sides of a fork.
#if defined(__linux__)
#include <sched.h>
#endif

#include <atomic>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "base/threads.h"
#include "check.h"
#include "system.h"

#if defined(OCTAVO_CAN_FORK)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace octavo::test {
namespace {

#if defined(__linux__) && !defined(OCTAVO_UNDER_TSAN)  // which starts a thread of its own beside the first
// Before any other loop has started workers.
void check_workers_started() {
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
  };
  set_num_threads(16);
  const auto before = threads();
  parallel_for(3, [](std::int64_t) {});
  check(threads() - before == 2, "a loop of three iterations starts two workers");
}
#else
void check_workers_started() {}
#endif

bool each_once(std::int64_t count) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
  parallel_for(count, [&](std::int64_t i) { runs[static_cast<std::size_t>(i)].fetch_add(1); });
  for (auto& r : runs) {
    if (r.load() != 1) return false;
  }
  return true;
}

void check_counts() {
  for (int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 100, 1000}) {
      bool ok = true;
      for (int repeat = 0; repeat < 50; ++repeat) ok = ok && each_once(count);
      check(ok, std::to_string(threads) + " threads, " + std::to_string(count) + " iterations");
    }
  }
}

void check_callers_at_once() {
  set_num_threads(4);
  std::vector<std::thread> callers;
  std::atomic<bool> ok{true};
  for (int c = 0; c < 8; ++c) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        if (!each_once(17)) ok = false;
      }
    });
  }
  for (auto& c : callers) c.join();
  check(ok, "eight callers at once");
}

void check_nested() {
  set_num_threads(3);
  std::atomic<int> runs{0};
  std::atomic<bool> alone{true};
  parallel_for(5, [&](std::int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    if (num_threads() != 1) alone = false;
    parallel_for(7, [&](std::int64_t) {
      runs.fetch_add(1);
      if (std::this_thread::get_id() != outer) alone = false;
    });
  });
  check(runs == 35, "a loop inside a loop");
  check(alone, "a loop inside a loop is run by its own thread");
  check(num_threads() == 3, "threads after a loop");
}

// Whichever thread throws, the caller gets the exception, after every body has ended, and the pool works on.
void check_exceptions() {
  for (int threads : {1, 2, 4}) {
    set_num_threads(threads);
    for (std::int64_t thrower : {0, 1, 31, 63, -1}) {  // -1: every iteration
      std::atomic<int> inside{0};
      bool caught = false;
      try {
        parallel_for(64, [&](std::int64_t i) {
          inside.fetch_add(1);
          std::this_thread::sleep_for(std::chrono::microseconds(20));  // long enough for the workers to join
          inside.fetch_sub(1);
          if (thrower < 0 || i == thrower) throw std::runtime_error("as asked");
        });
      } catch (const std::runtime_error&) {
        caught = true;
      }
      const std::string what = std::to_string(threads) + " threads, thrown by " + std::to_string(thrower);
      check(caught && inside == 0, what);
      check(each_once(100), what + ": the next loop");
    }
  }
}

void check_sleeping_workers() {
  set_num_threads(3);
  bool ok = true;
  for (int repeat = 0; repeat < 20; ++repeat) {
    ok = ok && each_once(64);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // longer than the workers spin
  }
  check(ok, "workers that fell asleep");
}

#if defined(__linux__)
std::vector<int> allowed_cpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// A caller that may use all of its CPUs, then two of them, then one: where its worker may run then.
void check_wakeup_placement() {
  set_num_threads(2);
  const std::vector<int> all = allowed_cpus();
  if (all.size() < 2) {
    std::printf("placement: not run, there is one CPU\n");
    return;
  }
  std::vector<std::vector<int>> caller_cpus{all, {all[0], all[1]}, {all[1]}};
  std::thread([&] {
    std::vector<int> before_one;
    for (const std::vector<int>& cpus : caller_cpus) {
      cpu_set_t set;
      CPU_ZERO(&set);
      for (int cpu : cpus) CPU_SET(cpu, &set);
      check(sched_setaffinity(0, sizeof set, &set) == 0, "the caller's CPUs");
      bool joined = false;
      for (int attempt = 0; attempt < 1000 && !joined; ++attempt) {
        const int cpu = sched_getcpu();
        std::vector<int> of_worker;
        const std::thread::id caller = std::this_thread::get_id();
        parallel_for(2, [&](std::int64_t) {
          if (std::this_thread::get_id() != caller) of_worker = allowed_cpus();
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        });
        if (of_worker.empty() || sched_getcpu() != cpu) continue;  // it came late, or the caller moved
        joined = true;
        std::vector<int> expected;
        for (int other : cpus) {
          if (other != cpu) expected.push_back(other);
        }
        if (expected.empty()) expected = before_one;  // left as it was
        check(of_worker == expected, "a worker keeps off the CPU of its caller, " + std::to_string(cpus.size()));
        before_one = of_worker;
      }
      check(joined, "a worker joined a caller with CPUs: " + std::to_string(cpus.size()));
    }
  }).join();
}
#else
void check_wakeup_placement() { std::printf("placement: left to this system\n"); }
#endif

#if !defined(OCTAVO_CAN_FORK)
void check_fork() { std::printf("fork: this system has none\n"); }
#elif !defined(OCTAVO_UNDER_TSAN)  // which does not follow threads started in the child of a threaded process
void check_fork() {
  set_num_threads(4);
  check(each_once(100), "before fork");
  for (int repeat = 0; repeat < 10; ++repeat) {
    const pid_t child = fork();
    if (child == 0) _exit(each_once(100) && each_once(1000) ? 0 : 1);
    int status = -1;
    check(each_once(100), "in the parent");
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "in the child");
  }
}
#else
void check_fork() { std::printf("fork: not run under ThreadSanitizer\n"); }
#endif

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo::test;
  check_workers_started();
  check_counts();
  check_callers_at_once();
  check_nested();
  check_exceptions();
  check_sleeping_workers();
  check_wakeup_placement();
  if (may_fork(argc, argv)) check_fork();
  return finish();
}
