// The names that platforms, apps and nodes may have (docs/protocols.md, Names). Pure.
#pragma once

#include <string>
#include <string_view>

namespace cluster {

/// One or more of `A-Z a-z 0-9 _ -`: a token of a subject whatever NATS makes of other characters.
bool is_plain_token(std::string_view text);
/// Why `name` can't name a platform or an app: `[a-z][a-z0-9-]{0,31}`; empty when it can.
std::string platform_name_fault(std::string_view name);
/// As platform_name_fault; the platform's own apps, which begin with `_`, are refused too.
std::string app_name_fault(std::string_view name);
/// Why `name` can't name a node: `[A-Za-z0-9][A-Za-z0-9-]{0,62}`; empty when it can.
std::string node_name_fault(std::string_view name);

/// The one of `known` that is nearest to `word` by edit distance, when it is near enough to be
/// meant; else empty.
template <typename Names>
std::string nearest_name(std::string_view word, const Names& known);

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

template <typename Names>
std::string nearest_name(std::string_view word, const Names& known) {
  std::string best;
  int best_distance = 1 + static_cast<int>(word.size()) / 3;
  for (const auto& candidate : known) {
    int d = edit_distance(word, candidate);
    if (d <= best_distance && (best.empty() || d < best_distance)) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}

}  // namespace cluster
