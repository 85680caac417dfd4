// Whatever stands in a configuration file: a configuration, or faults with their places. What was
// understood is understood the same after it was written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

#include "cli/config.h"
#include "core/duration.h"
#include "fuzz/expect.h"

using namespace cluster;
using namespace cluster::cli;

namespace {

// A file in memory, by its name.
const std::string& file_of(const std::string& text) {
  static const int fd = ::memfd_create("config", MFD_CLOEXEC);
  static const std::string name = "/proc/self/fd/" + std::to_string(fd);
  expect(::ftruncate(fd, 0) == 0);
  expect(::pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  return name;
}

Config load(const std::string& text) {
  ConfigRequest request;
  request.file = file_of(text);
  request.environment = [](const std::string& name) -> std::optional<std::string> {
    return name == "HOME" ? std::optional<std::string>("/root") : std::nullopt;
  };
  return load_config(request);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::optional<Config> config;
  try {
    config = load(text);
  } catch (const ConfigError& error) {
    expect(!error.faults().empty());
  }
  if (config) {
    const std::string written = to_yaml(*config, false);
    expect(to_yaml(load(written), false) == written);
    static_cast<void>(to_yaml(*config, true));
  }
  if (auto span = parse_duration(text)) {
    auto again = parse_duration(format_duration(span.value()));
    expect(again.ok() && again.value() == span.value());
  }
  std::string fault;
  static_cast<void>(split_words(text, fault));
  static_cast<void>(mask_url(text));
  return 0;
}
