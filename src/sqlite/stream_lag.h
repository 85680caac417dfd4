// How far a WAL stream has gone on beyond a copy that is behind it. Whoever reads the stream knows
// that only of what it has read, and does not read while much waits to be applied, or while the
// copy is had anew: then JetStream is asked, once a second. On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/loop.h"
#include "nats/jetstream.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

class StreamLag {
 public:
  struct Known {
    Txid last = 0;               ///< the stream's last transaction
    std::uint64_t sequence = 0;  ///< and its last record
    std::int64_t oldest_ns = 0;  ///< when the oldest record that the copy lacked then was stored;
                                 ///< wall time since 1970; 0: it lacked none
  };

  /// `behind`: up to which record the copy has all, or nothing while that need not be asked.
  StreamLag(Loop& loop, nats::JetStream& jetstream, std::string stream, std::string subject,
            std::function<std::optional<std::uint64_t>()> behind);
  ~StreamLag();
  StreamLag(const StreamLag&) = delete;
  StreamLag& operator=(const StreamLag&) = delete;

  /// The newest answer.
  const Known& known() const noexcept { return known_; }
  /// It is another stream, or has lost its end.
  void forget();

 private:
  void look();
  void ask_last(std::int64_t oldest_ns);

  nats::JetStream& jetstream_;
  const std::string stream_, subject_;
  const std::function<std::optional<std::uint64_t>()> behind_;
  Known known_;
  bool asking_ = false;
  std::uint64_t turn_ = 0;  // answers to earlier ones are too late
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
