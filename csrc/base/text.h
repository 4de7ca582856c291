// Small texts: files of the system and values of environment variables. In C's functions, since a single stream of the
// C++ library links its locales, of all kinds, into the module: 350 KB.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace octavo {

// What a file holds; "" where it cannot be read.
inline std::string text_of(const std::string& path) {
  std::string text;
  std::FILE* const file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return text;
  char piece[512];
  while (const std::size_t count = std::fread(piece, 1, sizeof piece, file)) text.append(piece, count);
  std::fclose(file);
  return text;
}

// The parts between separators. The last one may end with one too, so "a\n" has one part and "" has none.
inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t first = 0; first < text.size();) {
    const std::size_t end = std::min(text.find(separator, first), text.size());
    parts.push_back(text.substr(first, end - first));
    first = end + 1;
  }
  return parts;
}

}  // namespace octavo
