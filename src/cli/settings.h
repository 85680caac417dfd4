// The keys that a configuration may have, each bound to the option it sets. One table serves the
// file, the environment, flags, `config show` and the check that the documents name every key.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/config.h"

namespace cluster::cli {

struct Value {
  std::vector<std::string> items{};            ///< of a list; one of a scalar
  std::map<std::string, std::string> pairs{};  ///< of a map
  bool scalar = false;                         ///< given as one text, also where a list may stand
};

struct Setting {
  enum class Kind {
    section,  ///< a map of further keys; set() is called when it is there at all
    scalar,
    list,  ///< or one text, which it splits itself
    map,   ///< of texts; or one text: a=1,b=2
  };
  std::string path{};  ///< "nats.tls.ca"; of an app's without "apps.<name>."
  Kind kind = Kind::scalar;
  /// Returns what is wrong, or nothing.
  std::function<std::string(const Value&)> set{};
  /// The value it has now; nothing for what is not there.
  std::function<std::optional<Value>()> get{};
  bool secret = false;
};

using Settings = std::vector<Setting>;

/// Bound to `config`, which must outlive them.
Settings platform_settings(Config& config);
/// Bound to `app`, which must outlive them and stay in its place.
Settings app_settings(AppOptions& app);

const Setting* find_setting(const Settings& settings, const std::string& path);
/// CPP_CLUSTER_TIMING_LEASE_TTL for timing.lease_ttl.
std::string environment_name(const std::string& path);

}  // namespace cluster::cli
