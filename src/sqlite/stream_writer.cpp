#include "sqlite/stream_writer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "sqlite/mutants.h"

namespace cluster::sqlite {
namespace {

// That all of so many reads, further and further apart, are stale, is left to chance.
constexpr int kMostReadsBehind = 8;

}  // namespace

StreamWriter::StreamWriter(std::uint64_t epoch, std::string writer, std::size_t depth)
    : epoch_(epoch), writer_(std::move(writer)), depth_(depth) {
  CLUSTER_CHECK(epoch > 0 && depth > 0);
}

bool StreamWriter::is_ours(const StreamRecord& record) const {
  return record.epoch == epoch_ && record.writer == writer_;
}

void StreamWriter::start(Output& out) {
  CLUSTER_CHECK(phase_ == Phase::fencing && !reading_);
  read_last(out);
}

void StreamWriter::read_last(Output& out) {
  reading_ = true;
  out.commands.push_back({Command::Kind::read_last, 0, {}, 0, {}, failures_});
}

void StreamWriter::read_failed(Output& out) {
  if (!reading_ || phase_ == Phase::fenced) return;
  ++failures_;
  read_last(out);
}

void StreamWriter::give_up(std::uint64_t epoch, Output& out) {
  phase_ = Phase::fenced;
  fenced_by_ = epoch;
  out.fenced = true;
}

bool StreamWriter::ready() const noexcept {
  return phase_ == Phase::open && !settling_ && appends_.size() < depth_;
}

StreamWriter::AppendId StreamWriter::append(StreamRecord record, Output& out) {
  CLUSTER_CHECK(ready());
  record.epoch = epoch_;
  record.writer = writer_;
  appends_.push_back({++last_id_, std::move(record), State::sent});
  publish(appends_.size() - 1, out);
  return last_id_;
}

void StreamWriter::publish(std::size_t index, Output& out) {
  Append& append = appends_[index];
  append.state = State::sent;
  append.record.attempt = ++attempts_;
  Command command{Command::Kind::publish, append.id, append.record, end_, {}, failures_};
  if (index > 0) {
    command.after_sequence = 0;
    command.after_id = appends_[index - 1].record.id();
  }
  if (mutant(StreamMutation::sequences_only)) {
    command.after_id.clear();
    command.after_sequence = end_ + index;
  }
  out.commands.push_back(std::move(command));
}

void StreamWriter::publish_fence(std::uint64_t end, const CopyPosition& before, Output& out) {
  end_ = end;
  fence_ = {};
  fence_.epoch = epoch_;
  fence_.writer = writer_;
  fence_.fence = true;
  fence_.first = fence_.last = before.txid;
  fence_.before = fence_.hash = before.hash;
  fence_.epoch_before = before.epoch;
  fence_sent_ = true;
  fence_.attempt = ++attempts_;
  out.commands.push_back({Command::Kind::publish, 0, fence_, end_, {}, failures_});
}

void StreamWriter::outcome(AppendId id, Outcome outcome, std::uint64_t sequence, Output& out) {
  if (phase_ == Phase::fenced) return;
  if (phase_ == Phase::fencing) {
    if (id != 0 || !fence_sent_) return;
    fence_sent_ = false;
    if (outcome != Outcome::stored) {
      if (outcome == Outcome::unknown) ++failures_;
      return read_last(out);
    }
    failures_ = 0;
    fence_.sequence = end_ = sequence;
    last_stored_ = fence_;
    phase_ = Phase::open;
    out.fence_stored = true;
    return;
  }
  auto it = std::find_if(appends_.begin(), appends_.end(),
                         [&](const Append& append) { return append.id == id; });
  if (it == appends_.end() || it->state != State::sent) return;
  if (mutant(StreamMutation::unknown_is_stored) && outcome == Outcome::unknown) {
    outcome = Outcome::stored;
    sequence = last_stored_.sequence + 1 + static_cast<std::uint64_t>(it - appends_.begin());
  }
  if (outcome == Outcome::stored) {
    it->state = State::stored;
    it->record.sequence = sequence;
    if (!settling_) failures_ = 0;
    // In order: what comes behind one that has failed can't have been stored.
    take_stored(out);
  } else {
    it->state = State::failed;
    settling_ = true;
    if (outcome == Outcome::refused && it == appends_.begin()) first_refused_ = true;
    if (outcome == Outcome::unknown) ++failures_;
  }
  settle(out);
}

void StreamWriter::take_stored(Output& out) {
  while (!appends_.empty() && appends_.front().state == State::stored) {
    if (appends_.front().record.sequence <= last_stored_.sequence) out.rewound = true;
    last_stored_ = appends_.front().record;
    reads_behind_ = 0;
    end_ = last_stored_.sequence;
    out.stored.push_back(last_stored_);
    appends_.pop_front();
  }
}

// Reads the end of the stream once the outcomes of all that was sent are in, as far as they come.
void StreamWriter::settle(Output& out) {
  if (!settling_ || reading_) return;
  const bool all_in = std::none_of(appends_.begin(), appends_.end(), [](const Append& append) {
    return append.state == State::sent;
  });
  if (all_in) read_last(out);
}

// The record up to where it is known is wanted, too: a copy may have more than it says.
std::uint64_t StreamWriter::look_from(const Own& own) const {
  if (phase_ == Phase::open) return last_stored_.sequence;
  if (mutant(StreamMutation::look_behind_own)) return own.sequence + 1;
  return std::max<std::uint64_t>(own.sequence, 1);
}

void StreamWriter::last_read(const StreamRecord& last, std::uint64_t end, Output& out) {
  if (!reading_ || phase_ == Phase::fenced) return;
  reading_ = false;
  if (mutant(StreamMutation::expect_record)) end = last.sequence;
  if (!mutant(StreamMutation::ignore_epoch) &&
      (last.epoch > epoch_ || (last.epoch == epoch_ && last.writer != writer_)))
    return give_up(last.epoch, out);
  if (phase_ == Phase::fencing) {
    if (is_ours(last)) {  // an answer was lost
      failures_ = 0;
      fence_ = last_stored_ = last;
      end_ = end;
      phase_ = Phase::open;
      out.fence_stored = true;
      return;
    }
    // A file that is not whole never counts.
    const bool whole = last.final || mutant(StreamMutation::unfinished_counts);
    const CopyPosition before = whole ? CopyPosition{last.epoch, last.last, last.hash}
                                      : CopyPosition{last.epoch, last.first - 1, last.before};
    return publish_fence(end, before, out);
  }
  // The newest record is one of ours: it and all before it are stored, one behind the other, since
  // each of those under way follows just what it states. If it is none of those under way, none of
  // them is, as far as this read knows; it may be an old one, and then sending again is refused.
  auto at = appends_.end();
  if (is_ours(last))
    at = std::find_if(appends_.begin(), appends_.end(), [&](const Append& append) {
      return append.record.last == last.last && append.record.part == last.part && !last.fence;
    });
  if (at != appends_.end()) {
    std::uint64_t sequence = last.sequence - static_cast<std::uint64_t>(at - appends_.begin());
    for (auto it = appends_.begin(); it != at + 1; ++it) {
      it->state = State::stored;
      it->record.sequence = sequence++;
    }
    take_stored(out);
  }
  send_again(end, out);
}

// With messages purged, what stood last is known from the own copy, if that has all of it.
void StreamWriter::empty_read(std::uint64_t gone, std::uint64_t end, const Own& own, Output& out) {
  if (!reading_ || phase_ == Phase::fenced) return;
  reading_ = false;
  const std::uint64_t newest = std::max(own.copy.epoch, own.epoch);
  if (newest > epoch_) return give_up(newest, out);
  if (phase_ == Phase::open) {
    // What came behind the last that is known to be stored is purged: whose it was can't be told.
    if (gone > last_stored_.sequence) {
      out.emptied = true;
      return;
    }
    return send_again(end, out);
  }
  // Was it this one's fence that is purged? Another lead will tell.
  if (newest == epoch_) {
    out.emptied = true;
    return;
  }
  if (gone == 0) return publish_fence(end, {}, out);
  if (own.sequence >= gone || mutant(StreamMutation::trust_any_copy))
    return publish_fence(end, own.copy, out);
  out.emptied = true;
}

// A read may be stale: what is known to be stored is expected all the same. Where the stream has
// lost it, that is refused for ever: nothing may be appended behind the gap, so that the next
// leader's fence names what is there, and what is missing is appended behind it.
void StreamWriter::send_again(std::uint64_t end, Output& out) {
  // Without an answer to the append only the read is late: a stream may have no leader for long.
  const bool refused = std::exchange(first_refused_, false);
  if (end < last_stored_.sequence) {
    ++failures_;
    if (refused && ++reads_behind_ >= kMostReadsBehind) {
      out.rewound = true;
      return;
    }
  } else {
    reads_behind_ = 0;
  }
  settling_ = false;
  end_ = std::max(end, last_stored_.sequence);
  for (std::size_t i = 0; i < appends_.size(); ++i) publish(i, out);
}

}  // namespace cluster::sqlite
