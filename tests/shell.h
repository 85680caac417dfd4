// Words of a shell's command line.
#pragma once

#include <string>

namespace cluster {

/// As one word that the shell takes as it is, whatever is in it.
inline std::string shell_quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace cluster
