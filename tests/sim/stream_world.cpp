#include "sim/stream_world.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <utility>
#include <vector>

#include "sim/world.h"
#include "sqlite/mutants.h"
#include "sqlite/stream_reader.h"
#include "sqlite/stream_writer.h"

namespace cluster::sqlite {
thread_local StreamMutation active_stream_mutation = StreamMutation::none;
}

namespace cluster::sim {
namespace {

using namespace cluster::sqlite;

constexpr int kNodes = 3;
constexpr std::size_t kTrace = 200;

/// A transaction writes one value that nobody else writes.
using Value = std::uint64_t;

std::uint64_t hash_after(std::uint64_t before, Value value) {
  return (before * 0x9e3779b97f4a7c15ULL + value) ^ (before >> 29) ^ 1;
}

/// A database: its transactions, each with the content's hash then and the epoch it is of.
struct Database {
  struct Transaction {
    Value value = 0;
    std::uint64_t hash = 0;
    std::uint64_t epoch = 0;
  };
  std::vector<Transaction> all;

  void commit(Value value, std::uint64_t epoch) {
    all.push_back({value, hash_after(hash(), value), epoch});
  }
  /// Its last transaction counts as committed under that epoch.
  void claim(std::uint64_t epoch) {
    if (!all.empty()) all.back().epoch = epoch;
  }
  Txid txid() const { return all.size(); }
  std::uint64_t hash() const { return all.empty() ? 0 : all.back().hash; }
  std::optional<std::uint64_t> hash_at(Txid txid) const {
    if (txid > all.size()) return std::nullopt;
    return txid == 0 ? 0 : all[txid - 1].hash;
  }
  CopyPosition position() const { return {all.empty() ? 0 : all.back().epoch, txid(), hash()}; }
};

/// A message: the record and, of its file's last part, all values (a real part has some of the
/// bytes; which ones must not matter, only that all parts are of one file).
struct Stored {
  StreamRecord record;
  std::vector<Value> values;
  std::uint64_t file = 0;  // which file its part is of
  bool foreign = false;    // no record: somebody else has published it
};

struct Node {
  bool running = true;
  bool paused = false;
  std::uint64_t incarnation = 0;
  Database database;
  // Following
  std::unique_ptr<StreamReader> reader;
  std::uint64_t kept_file = 0;
  std::uint32_t kept_parts = 0;
  bool kept_mixed = false;
  std::uint64_t seen = 0;     // the newest epoch in the stream
  std::uint64_t has = 0;      // all of the stream up to there is in the database; noted beside it
  std::uint64_t fetched = 0;  // how far the stream was delivered
  // Leading
  std::unique_ptr<StreamWriter> writer;
  bool leads = false;
  std::uint64_t epoch = 0;
  Txid shipped = 0;  // appended so far
  struct Pending {
    Txid first, last;
    std::uint32_t part, parts;
    std::uint64_t file;
  };
  std::optional<Pending> rest;  // of a file with parts
  std::map<StreamWriter::AppendId, Stored> appends;
  std::deque<std::function<void()>> backlog;
};

class StreamWorld {
 public:
  StreamWorld(std::uint64_t seed, bool keep_trace) : random_(seed), keep_trace_(keep_trace) {
    for (int i = 0; i < kNodes; ++i) follow(i);
    loss_ = random_.chance(0.5) ? 0.0 : random_.unit() * 0.3;
    late_ = random_.chance(0.5) ? 0.0 : random_.unit() * 0.3;
    stale_ = random_.chance(0.5) ? 0.0 : random_.unit() * 0.5;
    trims_ = random_.unit();
    purges_ = seed % 2 == 0 ? 0.0 : Random(~seed).unit();
    foreigns_ = seed % 3 == 0 ? 0.0 : Random(seed + 1'000'000).unit();
    depth_ = 1 + random_.below(6);
  }

  StreamOutcome run() {
    schedule(0, [this] { chaos(); });
    schedule(0, [this] { clients(); });
    for (int i = 0; i < kNodes; ++i) schedule(0, [this, i] { pump(i); });
    const Nanos end = static_cast<Nanos>(kStreamSeconds) * kSecond;
    const Nanos healing = end - 60 * kSecond;
    schedule(healing, [this] { heal(); });
    while (!queue_.empty() && violation_.empty() && now_ < end) step();
    if (violation_.empty()) check_end();
    StreamOutcome outcome;
    outcome.violation = violation_;
    outcome.steps = steps_;
    outcome.digest = digest_;
    outcome.acknowledged = acknowledged_.size();
    outcome.promotions = promotions_;
    outcome.divergences = divergences_;
    outcome.mistaken = mistaken_;
    outcome.emptied = emptied_;
    outcome.foreign = foreign_;
    for (const auto& line : trace_) outcome.trace += line + "\n";
    return outcome;
  }

 private:
  // ---- time

  void schedule(Nanos delay, std::function<void()> what) {
    queue_.push({now_ + delay, ++order_, std::move(what)});
  }
  void step() {
    auto event = queue_.top();
    queue_.pop();
    now_ = event.at;
    ++steps_;
    digest_ = hash_after(digest_, static_cast<std::uint64_t>(now_));
    event.what();
  }
  /// Reaches the node unless it has been restarted meanwhile; waits while it is paused.
  void deliver(int node, Nanos delay, std::function<void()> what) {
    const auto incarnation = nodes_[node].incarnation;
    schedule(delay, [this, node, incarnation, what = std::move(what)] {
      auto& n = nodes_[node];
      if (!n.running || n.incarnation != incarnation) return;
      if (n.paused)
        n.backlog.push_back([this, node, incarnation, what] {
          if (nodes_[node].running && nodes_[node].incarnation == incarnation) what();
        });
      else
        what();
    });
  }
  Nanos delay() { return random_.between(kMillisecond / 10, 3 * kMillisecond); }
  void note(const std::string& line) {
    if (!keep_trace_) return;
    trace_.push_back(std::to_string(now_ / kMillisecond) + " ms  " + line);
    if (trace_.size() > kTrace) trace_.pop_front();
  }
  void violate(const std::string& what) {
    if (violation_.empty()) violation_ = what;
    note("VIOLATION " + what);
  }
  static std::string text(const StreamRecord& r) {
    return "epoch " + std::to_string(r.epoch) + (r.fence ? " fence at " : " transactions ") +
           std::to_string(r.first) + "-" + std::to_string(r.last) + " part " +
           std::to_string(r.part) + (r.final ? " (last)" : "") + " seq " +
           std::to_string(r.sequence);
  }

  // ---- the stream

  bool away() const { return now_ < away_until_; }

  /// The answer comes by `done`, or never: then the caller's time limit passes.
  void publish(int node, Stored message, std::uint64_t after, const std::string& after_id,
               std::function<void(StreamWriter::Outcome, std::uint64_t)> done) {
    using Outcome = StreamWriter::Outcome;
    const bool lost = random_.chance(loss_ / 2);
    const bool late = random_.chance(late_);
    const bool answer_lost = random_.chance(loss_);
    auto land = [this, node, message, after, after_id, done, lost, answer_lost, late] {
      if (lost || (away() && !late)) return;  // nothing was stored, nobody answers
      const std::uint64_t end = stream_.size();
      const bool follows = after_id.empty() ? after == end
                                            : end > 0 && !stream_.back().foreign &&
                                                  stream_.back().record.id() == after_id;
      const bool fits = follows || mutant(StreamMutation::expect_nothing);
      std::uint64_t sequence = 0;
      if (fits) {
        Stored stored = message;
        stored.record.sequence = sequence = end + 1;
        stream_.push_back(stored);
        note("stored   " + text(stored.record) + " by node " + std::to_string(node));
        check_stream(node);
      }
      if (answer_lost) return;
      deliver(node, delay(), [done, fits, sequence] {
        done(fits ? Outcome::stored : Outcome::refused, sequence);
      });
    };
    schedule(late ? random_.between(kMillisecond, 3 * kSecond) : delay(), land);
    deliver(node, 500 * kMillisecond, [done] { done(Outcome::unknown, 0); });
  }

  // ---- leading

  void promote(int index) {
    auto& n = nodes_[index];
    if (!n.running || n.writer) return;
    n.epoch = ++epochs_;
    n.leads = false;
    n.rest.reset();
    n.appends.clear();
    n.writer = std::make_unique<StreamWriter>(n.epoch, "w" + std::to_string(n.epoch), depth_);
    note("promote  node " + std::to_string(index) + " epoch " + std::to_string(n.epoch));
    StreamWriter::Output out;
    n.writer->start(out);
    carry_out(index, out);
    if (mutant(StreamMutation::skip_fence)) {
      n.leads = true;
      n.shipped = n.database.txid();
    }
  }

  void demote(int index) {
    auto& n = nodes_[index];
    if (!n.writer) return;
    note("demote   node " + std::to_string(index));
    n.writer.reset();
    n.leads = false;
    follow(index);
  }

  /// What a node finds that sees the stream up to `end`.
  void read_end(int index, std::uint64_t end, StreamWriter::Output& out) {
    auto& n = nodes_[index];
    const StreamWriter::Own own{n.database.position(), n.has, n.seen};
    // An old end may be before what is known, and still have what is trimmed.
    const std::uint64_t known = n.writer->look_from(own), from = end < known ? 1 : known;
    const std::uint64_t trimmed = end < stream_.size() ? 0 : trimmed_;
    for (std::uint64_t at = end; at >= from && at > trimmed; --at)
      if (!stream_[at - 1].foreign) return n.writer->last_read(stream_[at - 1].record, end, out);
    const std::uint64_t gone = std::min(end, std::max(trimmed, from - 1));
    if (gone > 0 && n.writer->phase() == StreamWriter::Phase::fencing) ++emptied_;
    n.writer->empty_read(gone, end, own, out);
  }

  void carry_out(int index, StreamWriter::Output& out) {
    auto& n = nodes_[index];
    const auto epoch = n.epoch;
    auto still = [this, index, epoch] {
      return nodes_[index].writer != nullptr && nodes_[index].epoch == epoch;
    };
    for (const auto& record : out.stored) acknowledge(index, record);
    if (out.rewound) {
      // So many stale reads, and another leader's fence: to give up is safe, if it is rare.
      if (stale_ == 0) return violate("the stream never loses anything, yet a writer thinks so");
      ++mistaken_;
      note("rewound  it seems to node " + std::to_string(index));
      return demote(index);
    }
    if (out.emptied) {
      note("lacks what was purged: node " + std::to_string(index));
      return demote(index);
    }
    for (auto& command : out.commands) {
      const Nanos wait = std::min<Nanos>(kSecond, command.failures * 20 * kMillisecond);
      if (command.kind == StreamWriter::Command::Kind::read_last) {
        deliver(index, wait + delay(), [this, index, still] {
          if (!still()) return;
          StreamWriter::Output next;
          if (away() || random_.chance(loss_)) {
            nodes_[index].writer->read_failed(next);
          } else {
            const std::uint64_t back = random_.chance(stale_) ? random_.below(8) : 0;
            const std::uint64_t end = stream_.size() > back ? stream_.size() - back : 0;
            read_end(index, end, next);
          }
          carry_out(index, next);
        });
        continue;
      }
      Stored message;
      if (command.id != 0) message = n.appends[command.id];
      message.record = command.record;
      auto answered = std::make_shared<bool>(false);
      deliver(index, wait, [this, index, still, answered, message, command] {
        publish(index, message, command.after_sequence, command.after_id,
                [this, index, still, answered, command](StreamWriter::Outcome outcome,
                                                        std::uint64_t sequence) {
                  if (std::exchange(*answered, true) || !still()) return;
                  StreamWriter::Output next;
                  nodes_[index].writer->outcome(command.id, outcome, sequence, next);
                  carry_out(index, next);
                });
      });
    }
    if (out.fence_stored) note("fenced   by node " + std::to_string(index));
    if (out.fenced) {
      note("gives up node " + std::to_string(index));
      demote(index);
    }
  }

  /// Once the fence stands, and all before it is here.
  void try_to_lead(int index) {
    auto& n = nodes_[index];
    if (!n.writer || n.leads || n.writer->phase() != StreamWriter::Phase::open) return;
    const auto& fence = n.writer->fence();
    std::uint64_t claimed_from = n.database.position().epoch;
    if (!mutant(StreamMutation::lead_before_fence)) {
      if (n.fetched + 1 < fence.sequence) return;
      switch (inheritance(n.database.position(), fence, n.database.hash_at(fence.last))) {
        case Inheritance::behind:
          // Unless what it has not followed yet is gone from the stream.
          if (trimmed_ < fence.sequence - 1)
            return violate("followed up to the fence, and still behind it");
          return start_over(index, "the stream before its fence is gone");
        case Inheritance::diverged: return start_over(index, "at its own fence");
        case Inheritance::whole: break;
        case Inheritance::ahead:
          // Its own fence must not condemn it if this lead ends before any of it is sent.
          claimed_from = n.database.position().epoch;
          n.database.claim(n.epoch);
          break;
      }
    }
    n.leads = true;
    n.shipped = fence.last;
    ++promotions_;
    note("leads    node " + std::to_string(index) + " with " + std::to_string(n.database.txid()) +
         " transactions, " + std::to_string(fence.last) + " in the stream");
    if (n.database.txid() > fence.last) {
      // What it has left over may follow what it led itself, and nobody else since.
      auto at = fence.sequence - 1;
      while (at > 0 && stream_[at - 1].foreign) --at;
      const auto before = at == 0 ? 0 : stream_[at - 1].record.epoch;
      if (claimed_from != before)
        return violate("node " + std::to_string(index) + " inherits transactions of epoch " +
                       std::to_string(claimed_from) + " behind epoch " + std::to_string(before));
    }
    std::set<Value> here;
    for (const auto& transaction : n.database.all) here.insert(transaction.value);
    // Others may have gone on behind its fence already, if it is fenced itself and can't know.
    for (const auto& [value, sequence] : acknowledged_)
      if (sequence < fence.sequence && !here.contains(value))
        return violate("node " + std::to_string(index) +
                       " leads without an acknowledged transaction");
  }

  void commit(int index) {
    auto& n = nodes_[index];
    n.database.commit(++values_, n.epoch);
    ship(index);
  }

  void ship(int index) {
    auto& n = nodes_[index];
    while (n.writer && n.leads && n.writer->ready() && (n.rest || n.shipped < n.database.txid())) {
      if (!n.rest) {
        const Txid last = n.shipped + 1 + random_.below(n.database.txid() - n.shipped);
        const auto parts =
            static_cast<std::uint32_t>(random_.chance(0.2) ? 2 + random_.below(3) : 1);
        n.rest = Node::Pending{n.shipped + 1, last, 1, parts, ++files_};
      }
      auto& rest = *n.rest;
      Stored message;
      message.file = rest.file;
      for (Txid t = rest.first; t <= rest.last; ++t)
        message.values.push_back(n.database.all[t - 1].value);
      StreamRecord record;
      record.first = rest.first;
      record.last = rest.last;
      record.part = rest.part;
      record.final = rest.part == rest.parts;
      record.before = *n.database.hash_at(rest.first - 1);
      record.hash = *n.database.hash_at(rest.last);
      if (record.final) {
        n.shipped = rest.last;
        n.rest.reset();
      } else {
        ++rest.part;
      }
      StreamWriter::Output out;
      n.appends[n.writer->append(record, out)] = message;
      carry_out(index, out);
    }
  }

  void acknowledge(int index, const StreamRecord& record) {
    if (!record.final) return;
    const auto& database = nodes_[index].database;
    nodes_[index].has = record.sequence;
    for (Txid t = record.first; t <= record.last; ++t)
      acknowledged_[database.all[t - 1].value] = record.sequence;
    if (record.sequence == 0 || record.sequence > stream_.size())
      violate("acknowledged what the stream has not: " + text(record));
    else if (const auto& at = stream_[record.sequence - 1].record;
             at.epoch != record.epoch || at.last != record.last || at.part != record.part)
      violate("acknowledged " + text(record) + ", but there stands " + text(at));
  }

  // ---- following

  void follow(int index) {
    auto& n = nodes_[index];
    n.reader = std::make_unique<StreamReader>(n.database.position());
    n.fetched = trimmed_;
    n.kept_file = 0;
    n.kept_parts = 0;
    n.kept_mixed = false;
  }

  void start_over(int index, const std::string& why) {
    note("diverged node " + std::to_string(index) + ": " + why);
    ++divergences_;
    nodes_[index].database = snapshot_;
    follow(index);
    nodes_[index].fetched = nodes_[index].has = snapshot_sequence_;
  }

  /// The stream's beginning goes, but not its last record; what it held is in the snapshot.
  void trim() {
    if (history_.parts.empty()) {
      snapshot_ = canon_;
      snapshot_sequence_ = last_record();
      note("snapshot at " + std::to_string(snapshot_.txid()));
    }
    if (trimmed_ >= last_record()) return;
    const auto most = std::min<std::uint64_t>(snapshot_sequence_, last_record() - 1);
    if (most > trimmed_) trimmed_ += random_.below(most - trimmed_ + 1);
  }
  /// Up to `at`. Its sequence; where it is purged, what is known to be gone.
  std::uint64_t last_record() const { return last_record(stream_.size()); }
  std::uint64_t last_record(std::uint64_t at) const {
    while (at > trimmed_ && stream_[at - 1].foreign) --at;
    return at;
  }
  void publish_foreign() {
    Stored message;
    message.foreign = true;
    message.record.sequence = stream_.size() + 1;
    stream_.push_back(message);
    ++foreign_;
    note("foreign  message " + std::to_string(stream_.size()));
  }

  /// All of it goes, and it still counts on from there. A snapshot has all; and some node must have
  /// it to lead.
  void purge() {
    if (!history_.parts.empty() || stream_.empty() || stream_.back().foreign) return;
    bool whole = false;
    for (const auto& n : nodes_) whole = whole || (n.running && n.has == stream_.size());
    if (!whole) return;
    snapshot_ = canon_;
    snapshot_sequence_ = trimmed_ = stream_.size();
    note("purged up to " + std::to_string(trimmed_));
  }

  /// The next message of the stream, now and then several.
  void pump(int index) {
    deliver_next(index);
    schedule(delay(), [this, index] { pump(index); });
  }
  void deliver_next(int index) {
    auto& n = nodes_[index];
    if (!n.running || n.paused) return;
    // A leader reads on only up to its fence.
    auto limit = static_cast<std::uint64_t>(stream_.size());
    if (n.writer) {
      if (n.leads) return ship(index);
      if (n.writer->phase() == StreamWriter::Phase::open) limit = n.writer->fence().sequence - 1;
    }
    n.fetched = std::max(n.fetched, std::min(trimmed_, limit));
    for (std::uint64_t count = random_.below(20); count > 0 && n.fetched < limit; --count) {
      take(index, stream_[n.fetched++]);
      if (!violation_.empty()) return;
    }
    try_to_lead(index);
    ship(index);
  }

  void take(int index, const Stored& message) {
    auto& n = nodes_[index];
    if (message.foreign) return;
    const auto verdict = n.reader->next(message.record);
    using Kind = StreamReader::Kind;
    switch (verdict.kind) {
      case Kind::skip: break;
      case Kind::invalid: return violate("invalid: " + text(message.record) + ": " + verdict.why);
      case Kind::gap:
        if (trimmed_ == 0 && message.record.part == 1)
          return violate("a gap in a stream that is whole: " + text(message.record));
        return start_over(index, verdict.why);
      case Kind::diverged: return start_over(index, verdict.why);
      case Kind::keep:
      case Kind::apply:
        if (verdict.begins)
          n.kept_file = message.file, n.kept_parts = 0, n.kept_mixed = false;
        else if (n.kept_file != message.file)
          n.kept_mixed = true;
        ++n.kept_parts;
        if (verdict.kind == Kind::keep) break;
        if (n.kept_parts != message.record.part)
          return violate("put together without all parts: " + text(message.record));
        if (n.kept_mixed)
          return violate("put together parts of different files: " + text(message.record));
        if (message.record.before != n.database.hash())
          return violate("applied to another content: " + text(message.record));
        for (Value value : message.values) n.database.commit(value, message.record.epoch);
        n.reader->applied(message.record);
        break;
    }
    // What the reader kept counts once its last part is there.
    if (verdict.kind != Kind::keep) n.has = std::max(n.has, message.record.sequence);
    n.seen = std::max(n.seen, message.record.epoch);
    check_copy(index);
  }

  // ---- what must hold, told from the stream alone

  struct History {
    std::vector<Value> values;
    std::vector<StreamRecord> parts;
    std::uint64_t epoch = 0;
  };

  /// What the leader had committed and not appended, before the stream was purged: it goes on from
  /// there, and others get it by the snapshot that a leader takes then.
  void take_over_own(const StreamRecord& fence, int node) {
    const auto& all = nodes_[node].database.all;
    for (Txid t = history_.values.size() + 1; t <= fence.last; ++t) {
      history_.values.push_back(all[t - 1].value);
      canon_.commit(all[t - 1].value, all[t - 1].epoch);
    }
    snapshot_ = canon_;
    snapshot_sequence_ = fence.sequence;
  }

  void check_stream(int node) {
    const auto& message = stream_.back();
    const auto& r = message.record;
    if (r.epoch < history_.epoch)
      return violate("an older leader appended behind a newer one: " + text(r));
    if (r.fence) {
      if (r.epoch == history_.epoch) return violate("two fences of an epoch");
      history_.epoch = r.epoch;
      history_.parts.clear();
      if (r.last > history_.values.size() && last_record(r.sequence - 1) == trimmed_)
        take_over_own(r, node);
      if (r.last != history_.values.size()) violate("a fence at another transaction: " + text(r));
      return;
    }
    if (r.epoch != history_.epoch) return violate("appended without a fence: " + text(r));
    if (r.part == 1) history_.parts.clear();
    if (r.part != history_.parts.size() + 1) return violate("parts out of order: " + text(r));
    history_.parts.push_back(r);
    if (!r.final) return;
    history_.parts.clear();
    if (r.first != history_.values.size() + 1)
      return violate("transactions do not follow: " + text(r));
    for (Value value : message.values) {
      history_.values.push_back(value);
      canon_.commit(value, r.epoch);
    }
  }

  /// A database that has seen an epoch above its own is a part of the history.
  void check_copy(int index) {
    const auto& n = nodes_[index];
    if (n.reader->epoch() <= n.database.position().epoch) return;
    check_prefix(index);
  }
  void check_prefix(int index) {
    const auto& all = nodes_[index].database.all;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (i >= history_.values.size() || all[i].value != history_.values[i])
        return violate("node " + std::to_string(index) + " has another transaction " +
                       std::to_string(i + 1) + " than the stream");
  }

  void check_end() {
    if (promotions_ == 0) return violate("nobody ever led");
    for (int i = 0; i < kNodes; ++i) {
      check_prefix(i);
      if (nodes_[i].database.txid() != history_.values.size())
        violate("node " + std::to_string(i) + " has " + std::to_string(nodes_[i].database.txid()) +
                " transactions in the end, the stream " + std::to_string(history_.values.size()));
    }
    std::set<Value> in_stream(history_.values.begin(), history_.values.end());
    for (const auto& [value, sequence] : acknowledged_)
      if (!in_stream.contains(value)) violate("an acknowledged transaction is lost");
    if (history_.values.size() <= values_at_heal_)
      violate("nothing was stored after all had healed");
  }

  // ---- what happens

  void chaos() {
    if (healed_) return;
    const int index = static_cast<int>(random_.below(kNodes));
    auto& n = nodes_[index];
    switch (random_.below(10)) {
      case 0:
      case 1:
      case 2: promote(index); break;
      case 3: demote(index); break;
      case 4:
        if (n.running) crash(index);
        break;
      case 5:
        if (!n.running) start(index);
        if (random_.chance(trims_)) trim();
        break;
      case 6:
        n.paused = true;
        note("paused   node " + std::to_string(index));
        schedule(random_.between(kMillisecond, 5 * kSecond), [this, index] { resume(index); });
        break;
      case 7:
        if (random_.chance(trims_)) trim();
        if (random_.chance(0.3)) away_until_ = now_ + random_.between(kMillisecond, 4 * kSecond);
        break;
      case 8:
        if (random_.chance(purges_)) purge();
        break;
      case 9:
        if (random_.chance(foreigns_)) publish_foreign();
        break;
      default: break;
    }
    schedule(random_.between(kMillisecond, 400 * kMillisecond), [this] { chaos(); });
  }
  void crash(int index) {
    auto& n = nodes_[index];
    note("crash    node " + std::to_string(index));
    n.running = false;
    n.paused = false;
    ++n.incarnation;
    n.writer.reset();
    n.leads = false;
    n.backlog.clear();
  }
  void start(int index) {
    auto& n = nodes_[index];
    note("start    node " + std::to_string(index));
    n.running = true;
    follow(index);
  }
  void resume(int index) {
    auto& n = nodes_[index];
    if (!n.paused) return;
    n.paused = false;
    note("resumed  node " + std::to_string(index));
    auto backlog = std::move(n.backlog);
    n.backlog.clear();
    for (auto& what : backlog) what();
  }
  /// Whoever leads, or believes to, has clients.
  void clients() {
    for (int i = 0; i < kNodes; ++i)
      if (nodes_[i].running && nodes_[i].leads && !nodes_[i].paused && random_.chance(0.5) &&
          !quiet_)
        commit(i);
    schedule(random_.between(kMillisecond, 20 * kMillisecond), [this] { clients(); });
  }
  void heal() {
    note("heals");
    healed_ = true;
    loss_ = late_ = stale_ = 0;
    away_until_ = 0;
    for (int i = 0; i < kNodes; ++i) {
      if (!nodes_[i].running) start(i);
      resume(i);
    }
    values_at_heal_ = history_.values.size();
    // One leads from now on, that has most; the others learn of it as they write, or are told.
    schedule(5 * kSecond, [this] {
      for (int i = 0; i < kNodes; ++i) demote(i);
      const auto* most = std::max_element(
          nodes_, nodes_ + kNodes, [](const Node& a, const Node& b) { return a.has < b.has; });
      promote(static_cast<int>(most - nodes_));
    });
    schedule(20 * kSecond, [this] { quiet_ = true; });
  }

  struct Event {
    Nanos at;
    std::uint64_t order;
    std::function<void()> what;
    bool operator>(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  Random random_;
  const bool keep_trace_;
  std::uint64_t mistaken_ = 0;  // leads that were given up without need
  double loss_ = 0, late_ = 0, stale_ = 0, trims_ = 0, purges_ = 0, foreigns_ = 0;
  std::size_t depth_ = 1;
  Nanos now_ = 0;
  std::uint64_t order_ = 0, steps_ = 0, digest_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  Node nodes_[kNodes];
  std::vector<Stored> stream_;
  History history_;
  Database canon_;  // the history as a database
  Database snapshot_;
  std::uint64_t snapshot_sequence_ = 0;
  std::uint64_t trimmed_ = 0;  // so many records are gone from the stream's beginning
  Nanos away_until_ = 0;
  std::uint64_t epochs_ = 0;
  Value values_ = 0;
  std::uint64_t files_ = 0;
  std::map<Value, std::uint64_t> acknowledged_;  // and where it stands
  std::uint64_t promotions_ = 0, divergences_ = 0, foreign_ = 0;
  std::uint64_t emptied_ = 0;  // fences that were to go into a stream that was purged
  std::size_t values_at_heal_ = 0;
  bool healed_ = false, quiet_ = false;
  std::string violation_;
  std::deque<std::string> trace_;
};

}  // namespace

StreamOutcome stream_chaos(std::uint64_t seed, bool keep_trace) {
  return StreamWorld(seed, keep_trace).run();
}

}  // namespace cluster::sim
