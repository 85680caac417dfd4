// A program's side of a database's socket (commit_protocol.h), which it finds by the database's
// path (commit_place.h). Blocks; for one thread at a time. Part of the loadable extension: no code
// of the library's elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <sys/types.h>

#include "core/unique_fd.h"

namespace cluster::sqlite {

class CommitClient {
 public:
  using Clock = std::chrono::steady_clock;
  struct Stored {
    std::uint64_t epoch = 0, txid = 0, sequence = 0;
  };

  explicit CommitClient(std::string database) : database_(std::move(database)) {}

  /// The node takes commits: connects when that is needed. False with `why`.
  bool ready(Clock::time_point until, std::string& why);
  /// All that was committed before the call is stored in JetStream. False with `why`. `was_ready`:
  /// ready() has just said so; then it is asked again only if the connection has ended since.
  bool sync(std::chrono::milliseconds limit, Stored& stored, std::string& why,
            bool was_ready = false);

 private:
  bool connect(Clock::time_point until, std::string& why);
  bool find(Clock::time_point until, std::string& why);
  bool read_line(Clock::time_point until, std::string& line, std::string& why);
  bool write_line(const std::string& line, std::string& why);
  bool wait(short events, Clock::time_point until) const;
  bool take_line(std::string& line);
  void disconnect();

  const std::string database_;
  std::string socket_;  // that it is connected with
  UniqueFd fd_;
  pid_t process_ = 0;  // that connected
  std::string in_;
  std::uint64_t last_request_ = 0;
};

}  // namespace cluster::sqlite
