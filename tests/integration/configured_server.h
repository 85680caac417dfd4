// A nats-server with a configuration of the test's own, beside what the embedded server writes.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "integration/nats_fixture.h"
#include "nats/embedded_server.h"
#include "temporary_folder.h"

namespace cluster::testing {

class ConfiguredServer {
 public:
  /// `files` stand in the folder above the configuration's, for it to include.
  explicit ConfiguredServer(const std::string& more,
                            const std::map<std::string, std::string>& files = {}) {
    for (const auto& [name, text] : files) std::ofstream(folder_ / name) << text;
    // The embedded server's configuration can't express these: a script puts the rest behind it.
    const std::string real = "nats-server";
    std::ofstream(folder_ / "more.conf") << more;
    const std::string script = folder_ / "nats-server";
    std::ofstream(script) << "#!/bin/sh\nPATH=$PATH:/usr/sbin\n[ \"$1\" = --version ] && exec " +
                                 real + " --version\ncat '" + (folder_ / "more.conf") +
                                 "' >>\"$2\"\nexec " + real + " \"$@\"\n";
    std::filesystem::permissions(script, std::filesystem::perms::owner_all);
    EmbeddedNats o;
    o.folder = folder_ / "nats";
    o.port = 0;
    o.server_name = "configured";
    o.sync_always = false;
    o.binary = script;
    // A port that was free when it was chosen can be taken by somebody else meanwhile.
    for (int tries = 0; tries < 5; ++tries) {
      server_.reset();
      server_ = std::make_unique<nats::EmbeddedServer>(o);
      if (!taken_port()) return;
    }
  }
  std::string place() const { return server_->url().substr(server_->url().find("://") + 3); }
  int port() const { return server_->options().port; }
  std::string operator/(const std::string& name) const { return folder_ / name; }
  nats::EmbeddedServer& operator*() { return *server_; }

 private:
  /// Waits until it is ready, or has ended. Who may connect, and whether it has JetStream, is the
  /// test's: it is not asked.
  bool taken_port() const {
    const auto end = BootClock::now() + kSoon;
    std::string why;
    while (server_->running(&why) && BootClock::now() < end) {
      std::ostringstream log;
      log << std::ifstream(folder_ / "nats/nats-server.log").rdbuf();
      if (log.str().find("Server is ready") != std::string::npos) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return why.find("address already in use") != std::string::npos;
  }

  TemporaryFolder folder_;
  std::unique_ptr<nats::EmbeddedServer> server_;
};

}  // namespace cluster::testing
