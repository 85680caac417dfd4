// A node's copy of a database while it does not lead: finds out where the copy stands, follows the
// stream, sets a copy aside that is not a part of the stream's history, and has it anew from a
// snapshot. On the loop; what blocks runs on a strand.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/journal.h"
#include "core/loop.h"
#include "core/repeat_limit.h"
#include "core/result.h"
#include "core/strand.h"
#include "nats/jetstream.h"
#include "sqlite/founding.h"
#include "sqlite/hash_file.h"
#include "sqlite/newest_record.h"
#include "sqlite/position_log.h"
#include "sqlite/quarantine.h"
#include "sqlite/replica.h"
#include "sqlite/scrub_step.h"
#include "sqlite/stream_lag.h"
#include "sqlite/verify.h"
#include "sqlite/wal_follower.h"

namespace cluster::sqlite {

class DatabaseCopy {
 public:
  struct Restored {
    DatabaseState state{};
    StreamPlace place{};  ///< of the record that ends with that state
  };
  /// Makes a database from snapshots: the newest one that the stream goes on from, with a record
  /// from `first` on. Writes it to the file `into`; tells how much is done, in percent. Nothing
  /// when there is no such snapshot. Throws Error, shutting_down when stopped. Blocks, on a strand.
  using Restore = std::function<std::optional<Restored>(
      const std::string& into, std::uint64_t first, const std::function<void(int)>& progress,
      std::stop_token stop)>;
  struct Options {
    std::string app{}, node{};  ///< for the log
    std::string path{};         ///< where it is while this node leads
    std::string replica{};      ///< where it is while it does not; empty: the same
    std::string stream{};
    std::string subject{};
    std::size_t wal_limit = std::size_t{16} * 1024 * 1024;
    Restore restore{};  ///< empty: there are no snapshots
    AuditSink audit{};
    std::string members{};                                ///< as Founding::Options
    bool alone = false;                                   ///< the same
    std::function<std::vector<FoundingNode>()> others{};  ///< the same
  };
  enum class Phase {
    idle,       ///< not begun, or the database is the leader's
    opening,    ///< it is read, to find out where it stands
    founding,   ///< the stream has nothing: whoever may begins it, with a database or without one
    following,  ///< it takes what the stream has
    restoring,  ///< it is had anew
    waiting,    ///< something failed, and is tried again soon
  };
  struct Events {
    /// Something has moved: a phase, a position.
    std::function<void()> changed{};
    /// The stream is not there. Said again for as long as that is so.
    std::function<void()> stream_missing{};
  };
  /// What has happened to it since the start.
  struct Counts {
    std::uint64_t divergences = 0;        ///< copies with transactions of their own, set aside
    std::uint64_t foreign_writes = 0;     ///< that somebody else had written to, set aside
    std::uint64_t foreign_messages = 0;   ///< of the stream, that are none of ours
    std::uint64_t damages = 0;            ///< that were no sound database, set aside
    std::uint64_t had_anew = 0;           ///< that lacked what the stream has no more
    std::uint64_t restores = 0;           ///< that were made from a snapshot
    std::uint64_t corrupt_records = 0;    ///< of the stream, passed with a snapshot
    std::uint64_t streams_made_anew = 0;  ///< how often somebody had deleted the stream
    std::uint64_t stream_ends_lost = 0;   ///< how often it had lost what was read already
  };
  struct Status {
    Phase phase{};
    CopyPosition position{};
    std::uint64_t sequence = 0;  ///< has all of the stream up to there
    bool caught_up = false;
    /// What the stream has and the copy does not, as far as that is known: of what was read, at
    /// once; of what was not, within a second.
    Txid lag_transactions = 0;
    std::uint64_t lag_records = 0;  ///< of the stream
    std::uint64_t lag_bytes = 0;    ///< of those that were read
    std::chrono::milliseconds lag_time{0};
    Counts counts{};
    int restored_percent = 0;     ///< while restoring
    std::uint64_t wal_bytes = 0;  ///< of the copy's WAL
    QuarantineSummary quarantine{};
    std::string trouble{};  ///< what failed last, until it is mended
  };

  DatabaseCopy(Loop& loop, StrandPool& strands, nats::JetStream& jetstream, Options options,
               Events events);
  ~DatabaseCopy();
  DatabaseCopy(const DatabaseCopy&) = delete;
  DatabaseCopy& operator=(const DatabaseCopy&) = delete;

  /// Only in Phase::idle. `history`: which stream it is that the records belong to.
  void begin(std::uint64_t history);
  /// So the stream is now. When it is another one than it was, all is looked at anew.
  void found_stream(std::uint64_t history);
  /// Lets go of the database, for good; `done` once nothing uses it any more.
  void end(std::function<void()> done);

  Phase phase() const noexcept { return phase_; }
  /// As given to begin(), or what it was found to be since.
  std::uint64_t history() const noexcept { return history_; }
  /// It has what the stream had when it began to follow, and is known to be right; or may found.
  bool ready() const noexcept {
    return may_found() || (phase_ == Phase::following && caught_up_ && replica_ &&
                           replica_->proven() && !replica_->has_rest() && !suspect_);
  }
  /// The stream has nothing, and this node may begin it.
  bool may_found() const noexcept { return phase_ == Phase::founding && founding_.may(); }
  /// In Phase::founding: why it may not, for people.
  const std::string& why_not_found() const noexcept { return founding_.verdict().why; }
  /// What other nodes say of what they hold may have changed.
  void others_changed() { founding_.others_changed(); }
  /// What this node's record is to say of the database.
  HeldDatabase held() const;
  /// The same, as far as it is known before begin(), and when this node has led.
  void note_held(HeldDatabase held) { last_held_ = std::move(held); }
  /// The stream is not empty any more: looks at all anew.
  void begun_by_another() { open(); }
  /// Where it stands, when nothing is under way; nothing also when that is not known.
  std::optional<CopyPosition> position() const;
  /// It has all of the stream up to there.
  std::uint64_t sequence() const noexcept;
  /// What is at its place this node has never replicated, and the stream was begun without it: it
  /// stays as it is, and this node has no copy until somebody moves it away. Then: why.
  const std::optional<Error>& refused() const noexcept { return refused_; }
  /// The newest epoch that it has read in the stream; 0: none yet.
  std::uint64_t newest_epoch() const noexcept { return follower_ ? follower_->epoch() : 0; }
  /// The content's hash at a transaction, as far as it was noted.
  std::optional<std::uint64_t> hash_at(Txid txid) const;
  PositionLog& log() { return *log_; }
  HashFile& hashes() { return *hashes_; }
  Status status() const;
  /// Those messages of the stream are none of ours: they are told of and counted, once.
  void found_foreign(std::uint64_t first, std::uint64_t last);
  /// Somebody may have removed a database from quarantine: looks, for the status.
  void look_at_quarantine();

  /// While this is on, a copy that has diverged stays as it is: it may turn out to be the next
  /// leader's. When it is switched off, what was found meanwhile is acted on.
  void hold_judgement(bool hold);
  bool judgement_held() const noexcept { return held_.has_value(); }
  /// It is not to go on with what it has: sets it aside if it holds what the stream does not, and
  /// has it anew. But when the stream was deleted and made again, it is a copy that may begin it.
  /// `damaged`: what is here is no sound database, and is kept as such.
  void start_over(const WalFollower::Stuck& why, bool damaged = false);

  /// Compares the copy, while it follows, with what is noted of it; `at`: looks up as well what was
  /// noted of an earlier transaction; 0: of none. One at a time. `done` on the loop. Errors:
  /// unavailable (it does not follow, or is being verified), shutting_down (its phase has changed
  /// meanwhile: try again), corrupt (its WAL is damaged), system.
  void verify(std::shared_ptr<VerifyProgress> progress, Txid at, Callback<Verified> done);

  /// Checks what hand_over() would check, while the copy goes on following: answers with what is
  /// wrong with it, or nothing. It is started over then. Errors: unavailable (it is not ready, or
  /// has just become so), system.
  void check(Callback<std::string> done);
  /// Compares some pages of its file, while it follows, as scrub_some(). `done` on the loop,
  /// always.
  void scrub(PageNumber first, std::size_t bytes, Callback<ScrubStep> done);
  /// Writes a page of its file anew, as Replica::repair(). `done` on the loop, always. Errors:
  /// unavailable (it does not follow now, or somebody else has written to it), system, corrupt.
  void repair(PageNumber number, std::string page, Callback<bool> done);
  /// What its WAL has is moved into its file, whatever there is.
  void settle();
  /// Pages of its file are wrong, or are no more: while they are it does not lead.
  void suspect(bool wrong);

  struct HandedOver {
    DatabaseState state{};  ///< of txid 0 when there is none, or it is not known
    std::string damage{};   ///< what was found wrong with it: it was not handed over
  };
  /// Makes the copy the leader's: checks it, and moves it to its place. The copy is idle then. Not
  /// while something is under way. `since`: what is wanted is the state at that transaction, which
  /// the copy has gone on from; of txid 0 when that is not known. What came behind it counts as
  /// committed under `epoch`, that of this node's lead, from now on.
  void hand_over(std::optional<Txid> since, std::uint64_t epoch, Callback<HandedOver> done);

 private:
  void open();
  void opened(std::shared_ptr<Replica> replica);
  void look_in_stream(const nats::StreamState& stream);
  void recognise(const PositionRecord& record);
  void found(const nats::StreamState& stream);
  void founding_changed();
  HeldDatabase held_here() const;
  void leave_history(const std::string& here);
  void unusable(const Error& error);
  void unreadable(const Error& error);
  void watch_for_others();
  void have_anew(const nats::StreamState& stream);
  void restored(std::optional<Restored> copy, std::uint64_t first);
  void follow(std::uint64_t after);
  void take_rest();
  void failed(const Error& error, std::uint64_t sequence);
  void stuck(const WalFollower::Stuck& why);
  void rewound(std::uint64_t last);
  void ask_stream(std::function<void(const nats::StreamState&)> then);
  void missing(const Error& error);
  void another_stream(std::uint64_t history);
  void ask_begun(const nats::StreamState& stream, std::function<void(bool)> then);
  void set_aside_and_open(const WalFollower::Stuck& why, bool damaged);
  void found_aside(const std::string& kept, const std::string& why);
  void finish_set_aside_here();
  struct Aside {
    std::string path{};  // empty: nothing was worth keeping
    QuarantineKind kind{};
    std::optional<LeftOver> held{};
    std::optional<FileState> never_replicated{};  // it was not touched
  };
  Aside put_aside(const WalFollower::Stuck& why, bool damaged, const CopyPosition& was, bool rest);
  QuarantineNote note_of(const WalFollower::Stuck& why, const CopyPosition& was) const;
  void tell_of(const Aside& aside, const WalFollower::Stuck& why, bool damaged,
               const CopyPosition& was);
  void note_origin();
  void set_phase(Phase phase);
  void wait_and_open(const Error& error);
  void refuse(const Error& error, const FileState& file);
  void wait(const Error& error, std::function<void()> then);
  void look_for_proof();
  void prove();
  void proof_found(const Result<Verified>& found);
  void move(const std::string& from, const std::string& to);
  void follow_again();
  void next_turn();
  void checkpoint();
  std::optional<std::uint64_t> behind() const;
  void add_lag(Status& status) const;
  std::string place() const;
  void list_set_aside();
  void wait_for_scan();
  Error not_following(const char* what) const;
  template <typename T>
  std::function<void(Result<T>)> to_loop(Callback<T> done);
  template <typename T>
  void work(std::function<T()> task, std::function<void(Result<T>)> done);

  Loop& loop_;
  nats::JetStream& jetstream_;
  const Options options_;
  const Journal journal_;
  const Events events_;
  std::unique_ptr<Strand> strand_, checkpoints_, scans_;
  std::mutex files_;  // held while a checkpoint goes on, and to move the files
  // Made and used on the strand, or while that is at rest; the latter with files_ held.
  std::unique_ptr<PositionLog> log_;
  std::unique_ptr<HashFile> hashes_;
  UniqueFd replica_lock_;  // of a replica with a path of its own; as the log
  std::uint64_t history_ = 0;
  Phase phase_ = Phase::idle;
  std::uint64_t turn_ = 0;  // answers to earlier ones are too late
  std::stop_source stop_;   // what this turn does on the strand
  bool anew_ = false;       // what is here is not to be gone on with
  std::uint64_t from_ = 0;  // and what replaces it must go on with this record or behind
  int failures_ = 0;        // of records, in a row
  int starts_ = 0;          // over, since all went well
  std::atomic<int> percent_{0};
  std::shared_ptr<Replica> replica_;
  std::unique_ptr<WalFollower> follower_;
  StreamLag lag_;
  Founding founding_;
  HeldDatabase last_held_;  // while nothing newer is known
  std::unique_ptr<nats::OrderedConsumer> others_;
  std::unique_ptr<NewestRecord> newest_;
  bool caught_up_ = false;
  bool hold_ = false;
  bool checkpointing_ = false;
  bool settle_ = false;   // the next checkpoint is wanted whatever there is
  bool suspect_ = false;  // pages of its file are known to be wrong
  bool verifying_ = false;
  bool origin_noted_ = false;    // that all of it is from the stream
  bool proving_ = false;         // all of it is read, since somebody else has written to its file
  std::future<void> scan_over_;  // on the strand: when the last one has let go of the copy
  std::optional<WalFollower::Stuck> held_;  // found while judgement was held
  CopyPosition position_;                   // the last one that was known
  std::uint64_t sequence_ = 0;
  Counts counts_;
  std::uint64_t newest_foreign_ = 0;  // message of the stream that was told of
  RepeatLimit foreign_told_;
  mutable std::mutex aside_mutex_;
  QuarantineSummary aside_;  // under aside_mutex_
  std::string trouble_;
  std::optional<Error> refused_;
  Duration retry_{};
  LoopSource timer_, proof_timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

const char* to_text(DatabaseCopy::Phase phase);

/// What a look at the files alone tells: nothing, unread or unusable. May block.
HeldDatabase look_for_database(const std::vector<std::string>& paths);

}  // namespace cluster::sqlite
