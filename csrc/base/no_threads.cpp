// Loops of a build without threads: all iterations run where the loop is called.
#include "base/thread_pool.h"

namespace octavo {

int num_threads() { return 1; }
void set_num_threads(int) {}

void parallel_for(std::int64_t count, IndexFunction body) {
  for (std::int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace octavo
