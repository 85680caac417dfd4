// What the demo has seen happen, and when: changes of members and leases on NATS, ready backends in
// the nodes' logs, the client's first answers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coord/records.h"
#include "core/loop.h"
#include "demo/writer.h"
#include "nats/connection.h"
#include "nats/key_value.h"

namespace demo {

struct SeenSession {
  cluster::Time time{};
  cluster::coord::SessionRecord record{};
};

struct SeenLease {
  cluster::Time time{};
  cluster::coord::LeaseRecord record{};
};

struct SeenReady {
  cluster::Time time{};
  std::string node{};
};

/// A standby's copy of the database has all that the stream has.
struct SeenCaughtUp {
  cluster::Time time{};
  std::string node{};
  std::string txid{};
};

/// Lives on the loop's thread, but for answered().
class History {
 public:
  History(cluster::Loop& loop, const std::string& nats_url, const std::string& platform);

  /// Reads a node's log from now on.
  void follow_log(const std::string& node, const std::string& file);
  void answered(FirstAnswer answer) {
    loop_.post([this, answer = std::move(answer)] { answers_.push_back(answer); });
  }

  const std::vector<SeenSession>& sessions() const { return sessions_; }
  const std::vector<SeenLease>& leases() const { return leases_; }
  const std::vector<SeenReady>& ready() const { return ready_; }
  const std::vector<SeenCaughtUp>& caught_up() const { return caught_up_; }
  const std::vector<FirstAnswer>& answers() const { return answers_; }
  /// The newest record of the node; null: none was seen.
  const cluster::coord::SessionRecord* session(const std::string& node) const;
  /// The newest lease of the app; null: none was seen.
  const cluster::coord::LeaseRecord* lease(const std::string& app) const;

 private:
  struct Log;
  void read_logs();
  void line(const std::string& node, const std::string& text);

  cluster::Loop& loop_;
  cluster::nats::Connection connection_;
  cluster::nats::JetStream jetstream_;
  cluster::nats::KeyValue members_;
  cluster::nats::KeyValue lease_bucket_;
  std::unique_ptr<cluster::nats::KvWatch> members_watch_;
  std::unique_ptr<cluster::nats::KvWatch> leases_watch_;
  std::map<std::string, std::shared_ptr<Log>> logs_;  // by file
  cluster::LoopSource log_timer_;
  std::vector<SeenSession> sessions_;
  std::vector<SeenLease> leases_;
  std::vector<SeenReady> ready_;
  std::vector<SeenCaughtUp> caught_up_;
  std::vector<FirstAnswer> answers_;
};

}  // namespace demo
