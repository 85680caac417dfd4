// Keeps a log readable when the same thing happens many times a second.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cluster/clock.h"

namespace cluster {

/// Says of a text whether to tell it now: the first time, and then once in `interval` while it goes
/// on. Remembers the last `kTexts`; one that has been forgotten counts as new.
class RepeatLimit {
 public:
  static constexpr std::size_t kTexts = 32;

  explicit RepeatLimit(Duration interval) : interval_(interval) {}

  /// How often it was kept back since it was told last; empty: keep it back now, too.
  std::optional<int> tell(const std::string& text, Time now) {
    auto seen =
        std::find_if(seen_.begin(), seen_.end(), [&](const Seen& one) { return one.text == text; });
    if (seen == seen_.end()) {
      if (seen_.size() == kTexts) seen_.erase(seen_.begin());
      seen_.push_back({text, now, 0});
      return 0;
    }
    if (now < seen->told + interval_) {
      ++seen->kept_back;
      return std::nullopt;
    }
    const int kept_back = seen->kept_back;
    seen_.erase(seen);
    seen_.push_back({text, now, 0});
    return kept_back;
  }

 private:
  struct Seen {
    std::string text{};
    Time told{};
    int kept_back = 0;
  };

  Duration interval_;
  std::vector<Seen> seen_;  // the one told longest ago first
};

}  // namespace cluster
