// The state that all users of the tiles on a thread share: in hardware a part of the CPU.
#include "amx_model.h"

namespace octavo {

TileState& tile_state() {
  static thread_local TileState state;
  return state;
}

}  // namespace octavo
