// The database of a leader: what any process commits to it goes to the WAL stream. On the loop;
// following the database and checkpointing it have threads of their own. Knows nothing of how the
// lead was come by (replicated_database.h).
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/loop.h"
#include "core/result.h"
#include "sqlite/capture.h"
#include "sqlite/database_image.h"
#include "sqlite/first_pause.h"
#include "sqlite/outgoing.h"
#include "sqlite/position_log.h"
#include "sqlite/wal_leader.h"
#include "sqlite/wal_watch.h"

namespace cluster::sqlite {

/// How long what was committed may take to be stored: for as long as something of it moves at least
/// that often, and not after `until`. `quiet` 0: it is not waited for.
struct DrainLimits {
  Duration quiet{};
  Time until = Time::max();
};

class Primary {
 public:
  struct Options {
    std::string path{};
    std::size_t wal_limit = std::size_t{16} * 1024 * 1024;
    std::uint64_t epoch = 0;
    std::uint64_t history = 0;          ///< of the stream
    std::uint64_t node_id = 0;          ///< written into the files
    std::size_t most_part = 1'000'000;  ///< as most_part() says
    Txid numbered = 0;                  ///< as CaptureOptions::numbered
    bool at_least = false;              ///< there may be more of these than that
  };
  struct Events {
    /// Once: the database is followed from here on, or there is none yet; or why it can't be.
    std::function<void(Failure)> opened{};
    /// It can't be followed now, or (nothing) can again. Tried for as long as this object lives.
    std::function<void(Failure)> degraded{};
    /// Once: a part of a file is on its way and the rest can't be read, or somebody has written to
    /// the database's file, not by SQLite's means. Nothing more is sent.
    std::function<void(const Error&)> failed{};
    /// Another file was put in its place: what differs is sent.
    std::function<void()> replaced{};
    /// stop() goes on although not all is stored.
    std::function<void(const Error& why)> not_drained{};
  };
  struct Status {
    Txid committed = 0;               ///< the last transaction that was seen
    Txid stored = 0;                  ///< the last that JetStream has acknowledged
    std::uint64_t pending_bytes = 0;  ///< of pages and files that are not stored yet
    std::uint64_t stored_bytes = 0;   ///< of all files so far, also of parts of one
    /// How long the oldest transaction that is not stored has been on its way.
    std::chrono::milliseconds oldest{0};
    std::uint64_t wal_bytes = 0;
    std::uint64_t gaps = 0;
    std::string degraded{};  ///< why it can't be followed now
  };

  /// `leader` has stored its fence, and is told to append from here on; its events `stored` and
  /// `ready` are to be passed on. `log` and `hashes` are used on threads of this object's. `known`,
  /// `trusted`: as Capture's.
  Primary(Loop& loop, WalLeader& leader, PositionLog& log, HashFile& hashes, Options options,
          DatabaseState known, bool trusted, Events events);
  /// Waits until its threads have ended.
  ~Primary();
  Primary(const Primary&) = delete;
  Primary& operator=(const Primary&) = delete;

  void stored(const StreamRecord& record);
  void ready() { send(); }
  /// Bytes of files that a message has from now on.
  void most_part(std::size_t bytes) noexcept { most_part_ = bytes; }

  /// Answers once all that was committed before the call is stored in JetStream, with the last
  /// transaction then. Errors: timeout, unavailable (degraded; too many calls wait), not_leader
  /// (stopped).
  void sync(Duration limit, Callback<Txid> done);

  /// An image of the database, of a transaction that JetStream has; one at a time, others wait
  /// their turn. Made beside all else, in a nameless file beside the database. Errors: system (no
  /// room), not_leader (stopped), unavailable (too many wait).
  void image(Callback<std::shared_ptr<DatabaseImage>> done);

  /// Answers once all that was committed before is stored. With `seal` writers are kept away first:
  /// then nothing is committed behind that either, until unseal() or the end. One at a time; a new
  /// one takes the place of the last. Errors: not_replicated (the limits have passed: says which),
  /// unavailable (degraded), not_leader (stopped), shutting_down (another drain, or give_up_drain).
  /// Writers may come again by the time of an error.
  void drain(const DrainLimits& limits, bool seal, Completion done);
  /// Nothing more can be stored: a drain waits no more.
  void give_up_drain(const Error& why);
  /// Lets writers come again; `done` once they may.
  void unseal(std::function<void()> done);

  /// Stores what there is, as long as the limits allow; then ends following and says where the
  /// database stands. No event but `not_drained` comes any more. To be called once.
  void stop(const DrainLimits& limits, std::function<void()> done);

  Status status() const;
  /// Through which its pages can be asked for, as long as it is open; nothing while it is not.
  std::weak_ptr<Capture> capture() const;

 private:
  using SyncId = std::uint64_t;
  struct Sync {
    Callback<Txid> done;
    LoopSource limit;
    std::optional<Txid> until{};
  };
  struct Drain {
    DrainLimits limits{};
    Completion done{};
    SyncId sync = 0;  // 0: writers are not kept away yet
    std::uint64_t moved = 0;
    Time moved_at = BootClock::now();
    LoopSource look{};
  };
  struct Part {
    StreamRecord record{};
    SharedBytes bytes{};
    Time since{};  // its file was begun
  };
  struct Sent {
    std::size_t size = 0;
    Time since{};
  };
  struct File {
    File(const std::string& folder, std::size_t part) : bytes(folder, part) {
      record.final = false;
    }
    StreamRecord record{};  // of its next part; final: it was the last
    Outgoing bytes;
    bool complete = false;  // all of it was written
    Time since = BootClock::now();
  };

  // On the loop
  void send();
  Part next_part();
  void covered(const std::vector<SyncId>& syncs, const Result<Txid>& until);
  void answer_syncs();
  void finish_sync(SyncId id, const Result<Txid>& answer);
  SyncId begin_sync(Callback<Txid> done);
  std::uint64_t drained_so_far() const;
  void look_at_drain();
  void sync_drain();
  void finish_drain(const Failure& failure);
  void set_seal(bool wanted);
  void end();
  void on_loop(std::function<void()> task);
  void want_image();
  void imaged(Result<std::shared_ptr<DatabaseImage>> image);
  void answer_image();

  // On the thread that follows
  void run();
  bool stopping(std::vector<SyncId>& asked);
  bool open(bool at_once);
  bool may_open(bool at_once);
  void follow();
  void feed();
  bool worth_writing() const;
  void want_checkpoint();
  void write_file();
  bool send_parts();
  void give_up(const std::exception& error);
  void fail(const Error& failure);
  PositionRecord note(const Capture& capture, std::uint64_t hash, const WalPosition& end);
  void log_stored();
  void note_end();
  void check_file();
  bool make_image();
  void set_degraded(const Failure& failure);
  bool keep_writers_away();

  void run_checkpoints();

  Loop& loop_;
  WalLeader& leader_;
  PositionLog& log_;
  HashFile& hashes_;
  const Options options_;
  const std::string folder_;
  const Events events_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  // Of the loop
  std::deque<Part> queue_;          // parts that the leader was not ready for yet
  std::uint32_t next_part_ = 1;     // of the file whose parts are handed to the leader
  std::deque<Sent> sent_;           // those that it has, in order
  std::optional<Time> unfinished_;  // since when a file is on its way of which a part is stored
  std::map<SyncId, Sync> syncs_;
  SyncId last_sync_ = 0;
  std::deque<Callback<std::shared_ptr<DatabaseImage>>> images_;  // asked for
  std::shared_ptr<DatabaseImage> image_;  // for the first of them, waits to be stored
  StreamRecord last_stored_;
  std::deque<StreamRecord> stored_since_;  // the first image was asked for; the newest ones
  std::function<void()> ended_;
  bool ending_ = false;
  std::unique_ptr<Drain> drain_;
  bool sealed_ = false;                          // writers are kept away
  std::vector<std::function<void()>> unsealed_;  // who waits until they are not
  std::uint64_t stored_parts_ = 0;               // bytes

  // Of the thread that follows
  DatabaseState known_;
  bool trusted_;
  bool opened_ = false;
  std::unique_ptr<File> file_;          // that is being sent
  bool failed_ = false;                 // nothing is sent any more
  std::deque<PositionRecord> written_;  // of files that are not stored yet
  FirstPause first_pause_;              // of a database that is not open yet
  bool program_at_it_ = false;          // it waits for that
  bool removed_ = false;                // the database's file
  bool seal_told_ = false;              // that writers are kept away
  bool copying_ = false;                // an image is being made
  std::weak_ptr<Capture> copied_from_;

  WalWatch watch_;
  mutable std::mutex mutex_;  // over what follows
  std::condition_variable checkpoint_wanted_;
  std::shared_ptr<Capture> capture_;
  std::uint64_t unstored_bytes_ = 0;  // of parts that were handed to the loop
  std::optional<StreamRecord> newest_stored_;
  std::vector<SyncId> asked_;  // syncs that wait for the next look at the database
  bool image_wanted_ = false;
  bool seal_wanted_ = false, unseal_asked_ = false;
  bool stop_ = false;
  std::string degraded_;

  std::atomic<Txid> committed_{0}, stored_{0};
  std::atomic<std::size_t> most_part_;
  std::atomic<std::uint64_t> unsent_bytes_{0};  // of the file that is being sent
  std::thread follower_, checkpointer_;
};

}  // namespace cluster::sqlite
