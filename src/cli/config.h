// A node's configuration: one YAML file, the environment above it, flags above both. Finds every
// fault at once, each with its place. Not for what options mean: platform/validate.h judges them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cluster/error.h"
#include "cluster/options.h"
#include "core/log.h"

namespace cluster::cli {

struct Config {
  PlatformOptions platform{};
  std::vector<AppOptions> apps{};
  log::Level log_level = log::Level::info;
  std::string log_file{};  ///< empty: standard error
  std::string file{};      ///< that it was read from; empty: there was none
};

/// A value for the key at `path` that beats the file; `origin` is for messages ("--node").
struct Override {
  std::string path{};
  std::string value{};
  std::string origin{};
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;
/// That of this process. A variable that is set to nothing counts as not set.
Environment process_environment();

/// ./cpp-cluster.yaml, ~/.config/cpp-cluster/config.yaml, /etc/cpp-cluster/config.yaml.
std::vector<std::string> default_places(const Environment& environment);

struct ConfigRequest {
  std::string file{};  ///< empty: the first of `places` that is there, or none
  std::vector<std::string> places{};
  std::vector<Override> flags{};
  Environment environment{};
  /// For commands that only look: no platform need be named, and apps are left out.
  bool client = false;
  std::string default_platform{};  ///< when nothing else names one
};

/// Every fault on a line of its own: `cluster.yaml:3:5: apps.db.process.comand: unknown key; …`.
class ConfigError : public Error {
 public:
  explicit ConfigError(std::vector<std::string> faults);
  const std::vector<std::string>& faults() const noexcept { return faults_; }

 private:
  std::vector<std::string> faults_;
};

/// Throws ConfigError.
Config load_config(const ConfigRequest& request);

/// The configuration as YAML that load_config() reads back to the same; with `mask`, secrets are
/// stars, and passwords in URLs too.
std::string to_yaml(const Config& config, bool mask);

/// Replaces `${NAME}` by that variable, `$${` by `${`; on a fault fills `fault`.
std::string expand_variables(const std::string& text, const Environment& environment,
                             std::string& fault);

/// Splits as a shell would, with quotes and backslashes but no expansion; on a fault fills `fault`.
std::vector<std::string> split_words(const std::string& text, std::string& fault);

/// The URL with what stands between :// and @ replaced by stars.
std::string mask_url(const std::string& url);

}  // namespace cluster::cli
