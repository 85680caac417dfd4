// What is wrong with options, all of it at once: what the headers in include/cluster state about
// each. Pure: looks at no file, no network and no clock.
#pragma once

#include <string>
#include <vector>

#include "cluster/options.h"

namespace cluster {

/// Lines of the form "path: what is wrong", for example `timing.stop_margin: 300ms is more than a
/// quarter of session_timeout (175ms)`; the paths are those of the struct's members. None: fine.
std::vector<std::string> faults_of(const PlatformOptions& options);

/// As above; paths begin with `apps.<name>.`, and a backend's with `apps.<name>.process.`.
std::vector<std::string> faults_of(const AppOptions& options);

/// The lines as the text of one Error{invalid_argument}.
std::string faults_text(const std::vector<std::string>& faults);

/// A `host:port` in its parts, `[::1]:80` included.
struct HostPort {
  std::string host{};
  int port = 0;
};
/// Splits `text`; on a fault returns what is wrong, else an empty string and fills `out`.
std::string split_host_port(const std::string& text, HostPort& out);

}  // namespace cluster
