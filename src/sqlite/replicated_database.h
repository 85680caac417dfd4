// A database of an app on this node: a copy that follows while the node stands by, the primary
// while it leads, and the way from the one to the other and back (docs/protocols.md, "The WAL
// stream"). On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/journal.h"
#include "core/loop.h"
#include "core/result.h"
#include "core/strand.h"
#include "nats/jetstream.h"
#include "sqlite/commit_service.h"
#include "sqlite/database_copy.h"
#include "sqlite/page_request.h"
#include "sqlite/primary.h"
#include "sqlite/scrub.h"
#include "sqlite/snapshot_keeper.h"
#include "sqlite/verify.h"
#include "sqlite/wal_leader.h"

namespace cluster::sqlite {

/// What was committed and JetStream has not acknowledged: that of one lead.
struct Unsent {
  std::uint64_t epoch = 0;
  Txid first = 1, last = 0;  ///< transactions; `last` before `first`: none
  std::uint64_t bytes = 0;   ///< about
  std::string why{};         ///< the last thing that was in the way, if that is known

  Txid transactions() const noexcept { return last < first ? 0 : last - first + 1; }
};
/// "2 transactions (5 to 6, about 812 bytes)".
std::string to_text(const Unsent& unsent);

class ReplicatedDatabase {
 public:
  struct Options {
    std::string platform{}, app{}, node{};
    std::string path{};
    std::string replica{};
    std::string user{};  ///< whose a folder is made for them; empty: this process' own
    int stream_replicas = 1;
    std::size_t wal_limit = std::size_t{16} * 1024 * 1024;
    SnapshotOptions snapshots{};
    bool alone = false;                                   ///< as Founding::Options
    std::function<std::vector<FoundingNode>()> others{};  ///< the same
    ScrubOptions scrub{};
    /// Asks the node that leads for a part of a page: its read_page(). Empty: nobody can be asked.
    AskForPage ask_for_page{};
  };
  struct Events {
    /// Whether this node may lead has changed.
    std::function<void(bool)> ready_changed{};
    /// The position has moved on.
    std::function<void()> moved{};
    /// Others should know what held() says now.
    std::function<void()> held_changed{};
    /// This node leads and can't any more: demote it. `fenced`: at once, somebody else leads.
    std::function<void(const Error& why, bool fenced)> lost{};
    /// This node leads, and pages of its database's file are wrong: a sound standby should. Called
    /// again while that is so, once a minute.
    std::function<void(const std::string& why)> unsound{};
    AuditSink audit{};
  };
  enum class Role {
    standby,
    promoting,
    primary,
    demoting,
  };
  /// What has happened to the database on this node since it started.
  struct Counts {
    std::uint64_t promotions = 0, failed_promotions = 0, demotions = 0;
    std::uint64_t fenced = 0;        ///< leads that another leader's fence has ended
    std::uint64_t lost = 0;          ///< leads that ended since the stream took no more
    std::uint64_t degraded = 0;      ///< how often the database could not be followed
    std::uint64_t left_over = 0;     ///< leads that began with what this node's last one had left
    std::uint64_t replaced = 0;      ///< how often another file was put in the primary's place
    std::uint64_t unreplicated = 0;  ///< transactions that a lead ended without having stored
    std::uint64_t gaps = 0;          ///< how often all pages were compared, since a WAL was lost
    DatabaseCopy::Counts copy{};
  };
  struct Status {
    Role role{};
    std::string path{};
    std::uint64_t epoch = 0;  ///< of its last transaction, or of the lead
    Txid txid = 0;
    std::uint64_t sequence = 0;
    Txid lag_transactions = 0;  ///< of a standby: as DatabaseCopy::Status; of a primary: not stored
    std::uint64_t lag_records = 0;  ///< of a standby
    std::uint64_t lag_bytes = 0;
    std::chrono::milliseconds lag_time{0};
    std::uint64_t wal_bytes = 0;
    Counts counts{};
    DatabaseCopy::Phase copy{};
    int restored_percent = 0;  ///< in Phase::restoring
    bool ready = false;
    std::string trouble{};
    QuarantineSummary quarantine{};
    std::optional<Verified> verified{};  ///< by the newest verify()
    std::int64_t verified_ms = 0;        ///< when that ended, since 1970
    Scrub::Status scrub{};
    std::optional<SnapshotKeeper::Status> snapshots{};  ///< of a primary
  };

  ReplicatedDatabase(Loop& loop, StrandPool& strands, nats::JetStream& jetstream, Options options,
                     Events events);
  ~ReplicatedDatabase();
  ReplicatedDatabase(const ReplicatedDatabase&) = delete;
  ReplicatedDatabase& operator=(const ReplicatedDatabase&) = delete;

  /// Begins as a standby.
  void start();
  /// This node may lead without having to catch up for long.
  bool ready() const noexcept { return copy_.ready(); }

  /// Fences the stream, follows it up to the fence, makes the copy the primary. `done` once: the
  /// database may be written then; or why not, and demote() is to be called all the same.
  void promote(std::uint64_t epoch, Completion done);
  /// A promotion that is under way fails now.
  void cancel();
  /// As Primary::drain; the error says as well what is left, and what JetStream says.
  /// Error{not_leader} on a standby.
  void drain(const DrainLimits& limits, bool seal, Completion done);
  /// As Primary::unseal; at once when there is no primary.
  void unseal(std::function<void()> done);
  /// Of the primary; of the last lead when there is none.
  Unsent unsent() const;
  /// The record of the stream with which a copy has all that was stored so far; 0: nothing was
  /// ever committed. Of a primary.
  std::uint64_t stored_up_to() const;
  /// What a promotion would check: as DatabaseCopy::check. Error{unavailable} when this is no
  /// standby.
  void check(Callback<std::string> done);
  /// Back to a standby. What was committed is waited for to be stored, as long as the limits allow.
  void demote(const DrainLimits& drain, std::function<void()> done);
  /// For good; from a standby, or while a demotion is under way, behind it.
  void stop(std::function<void()> done);

  /// As Primary::sync. Error{not_leader} on a standby.
  void sync(Duration limit, Callback<Txid> done);
  /// As SnapshotKeeper::create. Error{not_leader} on a standby.
  void snapshot(Callback<StoredFile> done);
  /// Compares what the database holds with what is noted of it, at one transaction, while others
  /// come; takes as long as reading all of it, and on a primary as copying it. One at a time.
  /// Errors: unavailable (not now: says why), shutting_down (broken off by a change of role),
  /// system (no room for the copy). `at`: what a standby has noted of that earlier transaction is
  /// told besides; 0: of none.
  void verify(std::shared_ptr<VerifyProgress> progress, Txid at, Callback<Verified> done);
  /// Begins to scrub at once, unless that is under way.
  void scrub() { scrub_.begin_now(); }
  /// A part of a page, of the node that leads. Errors: not_leader; not_found (the page is another
  /// one by now); invalid_argument; unavailable (not now), system, corrupt.
  void read_page(const PageRequest& request, Callback<std::string> done);
  Status status() const;
  /// What the record of this node is to say of the database.
  HeldDatabase held() const;
  /// What the records of other nodes say may have changed.
  void others_changed() { copy_.others_changed(); }
  /// Where the socket for commits that wait is while this node leads; empty: nowhere now.
  std::string commit_folder() const { return commits_ ? commits_->folder() : ""; }
  /// Somebody may have removed a database from quarantine: looks, for the status.
  void look_at_quarantine() { copy_.look_at_quarantine(); }
  /// The database has all up to that position here. `sequence` 0: not known, `txid` tells.
  bool has(std::uint64_t epoch, Txid txid, std::uint64_t sequence) const;

 private:
  void make_folders();
  void ensure_stream();
  nats::StreamConfig stream_config() const;
  void make_missing_stream();
  void copy_changed();
  void tell_held();
  void try_to_take_over();
  void take_over(std::optional<Txid> ahead);
  void lead(DatabaseState known, bool trusted, Txid numbered);
  void finish_promotion(Failure failure);
  std::size_t most_part_now() const;
  void lose(const Error& error);
  void stand_by();
  void keep_snapshots();
  void serve_commits();
  void refuse_commits(const std::string& why);
  void verify_image_of_primary(std::shared_ptr<VerifyProgress> progress, Callback<Verified> done);
  Scrub::Work scrub_work();
  void compare(PageNumber first, std::size_t bytes, Callback<ScrubStep> done);
  void compare_of_primary(PageNumber first, std::size_t bytes, Callback<ScrubStep> done);
  void repair(const WrongPage& page, std::uint32_t page_size, Callback<bool> done);
  bool give_copy_up(const std::string& why);
  template <typename T>
  void beside(std::function<T()> task, Callback<T> done);
  void verified(Result<Verified> result, const Callback<Verified>& done);
  WalLeader::Events leader_events();
  Primary::Events primary_events();
  void watch_gaps();

  Loop& loop_;
  StrandPool& strands_;
  nats::JetStream& jetstream_;
  const Options options_;
  const Events events_;
  const Journal journal_;
  const std::string stream_;
  SnapshotStore snapshots_;
  DatabaseCopy copy_;
  Role role_ = Role::standby;
  std::uint64_t epoch_ = 0;
  bool left_over_at_least_ = false;  // what this lead began with may be more than is known
  std::uint64_t history_ = 0;
  bool was_ready_ = false;
  HeldDatabase told_held_;
  bool handing_over_ = false;
  bool stopped_ = false;  // for good
  bool making_stream_ = false;
  bool lost_ = false;  // nothing more is appended in this lead
  int damages_ = 0;    // copies that were found damaged in this promotion
  std::unique_ptr<WalLeader> leader_;
  std::unique_ptr<Primary> primary_;
  std::unique_ptr<SnapshotKeeper> keeper_;
  std::unique_ptr<CommitService> commits_;
  std::optional<StreamRecord> fence_;
  std::uint64_t stored_sequence_ = 0;
  std::uint64_t gaps_told_ = 0;  // of this primary
  Completion promoted_;
  std::function<void()> demoted_, ended_;
  std::string trouble_;
  Unsent left_;  // by the last lead
  Counts counts_;
  std::unique_ptr<Strand> verifier_;
  std::shared_ptr<Strand> files_;  // for the socket's file, and folders
  std::unique_ptr<Strand> pages_;  // for what reads pages of the primary
  std::stop_source verifier_stop_;
  bool verifying_ = false;
  std::optional<Verified> verified_;
  std::int64_t verified_ms_ = 0;
  Scrub scrub_;
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

const char* to_text(ReplicatedDatabase::Role role);

}  // namespace cluster::sqlite
