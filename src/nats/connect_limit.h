// Ends an attempt to connect that takes too long. libnats 3.4 reads on for ever, at full speed,
// when a server goes silent between its greeting and its answer to CONNECT; closing the socket
// under it is what it understands.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "cluster/clock.h"

namespace cluster::nats {

class ConnectLimit {
 public:
  /// From now on: a socket to `port` that is opened later and is still there after `limit` is shut
  /// down.
  ConnectLimit(int port, Duration limit);
  /// The attempt has ended.
  ~ConnectLimit();
  ConnectLimit(const ConnectLimit&) = delete;
  ConnectLimit& operator=(const ConnectLimit&) = delete;

  /// The limit is over now. From any thread.
  void end_now();
  bool over();  ///< has the limit passed?

 private:
  void watch();
  // Of all sockets of this process to the port, by inode; shut down those that were not there
  // before.
  std::set<std::string> sockets(bool shut_new) const;

  const int port_;
  const std::set<std::string> before_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Time end_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace cluster::nats
