#include "sqlite/database_copy.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "sqlite/file.h"
#include "sqlite/left_over.h"
#include "sqlite/move_database.h"
#include "sqlite/set_aside.h"
#include "sqlite/snapshot_store.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr Duration kFirstRetry = milliseconds(100);
constexpr Duration kLaggingServer = std::chrono::seconds(20);
constexpr Duration kLastRetry = milliseconds(5'000);
constexpr int kMostFailures = 3;  // of one record, before another way is tried
constexpr Duration kProofRetry = milliseconds(500);
constexpr Duration kForeignToldAgain = std::chrono::minutes(1);
constexpr const char* kSuspect = "scrubbing has found pages of its file wrong";

}  // namespace

const char* to_text(DatabaseCopy::Phase phase) {
  using Phase = DatabaseCopy::Phase;
  switch (phase) {
    case Phase::idle: return "idle";
    case Phase::opening: return "opening";
    case Phase::founding: return "founding";
    case Phase::following: return "following";
    case Phase::restoring: return "restoring";
    case Phase::waiting: return "waiting";
  }
  return "unknown";
}

HeldDatabase look_for_database(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  HeldDatabase held;
  held.what = HeldDatabase::What::nothing;
  for (const auto& path : paths) {
    std::error_code failure;
    const auto status = fs::status(path, failure);
    if (status.type() == fs::file_type::not_found) continue;
    const auto size = failure ? 0 : fs::file_size(path, failure);
    if (failure) {
      held.what = HeldDatabase::What::unusable;
      held.why = path + ": " + failure.message();
      return held;
    }
    if (size > 0) held.what = HeldDatabase::What::unread;
  }
  return held;
}

DatabaseCopy::DatabaseCopy(Loop& loop, StrandPool& strands, nats::JetStream& jetstream,
                           Options options, Events events)
    : loop_(loop),
      jetstream_(jetstream),
      options_(std::move(options)),
      journal_("database", options_.app, options_.node, options_.audit),
      events_(std::move(events)),
      strand_(strands.strand()),
      checkpoints_(strands.strand()),
      scans_(strands.strand()),
      lag_(loop, jetstream, options_.stream, options_.subject, [this] { return behind(); }),
      founding_(loop, jetstream,
                {options_.app, options_.node, options_.stream, options_.members, options_.alone,
                 options_.others},
                {[this] { founding_changed(); },
                 [this](const nats::StreamState& stream) { found_stream(history_of(stream)); },
                 [this](const Error& error) { missing(error); }}),
      foreign_told_(kForeignToldAgain),
      retry_(kFirstRetry) {}

// Tasks on the strands use this object.
DatabaseCopy::~DatabaseCopy() {
  *alive_ = false;
  stop_.request_stop();
  follower_.reset();
  for (auto* strand : {strand_.get(), checkpoints_.get(), scans_.get()}) {
    auto last = std::make_shared<std::promise<void>>();
    auto over = last->get_future();
    strand->post([last] { last->set_value(); });
    last.reset();  // a task that is never run breaks the promise
    over.wait();
  }
}

// Runs `task` on the strand; the answer comes on the loop, unless another turn has begun.
template <typename T>
void DatabaseCopy::work(std::function<T()> task, std::function<void(Result<T>)> done) {
  auto answer = [this, alive = alive_, turn = turn_, done](Result<T> result) {
    if (*alive && turn == turn_) done(std::move(result));
  };
  const bool queued = strand_->post([&loop = loop_, task = std::move(task), answer] {
    try {
      loop.post([answer, result = Result<T>(task())] { answer(result); });
    } catch (const Error& error) {
      loop.post([answer, error] { answer(error); });
    } catch (const std::exception& error) {
      loop.post([answer, text = std::string(error.what())] { answer(Error(Errc::system, text)); });
    }
  });
  if (!queued)
    loop_.post([answer] { answer(Error(Errc::system, "no thread to work on the database with")); });
}

void DatabaseCopy::set_phase(Phase phase) {
  if (phase_ == phase) return;
  last_held_ = held();
  phase_ = phase;
  log::info("database", {{"app", options_.app},
                         {"node", options_.node},
                         {"phase", to_text(phase)},
                         {"txid", position_.txid}});
}

std::string DatabaseCopy::place() const {
  return options_.replica.empty() ? options_.path : options_.replica;
}

void DatabaseCopy::begin(std::uint64_t history) {
  CLUSTER_CHECK(phase_ == Phase::idle);
  history_ = history;
  anew_ = false;
  from_ = 0;
  open();
}

void DatabaseCopy::next_turn() {
  ++turn_;
  stop_.request_stop();
  stop_ = {};
  timer_.reset();
  proof_timer_.reset();
  proving_ = false;
  origin_noted_ = false;
  founding_.end();
  settle_ = false;
}

void DatabaseCopy::open() {
  next_turn();
  follower_.reset();
  others_.reset();
  replica_.reset();
  held_.reset();
  refused_.reset();
  caught_up_ = false;
  set_phase(Phase::opening);
  work<std::shared_ptr<Replica>>(
      [this] {
        wait_for_scan();
        // Until a checkpoint of the one before is over.
        std::lock_guard lock(files_);
        if (!log_) log_ = std::make_unique<PositionLog>(position_log_path(options_.path));
        if (!hashes_) hashes_ = std::make_unique<HashFile>(hash_file_path(options_.path));
        namespace fs = std::filesystem;
        const std::string here = place();
        if (here != options_.path && !replica_lock_)
          replica_lock_ = open_locked(position_log_path(here));
        finish_set_aside_here();
        if (here != options_.path && fs::exists(options_.path)) {
          // It led until it was cut short.
          if (fs::exists(here)) {
            // It is told of even when what follows fails.
            const std::string why = options_.path + " is there as well";
            // Nobody knows what the one lacks that the other has.
            loop_.post([this, alive = alive_, why,
                        kept = set_aside(here, QuarantineKind::diverged, note_of({why}, {}))] {
              if (*alive) found_aside(kept, why);
            });
          }
          move(options_.path, here);
        }
        list_set_aside();
        leave_history(here);
        return std::make_shared<Replica>(here, *log_, *hashes_, options_.wal_limit);
      },
      [this](Result<std::shared_ptr<Replica>> replica) {
        if (replica) return opened(std::move(replica.value()));
        unusable(replica.error());
      });
}

// On the strand. The records of a history whose stream is gone go, but where the copy stood in it
// tells who has more of it.
void DatabaseCopy::leave_history(const std::string& here) {
  if (log_->history() == history_) return;
  auto former = log_->former();
  if (!log_->records().empty()) {
    former.reset();
    try {
      const Replica was(here, *log_, *hashes_, options_.wal_limit);
      if (was.exists() && was.position())
        former = FormerPlace{log_->history(), was.position()->epoch, was.position()->txid,
                             was.state().pages.database()};
    } catch (const Error& error) {
      // It is opened again below, and can't be then either.
      log::warn("database_place_lost",
                {{"app", options_.app}, {"node", options_.node}, {"why", error.what()}});
    }
  }
  log_->set_history(history_, former);
}

// What is here can't be opened now.
void DatabaseCopy::unusable(const Error& error) {
  work<HeldDatabase>(
      [paths = std::vector{place(), options_.path}] { return look_for_database(paths); },
      [this, error](const Result<HeldDatabase>& seen) {
        last_held_ = seen ? seen.value() : HeldDatabase{};
        if (!seen || seen.value().what == HeldDatabase::What::unread) {
          last_held_.what = HeldDatabase::What::unusable;
          last_held_.why = error.what();
        }
        last_held_.stream = history_;
        if (error.errc() != Errc::corrupt) return wait_and_open(error);
        unreadable(error);
      });
}

// On the strand, with what is known of its pages. While no copy is open.
void DatabaseCopy::move(const std::string& from, const std::string& to) {
  bool settled = false;
  try {
    Replica there(from, *log_, *hashes_, options_.wal_limit);
    settled = there.exists() && there.position() && there.settle();
  } catch (const Error& error) {
    // It is moved as it is, and looked at where it is then.
    log::warn("database_not_settled", {{"path", from}, {"why", error.what()}});
  }
  namespace fs = std::filesystem;
  const auto written = fs::last_write_time(from);
  const bool renamed = move_database(from, to);
  const auto file = FileState::of(to);
  // A new name changes the file's state, and nobody has written to it.
  if (!settled || !renamed || !file || fs::last_write_time(to) != written) return hashes_->forget();
  hashes_->note_file(*file);
  hashes_->sync();
}

// A database in quarantine of which no more is known than why it is there.
void DatabaseCopy::found_aside(const std::string& kept, const std::string& why) {
  tell_of({kept, kind_of(kept), {}}, {why}, kind_of(kept) == QuarantineKind::damaged, {});
}

// On the strand.
void DatabaseCopy::finish_set_aside_here() {
  const std::string why = "this node was killed while it put the database aside";
  std::vector<std::string> paths{options_.path};
  if (place() != options_.path) paths.push_back(place());
  for (const auto& path : paths)
    for (const auto& kept : finish_set_aside(path, note_of({why}, {})))
      loop_.post([this, alive = alive_, kept, why] {
        if (*alive) found_aside(kept, why);
      });
}

// It is no database any more. Where nothing could take its place a person must look at it.
void DatabaseCopy::unreadable(const Error& error) {
  ask_stream([this, error](const nats::StreamState& stream) {
    ask_begun(stream, [this, error](bool begun) {
      if (!begun)
        return wait_and_open(
            Error(error.errc(), std::string(error.what()) +
                                    ". The stream is empty, and nobody leads until this file is "
                                    "mended or moved away, or a person decides: cpp-cluster db "
                                    "found " +
                                    options_.app + " --node NODE, or --empty"));
      start_over({error.what(), true}, true);
    });
  });
}

void DatabaseCopy::wait_and_open(const Error& error) {
  wait(error, [this] { open(); });
}

// Until another file is at its place, or none.
void DatabaseCopy::refuse(const Error& error, const FileState& file) {
  refused_ = error;
  last_held_ = {};
  last_held_.what = HeldDatabase::What::database;
  last_held_.stream = history_;
  wait(error, [this, error, file] {
    work<bool>([this, file] { return FileState::of(place()) == file; },
               [this, error, file](const Result<bool>& same) {
                 if (!same || !same.value()) return open();
                 // Of another stream it may be the beginning.
                 ask_stream([this, error, file](const nats::StreamState&) { refuse(error, file); });
               });
  });
}

void DatabaseCopy::wait(const Error& error, std::function<void()> then) {
  if (trouble_ != error.what()) journal_.error("database_unavailable", {{"why", error.what()}});
  trouble_ = error.what();
  follower_.reset();
  set_phase(Phase::waiting);
  timer_ = loop_.after(retry_, std::move(then));
  retry_ = std::min(retry_ * 2, kLastRetry);
  if (events_.changed) events_.changed();
}

// With the replica as it is: to read all of it takes long.
void DatabaseCopy::follow_again() {
  next_turn();
  work<bool>([replica = replica_] { return replica->position().has_value(); },
             [this](const Result<bool>& known) {
               if (!known || !known.value()) return open();
               follow(log_->sequence_before(replica_->position()->txid));
             });
}

void DatabaseCopy::opened(std::shared_ptr<Replica> replica) {
  replica_ = std::move(replica);
  if (const auto& at = replica_->position(); at && !anew_)
    return follow(log_->sequence_before(at->txid));
  ask_stream([this](const nats::StreamState& state) {
    ask_begun(state, [this, state](bool begun) {
      if (!begun) return found(state);
      if (!replica_->exists() || replica_->position()) return have_anew(state);
      look_in_stream(state);
    });
  });
}

// What was noted last may have been lost with the machine's power, while the database was synced:
// the records of the stream say as well after which of them a copy has that content.
void DatabaseCopy::look_in_stream(const nats::StreamState& stream) {
  const auto& records = log_->records();
  const auto noted = std::max_element(
      records.begin(), records.end(),
      [](const PositionRecord& a, const PositionRecord& b) { return a.sequence < b.sequence; });
  const std::uint64_t from = noted == records.end() ? 1 : noted->sequence + 1;
  auto nowhere = [this] {
    others_.reset();
    start_over({"its content is at no transaction that this node or the stream has noted", true});
  };
  const std::uint64_t last = stream.last_seq;
  if (from > last || stream.messages == 0) return nowhere();
  nats::OrderedConsumer::Handlers handlers;
  const DatabaseState& state = replica_->state();
  handlers.message = [this, last, nowhere, hash = state.pages.database(),
                      page_size = state.page_size](const nats::StoredMessage& message) {
    const auto record = stream_record_from(message.headers, message.sequence);
    if (record && !record.value().fence && record.value().final && record.value().hash == hash)
      return recognise(
          {record.value().epoch, record.value().last, message.sequence, hash, page_size});
    if (message.sequence >= last) nowhere();
  };
  // Its server may lag behind what the stream's leader has said. That comes within this, or it was
  // purged meanwhile.
  handlers.caught_up = [this, nowhere] { timer_ = loop_.after(kLaggingServer, nowhere); };
  handlers.trouble = [this](const Error& error) { trouble_ = error.what(); };
  handlers.rewound = [nowhere](std::uint64_t, std::uint64_t) { nowhere(); };
  others_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, options_.stream, std::vector<std::string>{},
      nats::StartAt{nats::StartAt::Kind::sequence, from, true}, std::move(handlers));
}

void DatabaseCopy::recognise(const PositionRecord& record) {
  others_.reset();
  timer_.reset();
  trouble_.clear();
  work<bool>(
      [replica = replica_, record] {
        replica->recognised(record);
        return true;
      },
      [this, record](const Result<bool>& done) {
        if (!done) return wait_and_open(done.error());
        journal_.info("database_recognised", {{"txid", record.txid},
                                              {"sequence", record.sequence},
                                              {"means",
                                               "where it stands was not noted, and the stream "
                                               "knows its content"}});
        follow(record.sequence);
      });
}

// Whether the stream has ever had a transaction.
void DatabaseCopy::ask_begun(const nats::StreamState& stream, std::function<void(bool)> then) {
  if (stream.last_seq == 0) return then(false);
  newest_ = std::make_unique<NewestRecord>(
      jetstream_, options_.stream, 1,
      [this, turn = turn_, then = std::move(then)](const Result<NewestRecord::Found>& newest) {
        if (turn != turn_) return;
        if (!newest) return wait_and_open(newest.error());
        const auto& record = newest.value().record;
        then(record ? has_transactions(*record) : newest.value().gone > 0);
      });
}

void DatabaseCopy::found(const nats::StreamState& stream) {
  founding_.begin(held_here(), stream);
  set_phase(Phase::founding);
  anew_ = false;
  retry_ = kFirstRetry;
  starts_ = 0;
  watch_for_others();
  founding_changed();
}

void DatabaseCopy::founding_changed() {
  const FoundingVerdict verdict = founding_.verdict();
  const auto& chosen = founding_.chosen();
  if (chosen && chosen->node.empty() && replica_->exists() && log_->ever_replicated())
    return start_over({"it was decided that the app begins without a database", true});
  if (trouble_ != verdict.why && !verdict.why.empty()) {
    const bool person = verdict.kind == FoundingVerdict::Kind::person;
    const log::Fields fields{{"holds", text_of(founding_.own())}, {"why", verdict.why}};
    person ? journal_.warn("database_founding", fields)
           : journal_.info("database_founding", fields);
  }
  trouble_ = verdict.why;
  if (events_.changed) events_.changed();
}

// The strand is at rest.
HeldDatabase DatabaseCopy::held_here() const {
  using What = HeldDatabase::What;
  HeldDatabase held;
  held.stream = history_;
  held.what = What::nothing;
  if (!replica_->exists()) return held;
  held.what = What::database;
  held.hash = replica_->state().pages.database();
  FormerPlace at = log_->former().value_or(FormerPlace{});
  if (const auto& here = replica_->position()) at = {history_, here->epoch, here->txid, held.hash};
  // What somebody has written since is of no history.
  if (at.history == 0 || at.hash != held.hash) return held;
  held.what = What::copy;
  held.history = at.history;
  held.epoch = at.epoch;
  held.txid = at.txid;
  return held;
}

HeldDatabase DatabaseCopy::held() const {
  if (phase_ == Phase::founding) return founding_.own();
  if (phase_ != Phase::following) return last_held_;
  HeldDatabase held;
  held.stream = history_;
  held.what = HeldDatabase::What::nothing;
  const CopyPosition at = follower_ ? follower_->position() : position_;
  if (at.txid == 0) return held;
  held.what = HeldDatabase::What::copy;
  held.hash = at.hash;
  held.history = history_;
  held.epoch = at.epoch;
  held.txid = at.txid;
  return held;
}

void DatabaseCopy::missing(const Error& error) {
  if (error.errc() == Errc::not_found && events_.stream_missing) events_.stream_missing();
}

// The stream as it is now; when it is another one than it was, all is looked at anew.
void DatabaseCopy::ask_stream(std::function<void(const nats::StreamState&)> then) {
  jetstream_.stream(options_.stream, [this, alive = alive_, turn = turn_,
                                      then = std::move(then)](Result<nats::StreamState> state) {
    if (!*alive || turn != turn_) return;
    if (!state) missing(state.error());
    if (!state) return wait_and_open(state.error());
    const std::uint64_t history = history_of(state.value());
    if (history == history_) return then(state.value());
    another_stream(history);
  });
}

void DatabaseCopy::found_stream(std::uint64_t history) {
  const bool settled =
      phase_ == Phase::founding || phase_ == Phase::following || phase_ == Phase::waiting;
  // Else it is looked at when what is under way has ended.
  if (settled && history != history_) another_stream(history);
}

void DatabaseCopy::another_stream(std::uint64_t history) {
  ++counts_.streams_made_anew;
  journal_.error("database_stream_made_anew",
                 {{"stream", options_.stream},
                  {"txid", position_.txid},
                  {"means",
                   "somebody has deleted the stream; the node that has the most of the same "
                   "history begins it with its whole database"}});
  // What is held is still of the old one.
  set_phase(Phase::opening);
  history_ = history;
  lag_.forget();
  open();
}

// From a snapshot, if there is one that the stream goes on from.
void DatabaseCopy::have_anew(const nats::StreamState& stream) {
  if (stream.last_seq == 0 || !options_.restore) return restored(std::nullopt, stream.first_seq);
  set_phase(Phase::restoring);
  percent_ = 0;
  if (events_.changed) events_.changed();
  const std::uint64_t first = std::max(stream.first_seq, from_);
  work<std::optional<Restored>>(
      [this, first, replica = replica_, stop = stop_.get_token()] {
        const std::string fresh = place() + "-restoring";
        std::filesystem::remove(fresh);
        auto copy =
            options_.restore(fresh, first, [this](int percent) { percent_ = percent; }, stop);
        if (copy) {
          wait_for_scan();
          std::lock_guard lock(files_);
          replica->put(fresh, copy->state, copy->place);
        }
        return copy;
      },
      [this, first](Result<std::optional<Restored>> copy) {
        if (!copy) return wait_and_open(copy.error());
        restored(std::move(copy.value()), first);
      });
}

void DatabaseCopy::restored(std::optional<Restored> copy, std::uint64_t first) {
  if (copy) {
    ++counts_.restores;
    journal_.info("database_restored",
                  {{"txid", copy->state.txid}, {"sequence", copy->place.sequence}});
    return follow(copy->place.sequence);
  }
  // The stream has all from its beginning.
  if (first <= 1 && !replica_->exists()) return follow(0);
  if (first <= 1) return start_over({"the stream has all that it needs and more", true});
  wait_and_open(Error(Errc::unavailable,
                      "stream " + options_.stream + " goes on with record " +
                          std::to_string(first) +
                          ", and there is neither a copy here nor a snapshot that it goes on from; "
                          "the node that leads makes one in time, and cpp-cluster snapshot create "
                          "at once"));
}

// As soon as somebody has committed something, this database is one that the stream does not know.
void DatabaseCopy::watch_for_others() {
  nats::OrderedConsumer::Handlers handlers;
  handlers.trouble = [this](const Error& error) { missing(error); };
  handlers.message = [this](const nats::StoredMessage& message) {
    // It may have begun with the very content of this copy, or with another one of what both had.
    const auto record = stream_record_from(message.headers, message.sequence);
    if (record ? has_transactions(record.value()) : !is_foreign(record.error())) open();
  };
  others_ = std::make_unique<nats::OrderedConsumer>(jetstream_, options_.stream,
                                                    std::vector<std::string>{}, nats::StartAt{},
                                                    std::move(handlers));
}

void DatabaseCopy::follow(std::uint64_t after) {
  anew_ = false;
  from_ = 0;
  set_phase(Phase::following);
  WalFollower::Events events;
  events.applied = [this](const StreamRecord& record) {
    if (!record.fence && record.last > position_.txid)
      position_ = {record.epoch, record.last, record.hash};
    sequence_ = record.sequence;
    trouble_.clear();
    failures_ = 0;
    checkpoint();
    note_origin();
    if (events_.changed) events_.changed();
  };
  events.caught_up = [this] {
    if (replica_->has_rest()) return take_rest();
    caught_up_ = true;
    retry_ = kFirstRetry;
    starts_ = 0;
    trouble_.clear();
    sequence_ = std::max(sequence_, follower_->applied());
    journal_.info("database_caught_up", {{"txid", position_.txid}, {"sequence", sequence_}});
    note_origin();
    if (events_.changed) events_.changed();
  };
  events.stuck = [this](const WalFollower::Stuck& why) { stuck(why); };
  events.rewound = [this](std::uint64_t last) { rewound(last); };
  events.failed = [this](const Error& error, std::uint64_t sequence) { failed(error, sequence); };
  events.trouble = [this](const Error& error) {
    trouble_ = error.what();
    missing(error);
  };
  events.foreign = [this](std::uint64_t sequence, const Error&) {
    found_foreign(sequence, sequence);
  };
  follower_ = std::make_unique<WalFollower>(jetstream_, *strand_, options_.stream, replica_, after,
                                            std::move(events));
  position_ = follower_->position();
  sequence_ = after;
  checkpoint();
  look_for_proof();
  if (events_.changed) events_.changed();
}

// The stream goes on no further than the place from which on the copy has more.
void DatabaseCopy::take_rest() {
  next_turn();
  follower_.reset();
  work<bool>([replica = replica_] { return replica->take_rest(); },
             [this](const Result<bool>& taken) {
               if (!taken) return wait_and_open(taken.error());
               if (taken.value()) return follow_again();
               start_over(
                   {"its WAL has more than was noted, and it can't be shown that this node "
                    "committed that",
                    true});
             });
}

void DatabaseCopy::look_for_proof() {
  if (phase_ != Phase::following || !replica_ || replica_->proven() || proving_) return;
  proving_ = true;
  journal_.warn("database_unproven",
                {{"txid", position_.txid},
                 {"means",
                  "somebody else has written to its file, perhaps the program with which this node "
                  "has led, after the node was killed: all of it is read before this node may "
                  "lead"}});
  prove();
}

void DatabaseCopy::prove() {
  verify(std::make_shared<VerifyProgress>(), 0,
         [this](const Result<Verified>& found) { proof_found(found); });
}

void DatabaseCopy::proof_found(const Result<Verified>& found) {
  if (phase_ != Phase::following || !proving_) return;
  auto again = [this] { proof_timer_ = loop_.after(kProofRetry, [this] { prove(); }); };
  if (!found) {
    if (found.error().errc() == Errc::corrupt)
      return start_over({found.error().what(), true}, true);
    return again();
  }
  if (!found.value().sound()) {
    tell_damage(journal_, found.value());
    return start_over({std::to_string(found.value().wrong) +
                           " pages are not as they were written: somebody has changed its file",
                       true},
                      true);
  }
  work<bool>([replica = replica_, file = found.value().file] { return replica->prove(file); },
             [this, again](const Result<bool>& proven) {
               if (!proven || !proven.value()) return again();
               proving_ = false;
               journal_.info("database_proven", {{"txid", position_.txid}});
               checkpoint();
               note_origin();
               if (events_.changed) events_.changed();
             });
}

// A record that stays wrong is passed with a snapshot that has what it should have.
void DatabaseCopy::failed(const Error& error, std::uint64_t sequence) {
  if (error.errc() == Errc::corrupt && ++failures_ >= kMostFailures && options_.restore) {
    ++counts_.corrupt_records;
    journal_.error("database_record_corrupt",
                   {{"sequence", sequence},
                    {"why", error.what()},
                    {"means", "a snapshot of what comes behind it is wanted"}});
    failures_ = 0;
    return start_over({error.what(), false, {}, sequence + 1});
  }
  // A full disk, say, changes nothing in what is here.
  if (error.errc() == Errc::corrupt) return wait_and_open(error);
  wait(error, [this] { follow_again(); });
}

void DatabaseCopy::checkpoint() {
  const bool in_full = settle_ && replica_->proven() && !replica_->has_rest();
  if (checkpointing_ || (!in_full && !replica_->wants_checkpoint())) return;
  settle_ = false;
  checkpointing_ = checkpoints_->post([this, alive = alive_, &loop = loop_, replica = replica_,
                                       in_full, stop = stop_.get_token()]() mutable {
    std::string failure;
    {
      std::lock_guard lock(files_);
      try {
        // Else the database may be the leader's by now.
        if (!stop.stop_requested()) in_full ? replica->settle() : replica->checkpoint();
      } catch (const Error& error) {
        failure = error.what();
      }
      replica.reset();
    }
    loop.post([this, alive, failure] {
      if (!*alive) return;
      checkpointing_ = false;
      look_for_proof();
      if (settle_) settle();
      if (failure.empty()) return;
      if (trouble_ != failure)
        log::error("checkpoint_failed",
                   {{"app", options_.app}, {"node", options_.node}, {"why", failure}});
      trouble_ = failure;
    });
  });
}

std::optional<CopyPosition> DatabaseCopy::position() const {
  if (held_) return position_;
  if (phase_ != Phase::following || !follower_ || !follower_->at_rest() || replica_->has_rest())
    return std::nullopt;
  return follower_->position();
}

std::uint64_t DatabaseCopy::sequence() const noexcept {
  return follower_ ? follower_->applied() : sequence_;
}

void DatabaseCopy::found_foreign(std::uint64_t first, std::uint64_t last) {
  if (last <= newest_foreign_) return;
  counts_.foreign_messages += last - std::max(newest_foreign_, first - 1);
  newest_foreign_ = last;
  if (const auto kept_back = foreign_told_.tell("foreign", BootClock::now()))
    journal_.warn(
        "database_foreign_message",
        {{"stream", options_.stream},
         {"sequence", last},
         {"not_told", *kept_back},
         {"means", "somebody else publishes to " + options_.subject +
                       ": all nodes pass over it; find who does, and take that right away"}});
}

std::optional<std::uint64_t> DatabaseCopy::hash_at(Txid txid) const {
  if (txid == 0) return 0;
  if (!log_) return std::nullopt;
  const auto& records = log_->records();
  for (auto it = records.rbegin(); it != records.rend(); ++it)
    if (it->txid == txid) return it->hash;
  return std::nullopt;
}

void DatabaseCopy::hold_judgement(bool hold) {
  hold_ = hold;
  if (hold || !held_) return;
  start_over(*std::exchange(held_, std::nullopt));
}

void DatabaseCopy::stuck(const WalFollower::Stuck& why) {
  if (!hold_ || !why.diverged) return start_over(why);
  if (follower_) position_ = follower_->position();
  held_ = why;
  if (events_.changed) events_.changed();
}

// JetStream has lost what it had acknowledged. This copy may have it still: when this node leads,
// it is appended (Inheritance::ahead), and when another one does, its fence tells.
void DatabaseCopy::rewound(std::uint64_t last) {
  next_turn();
  follower_.reset();
  ++counts_.stream_ends_lost;
  lag_.forget();
  journal_.error("database_stream_lost_its_end",
                 {{"stream", options_.stream}, {"read", sequence_}, {"last", last}});
  ask_stream([this](const nats::StreamState& state) {
    work<bool>([replica = replica_] { return replica->position().has_value(); },
               [this, last = state.last_seq](const Result<bool>& known) {
                 if (!known || !known.value()) return open();
                 follow(last);
               });
  });
}

void DatabaseCopy::start_over(const WalFollower::Stuck& why, bool damaged) {
  next_turn();
  follower_.reset();
  others_.reset();
  held_.reset();
  caught_up_ = false;
  set_phase(Phase::restoring);
  if (events_.changed) events_.changed();
  ask_stream([this, why, damaged](const nats::StreamState&) { set_aside_and_open(why, damaged); });
}

void DatabaseCopy::set_aside_and_open(const WalFollower::Stuck& why, bool damaged) {
  const CopyPosition was = position_;
  const bool rest = replica_ && replica_->has_rest();
  replica_.reset();
  position_ = {};
  sequence_ = 0;
  anew_ = true;
  from_ = why.sequence;
  work<Aside>(
      [this, why, damaged, was, rest] { return put_aside(why, damaged, was, rest); },
      [this, why, was, damaged](Result<Aside> aside) {
        if (!aside) return wait_and_open(aside.error());
        if (const auto& file = aside.value().never_replicated)
          return refuse(
              Error(Errc::unavailable,
                    place() + " was never replicated, and the history of this app (stream " +
                        options_.stream +
                        ") was begun without it. It stays as it is, and this node has no "
                        "copy: move it away, and the node makes one"),
              *file);
        tell_of(aside.value(), why, damaged, was);
        // Again and again, if it is of no use.
        if (starts_++ == 0) return open();
        timer_ = loop_.after(retry_, [this] { open(); });
        retry_ = std::min(retry_ * 2, kLastRetry);
      });
}

// On the strand, while no copy is open.
DatabaseCopy::Aside DatabaseCopy::put_aside(const WalFollower::Stuck& why, bool damaged,
                                            const CopyPosition& was, bool rest) {
  wait_for_scan();
  std::lock_guard lock(files_);
  if (!log_->ever_replicated())
    if (const auto file = FileState::of(place()); file && file->size > 0)
      return {.never_replicated = file};
  // What JetStream has never acknowledged may be nowhere else, even if all that could tell is gone
  // from the stream.
  const bool stored = was.txid == 0 || log_->has_stored(was.txid, was.hash);
  if (!why.diverged && stored && !rest) return {};
  hashes_->forget();
  // What this node led with may not have come back to its place.
  const std::string path = std::filesystem::exists(options_.path) ? options_.path : place();
  // Only what is known to have held nothing but what the stream has counts as written to by others,
  // or as damaged: anything else may hold transactions of a term that are nowhere else. Where the
  // stream itself has others in their place, it has lost them.
  const bool lost = (why.common && was.txid > 0) || !log_->all_from_stream(inode_of(path));
  Aside aside;
  aside.kind = lost      ? QuarantineKind::diverged
               : damaged ? QuarantineKind::damaged
                         : QuarantineKind::foreign;
  QuarantineNote note = note_of(why, was);
  // Nobody has counted what its WAL has besides.
  if (note.held && rest) note.held->at_least = true;
  aside.held = note.held;
  aside.path = set_aside(path, aside.kind, note, !damaged);
  list_set_aside();
  return aside;
}

// On the strand.
QuarantineNote DatabaseCopy::note_of(const WalFollower::Stuck& why, const CopyPosition& was) const {
  QuarantineNote note;
  note.app = options_.app;
  note.node = options_.node;
  note.history = log_->history();
  note.why = why.why;
  note.epoch = was.epoch;
  if (was.txid == 0 && !log_->records().empty()) note.epoch = log_->records().back().epoch;
  if (was.txid == 0 && log_->records().empty() && log_->former()) {
    note.history = log_->former()->history;
    note.epoch = log_->former()->epoch;
  }
  // What a node has noted nothing of holds more than nothing.
  if (why.common && was.txid > *why.common) {
    note.first = *why.common + 1;
    note.last = was.txid;
    note.held = LeftOver{was.txid - *why.common, log_->at_least(was.txid, was.hash)};
  }
  return note;
}

void DatabaseCopy::tell_of(const Aside& aside, const WalFollower::Stuck& why, bool damaged,
                           const CopyPosition& was) {
  if (damaged) ++counts_.damages;
  if (aside.path.empty()) {
    ++counts_.had_anew;
    return journal_.warn("database_had_anew", {{"why", why.why}});
  }
  if (aside.kind == QuarantineKind::diverged) {
    ++counts_.divergences;
    return journal_.error("database_diverged",
                          {{"epoch", was.epoch},
                           {"txid", was.txid},
                           {"common", why.common ? std::to_string(*why.common) : "unknown"},
                           {"held", aside.held ? to_text(*aside.held) : "unknown"},
                           {"damaged", damaged ? "true" : "false"},
                           {"kept", aside.path},
                           {"why", why.why}});
  }
  if (aside.kind == QuarantineKind::foreign) ++counts_.foreign_writes;
  journal_.error(
      aside.kind == QuarantineKind::foreign ? "database_foreign_writes" : "database_set_aside",
      {{"epoch", was.epoch}, {"txid", was.txid}, {"kept", aside.path}, {"why", why.why}});
}

void DatabaseCopy::check(Callback<std::string> done) {
  auto not_ready = [this] {
    return Error(Errc::unavailable,
                 "its copy is not ready to lead: " + std::string(to_text(phase_)) +
                     (trouble_.empty() ? "" : ", " + trouble_));
  };
  if (!ready()) return done(not_ready());
  if (phase_ == Phase::founding) return done(std::string());
  auto answer = [this, alive = alive_, turn = turn_, done, not_ready](Result<std::string> wrong) {
    if (!*alive) return;
    if (turn != turn_) return done(not_ready());
    if (wrong && !wrong.value().empty()) start_over({wrong.value(), true}, true);
    look_for_proof();
    // Somebody has written to its file, and it is proven first.
    if (wrong && wrong.value().empty() && !ready()) return done(not_ready());
    done(std::move(wrong));
  };
  const bool queued = strand_->post([this, &loop = loop_, replica = replica_, answer] {
    Result<std::string> wrong = std::string();
    try {
      // While a checkpoint writes, the file is as nobody has noted it.
      std::lock_guard lock(files_);
      wrong = replica->check_frames().value_or("");
    } catch (const Error& error) {
      wrong = error;
    } catch (const std::exception& error) {
      wrong = Error(Errc::system, error.what());
    }
    loop.post([answer, wrong = std::move(wrong)] { answer(wrong); });
  });
  if (!queued) done(Error(Errc::system, "no thread to work on the database with"));
}

void DatabaseCopy::hand_over(std::optional<Txid> since, std::uint64_t epoch,
                             Callback<HandedOver> done) {
  next_turn();
  follower_.reset();
  others_.reset();
  held_.reset();
  caught_up_ = false;
  auto replica = std::make_shared<std::shared_ptr<Replica>>(std::move(replica_));
  work<HandedOver>(
      [this, replica, since, epoch, suspect = suspect_] {
        wait_for_scan();
        std::lock_guard lock(files_);
        HandedOver handed;
        if (*replica && (*replica)->exists()) {
          // This lead may end before any of it is sent: its own fence must not condemn it then.
          if (since) (*replica)->claim(epoch);
          auto damage = suspect ? std::optional<std::string>(kSuspect) : (*replica)->check();
          if (damage) {
            handed.damage = *damage;
            replica->reset();
            return handed;
          }
          if (since)
            handed.state = (*replica)->state_at(*since).value_or(DatabaseState{});
          else if ((*replica)->position())
            handed.state = (*replica)->state();
          handed.state.end = (*replica)->end();
        }
        replica->reset();
        // What this node commits from now on may never get into the stream.
        log_->forget_all_from_stream();
        if (place() != options_.path && std::filesystem::exists(place())) {
          move(place(), options_.path);
          handed.state.end.reset();
        }
        return handed;
      },
      [this, done = std::move(done)](Result<HandedOver> handed) {
        set_phase(Phase::idle);
        done(std::move(handed));
      });
}

void DatabaseCopy::end(std::function<void()> done) {
  next_turn();
  follower_.reset();
  others_.reset();
  work<bool>(
      [this, replica = std::make_shared<std::shared_ptr<Replica>>(std::move(replica_))] {
        wait_for_scan();
        std::lock_guard lock(files_);
        replica->reset();
        log_.reset();
        hashes_.reset();
        replica_lock_.reset();
        return true;
      },
      [this, done = std::move(done)](const Result<bool>&) {
        set_phase(Phase::idle);
        done();
      });
}

// On the strand.
void DatabaseCopy::list_set_aside() {
  try {
    auto summary = summary_of(in_quarantine({options_.path, place()}));
    std::lock_guard lock(aside_mutex_);
    aside_ = std::move(summary);
  } catch (const std::exception& error) {
    log::warn("quarantine_not_listed",
              {{"app", options_.app}, {"node", options_.node}, {"why", error.what()}});
  }
}

void DatabaseCopy::look_at_quarantine() {
  work<bool>(
      [this] {
        list_set_aside();
        return true;
      },
      [this](const Result<bool>& looked) {
        if (!looked)
          log::warn(
              "quarantine_not_listed",
              {{"app", options_.app}, {"node", options_.node}, {"why", looked.error().what()}});
      });
}

// Once it is known: it follows, and no page of it is from elsewhere. Whatever is found in its file
// later was not committed by this node's program while it led.
void DatabaseCopy::note_origin() {
  if (origin_noted_ || phase_ != Phase::following || !caught_up_ || !replica_ ||
      !replica_->proven() || replica_->has_rest())
    return;
  origin_noted_ = true;
  work<bool>(
      [this, replica = replica_] {
        const auto& at = replica->position();
        if (!at || at->sequence == 0 || !replica->proven()) return false;
        log_->note_all_from_stream(inode_of(replica->path()));
        return true;
      },
      [this](const Result<bool>& noted) {
        if (noted && noted.value()) return;
        origin_noted_ = false;
        if (!noted)
          log::warn(
              "database_origin_not_noted",
              {{"app", options_.app}, {"node", options_.node}, {"why", noted.error().what()}});
      });
}

// On the strand, before files are moved; a scan ends soon, since its turn was stopped.
void DatabaseCopy::wait_for_scan() {
  if (scan_over_.valid()) scan_over_.wait();
}

void DatabaseCopy::verify(std::shared_ptr<VerifyProgress> progress, Txid at,
                          Callback<Verified> done) {
  if (phase_ != Phase::following || !replica_) return done(not_following("verified"));
  if (verifying_)
    return done(Error(Errc::unavailable, "database " + place() + " is being verified already"));
  verifying_ = true;
  auto answer = [this, alive = alive_, &loop = loop_, done](Result<Verified> result) {
    loop.post([this, alive, done, result = std::move(result)] {
      if (!*alive) return;
      verifying_ = false;
      done(result);
    });
  };
  auto scan = [this, replica = replica_, stop = stop_.get_token(), progress, at, answer] {
    try {
      // Before anything else is applied; the reading itself stops nobody.
      auto begun = std::make_shared<ReplicaScan>(*replica);
      progress->txid = begun->txid();
      const auto noted_at = at == 0 ? std::nullopt : hash_at(at);
      auto over = std::make_shared<std::promise<void>>();
      scan_over_ = over->get_future();
      const bool queued = scans_->post([begun, over, stop, progress, noted_at, answer]() mutable {
        Result<Verified> result = Verified{};
        try {
          result = begun->run(*progress, stop);
          result.value().noted_at = noted_at;
        } catch (const Error& error) {
          result = error;
        } catch (const std::exception& error) {
          result = Error(Errc::system, error.what());
        }
        begun.reset();
        over->set_value();
        answer(std::move(result));
      });
      if (!queued) throw Error(Errc::system, "no thread to verify the database with");
    } catch (const Error& error) {
      answer(error);
    } catch (const std::exception& error) {
      answer(Error(Errc::system, error.what()));
    }
  };
  if (!strand_->post(std::move(scan))) answer(Error(Errc::system, "too much waits for its strand"));
}

// ---- scrubbing

template <typename T>
std::function<void(Result<T>)> DatabaseCopy::to_loop(Callback<T> done) {
  return [alive = alive_, &loop = loop_, done = std::move(done)](Result<T> result) {
    loop.post([alive, done, result = std::move(result)] {
      if (*alive) done(result);
    });
  };
}

Error DatabaseCopy::not_following(const char* what) const {
  return Error(Errc::unavailable, "database " + place() + " can't be " + what + " while it is " +
                                      to_text(phase_) + (trouble_.empty() ? "" : ": ") + trouble_);
}

// In turn with what is applied and verified: so that who moves the files knows when it has ended.
void DatabaseCopy::scrub(PageNumber first, std::size_t bytes, Callback<ScrubStep> done) {
  if (phase_ != Phase::following || !replica_) return done(not_following("scrubbed"));
  auto answer = to_loop(std::move(done));
  auto begin = [this, replica = replica_, stop = stop_.get_token(), first, bytes,
                answer]() mutable {
    auto over = std::make_shared<std::promise<void>>();
    scan_over_ = over->get_future();
    auto scan = [replica = std::move(replica), over, stop, first, bytes, answer]() mutable {
      Result<ScrubStep> step = ScrubStep{};
      try {
        const auto expect = [&](PageNumber from, PageNumber count) {
          return replica->expected(from, count);
        };
        step = scrub_some(replica->path(), first, bytes, expect, stop);
      } catch (const Error& error) {
        step = error;
      } catch (const std::exception& error) {
        step = Error(Errc::system, error.what());
      }
      replica.reset();
      over->set_value();
      answer(std::move(step));
    };
    if (!scans_->post(std::move(scan)))
      answer(Error(Errc::unavailable, "there is no thread to scrub the database with"));
  };
  if (!strand_->post(std::move(begin)))
    answer(Error(Errc::unavailable, "too much waits for the database's strand"));
}

void DatabaseCopy::repair(PageNumber number, std::string page, Callback<bool> done) {
  if (phase_ != Phase::following || !replica_) return done(not_following("repaired"));
  auto answer = to_loop(std::move(done));
  auto write = [replica = replica_, number, page = std::move(page), answer] {
    try {
      answer(replica->repair(number, page));
    } catch (const Error& error) {
      answer(error);
    } catch (const std::exception& error) {
      answer(Error(Errc::system, error.what()));
    }
  };
  if (!strand_->post(std::move(write)))
    answer(Error(Errc::unavailable, "too much waits for the database's strand"));
}

void DatabaseCopy::settle() {
  settle_ = true;
  if (phase_ == Phase::following && replica_) checkpoint();
}

void DatabaseCopy::suspect(bool wrong) {
  suspect_ = wrong;
  if (events_.changed) events_.changed();
}

DatabaseCopy::Status DatabaseCopy::status() const {
  Status status;
  status.phase = phase_;
  status.position = follower_ ? follower_->position() : position_;
  status.sequence = sequence();
  status.caught_up = caught_up_;
  status.counts = counts_;
  if (replica_) status.wal_bytes = replica_->wal_bytes();
  {
    std::lock_guard lock(aside_mutex_);
    status.quarantine = aside_;
  }
  status.restored_percent = percent_;
  status.trouble = trouble_;
  add_lag(status);
  return status;
}

// Up to which record it has all, while whoever reads the stream does not know how far that goes on.
std::optional<std::uint64_t> DatabaseCopy::behind() const {
  if (phase_ == Phase::restoring || phase_ == Phase::waiting) return sequence();
  if (phase_ != Phase::following || !follower_) return std::nullopt;
  const bool all_read = caught_up_ && !follower_->paused() && follower_->read() >= follower_->end();
  return all_read ? std::nullopt : std::optional(follower_->done());
}

void DatabaseCopy::add_lag(Status& status) const {
  if (phase_ != Phase::following && phase_ != Phase::restoring && phase_ != Phase::waiting) return;
  const auto& known = lag_.known();
  Txid last = known.last;
  std::uint64_t end = known.sequence;
  std::int64_t since = known.oldest_ns;
  if (follower_) {
    status.position = position_;
    status.lag_bytes = follower_->pending_bytes();
    // What was read by now tells better.
    if (known.sequence <= follower_->read()) last = 0;
    last = std::max(last, follower_->newest());
    end = std::max(end, follower_->end());
    if (const auto read = follower_->waits_since_ns(); read != 0) since = read;
  }
  if (last > position_.txid) status.lag_transactions = last - position_.txid;
  const std::uint64_t done = follower_ ? follower_->done() : status.sequence;
  if (end > done) status.lag_records = end - done;
  if (since != 0 && status.lag_records > 0)
    status.lag_time = milliseconds(std::max<std::int64_t>(0, wall_ns() - since) / 1'000'000);
}

}  // namespace cluster::sqlite
