// A short-lived connection of the program to a platform: reads its records, asks its nodes. Blocks;
// everything has a limit.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/snapshot.h"
#include "cluster/audit.h"
#include "core/loop.h"
#include "core/result.h"
#include "nats/connection.h"
#include "nats/jetstream.h"
#include "nats/key_value.h"

namespace cluster::cli {

class Client {
 public:
  /// Connects. Throws CommandError{unreachable}.
  explicit Client(const CommonFlags& flags);

  const Config& config() const noexcept { return config_; }
  /// The platform that was named, or the only one on these servers. Throws CommandError{usage} when
  /// there are several, CommandError{not_found} when there is none.
  const std::string& platform();

  /// Reads all members and leases. Throws CommandError{not_found} when there is no such platform.
  Snapshot read();
  /// Asks the live nodes of the snapshot, or the one that is named, for their status, all at once.
  void ask(Snapshot& snapshot, const std::string& only = {});
  /// Asks one node; a refusal of the micro-service comes as CommandError.
  std::string request(const std::string& node, const std::string& endpoint, const std::string& body,
                      std::chrono::milliseconds limit);
  /// The same, and calls `meanwhile` some times a second, which may ask others, until the answer is
  /// there. Nothing when `meanwhile` returns false: it is waited for no more.
  std::optional<std::string> request(const std::string& node, const std::string& endpoint,
                                     const std::string& body, std::chrono::milliseconds limit,
                                     const std::function<bool()>& meanwhile);
  /// Calls `seen` with each record of the lease, from the one that is there on, until it is
  /// destroyed.
  class LeaseFollower {
   public:
    LeaseFollower(Client& client, const std::string& app,
                  std::function<void(const coord::LeaseRecord&)> seen);

   private:
    nats::KeyValue store_;
    std::unique_ptr<nats::KvWatch> watch_;
  };

  /// Runs `task` on a thread that may block, and the connection meanwhile; throws what it throws.
  /// SIGINT and SIGTERM request the stop of `stop`, and it ends with what the task makes of that.
  void work(const std::function<void()>& task, std::stop_source& stop);
  nats::JetStream& jetstream() noexcept { return *jetstream_; }
  Loop& loop() noexcept { return loop_; }
  /// Of streams that a command makes.
  int replicas() const { return connection_->server().cluster.empty() ? 1 : 3; }
  /// Waits, and keeps the connection going.
  void pause(std::chrono::milliseconds time);
  /// Puts an entry into the platform's audit log, with who did it; complains when that fails.
  void audit(const std::string& category, const std::string& app, const std::string& action,
             AuditFields fields, const char* level = "warn");
  /// The apps of the platform that have a WAL stream or a snapshot bucket.
  std::vector<std::string> apps_with_databases();

  /// Runs `look` now, and with --watch again and again; trouble then is shown, and does not end it.
  Exit show(const OutputFlags& output, const std::function<std::string()>& look);

  using Entries = std::map<std::string, nats::KvEntry>;
  /// Nothing: there is no such bucket.
  std::optional<Entries> read_bucket(const std::string& bucket);

 private:
  struct Pending;
  std::string subject(const std::string& node, const std::string& endpoint);
  std::string answer_of(const std::string& node, const Result<nats::Message>& answer) const;
  void ask_status(const std::shared_ptr<Pending>& pending, const std::string& node,
                  const std::string& before, const std::string& after);

  Config config_;
  std::chrono::milliseconds limit_;
  std::string trouble_{};
  Loop loop_{};
  std::unique_ptr<nats::Connection> connection_{};
  std::unique_ptr<nats::JetStream> jetstream_{};
};

/// The member of that name. Throws CommandError{not_found}, with a name that is like it.
const SeenMember& member_or_fail(const Snapshot& snapshot, const std::string& node);

}  // namespace cluster::cli
