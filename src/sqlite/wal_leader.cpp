#include "sqlite/wal_leader.h"

#include <algorithm>

#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kDepth = 4;
constexpr Duration kAnswerLimit = milliseconds(2'000);
constexpr Duration kFirstWait = milliseconds(20);
constexpr Duration kLongestAppendWait = milliseconds(1'000);

Duration wait_after(int failures) {
  return failures == 0 ? Duration(0)
                       : std::min<Duration>(kLongestAppendWait,
                                            kFirstWait * (1 << std::min(failures - 1, 10)));
}

}  // namespace

WalLeader::WalLeader(nats::JetStream& jetstream, std::string stream, std::string subject,
                     std::uint64_t history, std::uint64_t epoch, std::string writer,
                     std::function<StreamWriter::Own()> own, Events events)
    : jetstream_(jetstream),
      stream_(std::move(stream)),
      subject_(std::move(subject)),
      history_(history),
      own_(std::move(own)),
      events_(std::move(events)),
      writer_(epoch, std::move(writer), kDepth) {
  // What it calls back for comes later: its owner may still be at work on its construction.
  jetstream_.connection().defer([this, alive = alive_] {
    if (*alive) decide([this](StreamWriter::Output& out) { writer_.start(out); });
  });
}

WalLeader::~WalLeader() { *alive_ = false; }

template <typename Fn>
void WalLeader::decide(Fn&& fn) {
  StreamWriter::Output out;
  fn(out);
  carry_out(out);
}

void WalLeader::append(StreamRecord record, SharedBytes bytes) {
  decide([&](StreamWriter::Output& out) {
    const auto id = writer_.append(std::move(record), out);
    bytes_.emplace(id, std::move(bytes));
  });
}

// A callback may end this object: after each, that is asked.
void WalLeader::carry_out(StreamWriter::Output& out) {
  const auto alive = alive_;
  if (lost_) return;
  if (out.rewound)
    return lose(Error(Errc::corrupt, "stream " + stream_ +
                                         " has lost records that it had acknowledged: its servers "
                                         "failed one after the other, or lost their disks; whoever "
                                         "leads next appends what its database has"));
  if (out.emptied)
    return lose(Error(Errc::corrupt,
                      "stream " + stream_ +
                          " was purged of records that this node's database lacks: let a node lead "
                          "that has them"));
  for (const auto& command : out.commands) execute(command);
  for (const auto& record : out.stored) {
    if (!*alive) return;
    bytes_.erase(bytes_.begin());  // ids grow, and appends are stored in order
    if (events_.stored) events_.stored(record);
  }
  if (!*alive) return;
  if (out.fence_stored && events_.fence_stored) events_.fence_stored(writer_.fence());
  if (!*alive) return;
  if (out.fenced) {
    delayed_.clear();
    bytes_.clear();
    if (events_.fenced) events_.fenced(writer_.fenced_by());
    return;
  }
  if (writer_.ready() && (out.fence_stored || !out.stored.empty()) && events_.ready)
    events_.ready();
}

void WalLeader::execute(const Command& command) {
  const Duration wait = wait_after(command.failures);
  auto run = [this, command] {
    command.kind == Command::Kind::publish ? publish(command) : read_last();
  };
  if (wait == Duration(0)) return run();
  const auto id = ++last_delayed_;
  delayed_[id] = jetstream_.connection().loop().after(wait, [this, id, run] {
    auto source = delayed_.extract(id);
    run();
  });
}

void WalLeader::publish(const Command& command) {
  nats::Message message;
  message.subject = subject_;
  message.headers = headers_of(command.record);
  if (auto it = bytes_.find(command.id); it != bytes_.end()) message.shared = it->second;
  const auto max_payload = jetstream_.connection().server().max_payload;
  const std::size_t bytes = message.payload().size();
  if (!fits(bytes, command.record.writer, max_payload))
    return lose(Error(
        Errc::invalid_argument,
        "a message of " + std::to_string(bytes) + " bytes for stream " + stream_ +
            " is over the max_payload of " + std::to_string(max_payload) +
            " of the NATS server that this node is connected to now: whoever leads next sends "
            "smaller ones; raise max_payload in nats-server's configuration, to 4096 at least and "
            "the same on all servers"));
  nats::Expect expect;
  if (command.after_id.empty())
    expect.last_sequence = command.after_sequence;
  else
    expect.last_message_id = command.after_id;
  jetstream_.publish(
      std::move(message), std::move(expect), kAnswerLimit,
      [this, alive = alive_, id = command.id](Result<nats::PubAck> ack) {
        if (!*alive || lost_) return;
        auto outcome = StreamWriter::Outcome::stored;
        if (!ack && ack.error().errc() == Errc::wrong_revision) {
          outcome = StreamWriter::Outcome::refused;
        } else if (!ack) {
          outcome = StreamWriter::Outcome::unknown;
          if (events_.trouble) events_.trouble(ack.error());
          if (!*alive) return;
        }
        const auto sequence = ack ? ack.value().sequence : 0;
        decide([&](StreamWriter::Output& out) { writer_.outcome(id, outcome, sequence, out); });
      });
}

void WalLeader::lose(const Error& error) {
  lost_ = true;
  delayed_.clear();
  bytes_.clear();
  if (events_.lost) events_.lost(error);
}

void WalLeader::read_last() {
  newest_ = std::make_unique<NewestRecord>(
      jetstream_, stream_, writer_.look_from(own_()), [this](Result<NewestRecord::Found> found) {
        if (lost_) return;
        if (found) return read(found.value());
        if (found.error().errc() == Errc::not_found)
          return lose(
              Error(Errc::not_found, "stream " + stream_ + " is gone: somebody has deleted it"));
        const auto alive = alive_;
        if (events_.trouble) events_.trouble(found.error());
        if (*alive) decide([&](StreamWriter::Output& out) { writer_.read_failed(out); });
      });
}

void WalLeader::read(const NewestRecord::Found& found) {
  // What stands there now goes on from nothing of ours.
  if (found.history != 0 && found.history != history_)
    return lose(Error(Errc::corrupt, "stream " + stream_ +
                                         " is another one than it was: somebody has deleted it, "
                                         "and it was made anew"));
  const auto alive = alive_;
  const std::uint64_t record = found.record ? found.record->sequence : found.gone;
  if (found.end > record && events_.foreign) events_.foreign(record + 1, found.end);
  if (!*alive) return;
  decide([&](StreamWriter::Output& out) {
    found.record ? writer_.last_read(*found.record, found.end, out)
                 : writer_.empty_read(found.gone, found.end, own_(), out);
  });
}

}  // namespace cluster::sqlite
