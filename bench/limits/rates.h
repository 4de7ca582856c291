// How limits_x86 times: threads that start together, each on a CPU of its own; and the list of its figures.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using Clock = std::chrono::steady_clock;
inline constexpr int kRuns = 9;
inline constexpr double kRunSeconds = 0.02;

inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Figure {
  std::string group, name, unit;
  int threads;
  std::int64_t bytes;  // of the data, where it matters
  double median, low, high;
};

inline std::vector<Figure> g_figures;

inline void report(Figure figure, std::vector<double> values) {
  std::sort(values.begin(), values.end());
  figure.median = values[values.size() / 2];
  figure.low = values.front();
  figure.high = values.back();
  std::printf("%-44s %d thread%s %10.3f %-5s (%.3f to %.3f)\n", figure.name.c_str(), figure.threads,
              figure.threads == 1 ? " " : "s", figure.median, figure.unit.c_str(), figure.low, figure.high);
  std::fflush(stdout);
  g_figures.push_back(std::move(figure));
}

// Keeps the calling thread on one CPU of those that the process may use; puts its choice back.
class Pinned {
 public:
  explicit Pinned(int index) {
    pthread_getaffinity_np(pthread_self(), sizeof before_, &before_);
    index %= CPU_COUNT(&before_);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before_) || index-- != 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    }
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { pthread_setaffinity_np(pthread_self(), sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// work(thread, steps); seconds from the first start to the last end.
using Work = std::function<void(int, std::int64_t)>;
inline double timed(int threads, std::int64_t steps, const Work& work) {
  std::atomic<int> ready{0};
  std::vector<Clock::time_point> starts(threads), ends(threads);
  const auto run = [&](int t) {
    const Pinned pinned(t);
    ready.fetch_add(1);
    while (ready.load() < threads) {
    }
    starts[t] = Clock::now();
    work(t, steps);
    ends[t] = Clock::now();
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) -
                                       *std::min_element(starts.begin(), starts.end()))
      .count();
}

// Units of `per_step` a second and thread, times `scale`.
inline std::vector<double> rates(int threads, double per_step, double scale, const Work& work) {
  std::int64_t steps = 1;
  while (timed(1, steps, work) < kRunSeconds / 2) steps *= 2;
  std::vector<double> values;
  for (int i = 0; i < kRuns; ++i) {
    values.push_back(per_step * scale * static_cast<double>(steps) * threads / timed(threads, steps, work));
  }
  return values;
}
