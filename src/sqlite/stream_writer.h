// Writes to a WAL stream as the leader of one epoch: the fence first, then what comes, a few
// appends deep; finds out what became of appends whose outcome is unknown. Pure: it is told what
// happened, and says what to do. docs/protocols.md, "The WAL stream".
//
// Each append states what it must follow. The first of those under way follows a record that is
// known to be stored: it states that one's sequence. The others follow one that may never be
// stored, and then its place may be taken by somebody else's record, a fence above all: they state
// their predecessor's id. (A sequence would not do: the simulator put an old leader's append behind
// the next one's fence, which had taken the sequence that it expected.)
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "sqlite/stream_record.h"

namespace cluster::sqlite {

class StreamWriter {
 public:
  /// Ids of appends, in order.
  using AppendId = std::uint64_t;

  enum class Phase {
    fencing,  ///< the fence is not stored yet
    open,     ///< takes appends
    fenced,   ///< a higher epoch is in the stream: all is over
  };

  enum class Outcome { stored, refused, unknown };

  struct Command {
    enum class Kind {
      read_last,  ///< find the stream's newest record, look_from() or later; answer with
                  ///< last_read(), empty_read() or read_failed()
      publish,    ///< append `record` behind what it states; answer: outcome()
    } kind{};
    AppendId id = 0;  ///< of publish; 0: the fence
    StreamRecord record{};
    std::uint64_t after_sequence = 0;  ///< of the stream's last message; with after_id: not stated
    std::string after_id{};            ///< of the stream's last message; empty: not stated
    int failures = 0;                  ///< in a row before it: wait a little longer each time
  };

  struct Output {
    std::vector<Command> commands{};
    std::vector<StreamRecord> stored{};  ///< appends that are in the stream for good, in order
    bool fence_stored = false;
    bool fenced = false;   ///< by fenced_by()
    bool rewound = false;  ///< the stream has lost what it had acknowledged
    bool emptied = false;  ///< the stream has no record any more, and this copy may lack some
  };

  /// Where this node's copy of the database stands, for a stream that somebody has purged.
  struct Own {
    CopyPosition copy{};
    std::uint64_t sequence = 0;  ///< it has all up to there
    std::uint64_t epoch = 0;     ///< the newest that was seen in the stream
  };

  /// `depth`: appends under way at the same time.
  StreamWriter(std::uint64_t epoch, std::string writer, std::size_t depth);

  /// Once, to begin: reads the end of the stream and appends the fence.
  void start(Output& out);
  Phase phase() const noexcept { return phase_; }
  /// Once open: the fence. Its `sequence` is how far to follow before leading, its `last` the
  /// transaction there.
  const StreamRecord& fence() const noexcept { return fence_; }
  std::uint64_t fenced_by() const noexcept { return fenced_by_; }

  /// Another append may be given.
  bool ready() const noexcept;
  /// Of transactions behind the last ones, or the next part of the same file. Only when ready().
  AppendId append(StreamRecord record, Output& out);
  std::size_t under_way() const noexcept { return appends_.size(); }
  /// The last record that is known to be stored: the fence at first.
  const StreamRecord& last_stored() const noexcept { return last_stored_; }

  void outcome(AppendId id, Outcome outcome, std::uint64_t sequence, Output& out);
  /// From where the newest record is to be looked for: what is before it is known.
  std::uint64_t look_from(const Own& own) const;
  /// The newest record. The stream ends at `end`: what stands behind the record is foreign.
  void last_read(const StreamRecord& last, std::uint64_t end, Output& out);
  /// There is no record, look_from() or later, up to `end`, where the stream ends (0: it never had
  /// a message). What stood up to `gone` is not there any more, or was not looked at.
  void empty_read(std::uint64_t gone, std::uint64_t end, const Own& own, Output& out);
  void read_failed(Output& out);

 private:
  enum class State { sent, stored, failed };
  struct Append {
    AppendId id = 0;
    StreamRecord record{};
    State state = State::sent;
  };

  void publish(std::size_t index, Output& out);
  void publish_fence(std::uint64_t end, const CopyPosition& before, Output& out);
  void send_again(std::uint64_t end, Output& out);
  void settle(Output& out);
  void read_last(Output& out);
  void take_stored(Output& out);
  void give_up(std::uint64_t epoch, Output& out);
  bool is_ours(const StreamRecord& record) const;

  const std::uint64_t epoch_;
  const std::string writer_;
  const std::size_t depth_;
  Phase phase_ = Phase::fencing;
  StreamRecord fence_;
  StreamRecord last_stored_;
  std::deque<Append> appends_;  // the oldest first
  std::uint64_t end_ = 0;       // sequence of the last message that is known to be stored
  AppendId last_id_ = 0;
  std::uint64_t attempts_ = 0;
  bool settling_ = false;  // something failed: nothing is sent until the stream's end was read
  bool reading_ = false;
  bool fence_sent_ = false;
  int failures_ = 0;
  bool first_refused_ = false;  // the first append under way, since the last read
  int reads_behind_ = 0;        // in a row that ended before what is known to be stored
  std::uint64_t fenced_by_ = 0;
};

}  // namespace cluster::sqlite
