// The pool alone: every iteration once, from many callers at once, nested, and on both sides of a fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"

namespace octavo::test {
namespace {

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
  parallel_for(5, [&](std::int64_t) { parallel_for(7, [&](std::int64_t) { runs.fetch_add(1); }); });
  check(runs == 35, "a loop inside a loop");
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

#if !defined(__SANITIZE_THREAD__)  // ThreadSanitizer does not follow threads started in the child of a threaded process
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

// --no-fork: for emulators, which do not survive the fork of a process with threads (QEMU's user mode does not).
int main(int argc, char** argv) {
  using namespace octavo::test;
  const bool fork_too = argc < 2 || std::string(argv[1]) != "--no-fork";
  check_counts();
  check_callers_at_once();
  check_nested();
  check_exceptions();
  check_sleeping_workers();
  if (fork_too) {
    check_fork();
  } else {
    std::printf("fork: not run, as asked by --no-fork\n");
  }
  return finish();
}
