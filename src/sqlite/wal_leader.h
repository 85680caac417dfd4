// Writes to a WAL stream on JetStream: carries out what StreamWriter decides, keeps the bytes of
// appends until they are stored, waits between failures. On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/loop.h"
#include "nats/jetstream.h"
#include "sqlite/newest_record.h"
#include "sqlite/stream_writer.h"

namespace cluster::sqlite {

using SharedBytes = std::shared_ptr<const std::string>;

class WalLeader {
 public:
  struct Events {
    /// Once: the fence is stored. Follow up to its sequence, then lead.
    std::function<void(const StreamRecord& fence)> fence_stored{};
    /// An append is in the stream for good; in order.
    std::function<void(const StreamRecord& record)> stored{};
    /// Another append may be given.
    std::function<void()> ready{};
    /// A higher epoch is in the stream. Nothing follows.
    std::function<void(std::uint64_t epoch)> fenced{};
    /// The stream has lost what it had acknowledged (it goes on with a gap), was emptied of what
    /// this node lacks, or is gone; or the server takes no message as large as one that is under
    /// way any more. Nothing more is appended.
    std::function<void(const Error& error)> lost{};
    /// Something failed, and is tried again.
    std::function<void(const Error& error)> trouble{};
    /// These messages of the stream, behind its newest record, are none of ours.
    std::function<void(std::uint64_t first, std::uint64_t last)> foreign{};
  };

  /// `writer`: unique to this lead. `own`: where this node's copy stands now; asked when the stream
  /// turns out to be empty. Begins with the fence.
  /// `history`: of the stream that this node has followed; it writes to no other.
  WalLeader(nats::JetStream& jetstream, std::string stream, std::string subject,
            std::uint64_t history, std::uint64_t epoch, std::string writer,
            std::function<StreamWriter::Own()> own, Events events);
  ~WalLeader();
  WalLeader(const WalLeader&) = delete;
  WalLeader& operator=(const WalLeader&) = delete;

  bool ready() const noexcept { return !lost_ && writer_.ready(); }
  std::size_t under_way() const noexcept { return writer_.under_way(); }
  const StreamWriter& writer() const noexcept { return writer_; }
  /// Only when ready().
  void append(StreamRecord record, SharedBytes bytes);

 private:
  using Command = StreamWriter::Command;

  void carry_out(StreamWriter::Output& out);
  void execute(const Command& command);
  void publish(const Command& command);
  void read_last();
  void read(const NewestRecord::Found& found);
  void lose(const Error& error);
  template <typename Fn>
  void decide(Fn&& fn);

  nats::JetStream& jetstream_;
  const std::string stream_;
  const std::string subject_;
  const std::uint64_t history_;
  const std::function<StreamWriter::Own()> own_;
  const Events events_;
  StreamWriter writer_;
  std::unique_ptr<NewestRecord> newest_;
  bool lost_ = false;
  std::map<StreamWriter::AppendId, SharedBytes> bytes_;
  std::map<std::uint64_t, LoopSource> delayed_;
  std::uint64_t last_delayed_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
