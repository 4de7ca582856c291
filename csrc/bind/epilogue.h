// The names of the functions that a layer's results go through. Included by the files of csrc/bind alone.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "bind/layer_call.h"
#include "gemm/layer.h"

namespace octavo {

inline LayerFunction function_named(const std::optional<std::string>& name) {
  if (!name) return std::nullopt;
  constexpr std::pair<const char*, Elementwise> kFunctions[] = {{"gelu", Elementwise::kGelu},
                                                                {"gelu_tanh", Elementwise::kGeluTanh},
                                                                {"sigmoid", Elementwise::kSigmoid},
                                                                {"silu", Elementwise::kSilu},
                                                                {"tanh", Elementwise::kTanh}};
  for (const auto& [known, function] : kFunctions) {
    if (*name == known) return function;
  }
  throw std::invalid_argument("unknown epilogue");
}

}  // namespace octavo
