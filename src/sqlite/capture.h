// Follows what any process commits to a database in WAL mode, and writes it down as LTX files. It
// does not watch for changes (wal_watch.h) and knows nothing of where the files go.
//
// A read mark keeps the WAL from being begun anew before all of it was seen. A mark that stays in
// its place would stop the program's own checkpoints. So a new one is taken before the old one is
// dropped: whenever something was committed, and once all of the WAL is in the database file. The
// old one is kept until JetStream has what the new one lets into
// the file. Where the WAL becomes long nevertheless, the capture checkpoints it itself.
//
// Following and writing down are two steps: what was committed is noted as a set of pages and their
// hashes, and their content is read when a file is asked for. So the WAL need not wait for whoever
// takes the files, and what is noted costs some bytes a page, however long they take.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cluster/clock.h"
#include "core/result.h"
#include "core/unique_fd.h"
#include "sqlite/file_writes.h"
#include "sqlite/handle.h"
#include "sqlite/hash_file.h"
#include "sqlite/image_copy.h"
#include "sqlite/ltx.h"
#include "sqlite/page_hash.h"
#include "sqlite/page_set.h"
#include "sqlite/read_mark.h"
#include "sqlite/scrub_step.h"
#include "sqlite/wal_file.h"
#include "sqlite/wal_format.h"
#include "sqlite/wal_index.h"

namespace cluster::sqlite {

/// What is known of a database's content at a transaction.
struct DatabaseState {
  Txid txid = 0;  ///< 0: nothing is known, the database begins now
  std::uint32_t page_size = 0;
  PageHashes pages{};
  /// Of the whole, when its pages are not known, or are of later; 0: that of `pages`.
  std::uint64_t hash = 0;
  /// Pages that have been written since, which `pages` has as they are now.
  std::vector<PageNumber> ahead{};
  /// Where its WAL ended when it was as `pages` say: what comes behind that has been committed
  /// since. Nothing: all that is in the WAL is known.
  std::optional<WalPosition> end{};
};

struct CaptureOptions {
  std::string path{};
  /// Bytes of WAL at half of which checkpoints begin. Above 1.5 times as many, writers are made to
  /// wait for them.
  std::size_t wal_limit = 16 * 1024 * 1024;
  std::uint64_t node_id = 0;  ///< written into the files
  /// Transactions up to here have been numbered before: if the database is not as it is known,
  /// what differs is numbered up to at least this one.
  Txid numbered = 0;
  /// Where it notes what the database file holds; nullptr: nowhere. Stays the caller's.
  HashFile* hashes = nullptr;
  std::uint64_t history = 0;  ///< for the marks in there, and
  std::uint64_t epoch = 0;    ///< that of the lead
};

/// One file that write() has written.
struct Captured {
  LtxHeader header{};
  Hashes hashes{};  ///< of the database
  std::size_t pages = 0;
  std::uint64_t size = 0;  ///< bytes
  WalPosition end{};       ///< the file has all up to there
};

class Capture {
 public:
  /// Opens the database, which must exist and have content, and switches it to WAL mode if it is
  /// not in it. What the database holds is compared with `known`, page by page, by hashes: what
  /// differs counts as changed and is in the first file. With `trusted`, the caller vouches
  /// that the database is just as `known` says, and nothing is read.
  /// Throws Error{not_found}, Error{corrupt}, Error{unavailable} (another process keeps it from
  /// being used: the message says how).
  Capture(CaptureOptions options, DatabaseState known, bool trusted);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// To be called last: notes that until now the file was written to by SQLite's means only. With
  /// no mark yet it tries to make one.
  void leave();

  /// Notes what has been committed since, and lets checkpoints go further where they may; tells
  /// whether anything is to be written. To be called when the WAL or the database file was written
  /// to, and when JetStream has acknowledged something. Throws Error{corrupt} when a frame's
  /// checksum is wrong, and from then on when overwritten().
  bool follow();
  /// Somebody has written to the file, not by SQLite's means: what is committed since then stands
  /// on another content, and is no history. Any thread.
  bool overwritten() const noexcept { return overwritten_.load(); }
  /// Keeps writers away, until unseal(): they get "database is locked". Returns whether that is so;
  /// not while another process is in the middle of a write transaction. Throws as Handle does.
  bool seal();
  void unseal() noexcept;
  /// Frames that it has looked at, and pages that it has written. Any thread.
  std::uint64_t worked() const noexcept { return worked_.load(); }
  /// JetStream has all up to there. Any thread; follow() makes use of it.
  void acknowledged(Txid txid) noexcept { acknowledged_ = txid; }
  /// A checkpoint of somebody's is under way, or has just ended: follow() is to be called within
  /// milliseconds. Any thread.
  bool expects_checkpoint();
  /// What was noted, as one file of whole transactions, in pieces; nothing when there is nothing.
  /// `begun` is called before the first piece, with what is known then.
  std::optional<Captured> write(const ByteSink& sink,
                                const std::function<void(const Captured&)>& begun = {});

  /// Begins to copy the database into the empty `file`, beside following and writing; gives up the
  /// copy that was under way. This and the next two: only on the thread that writes.
  void begin_copy(UniqueFd file);
  /// Copies some more, about `bytes`.
  void copy_more(std::size_t bytes);
  struct Copy {
    UniqueFd file;
    DatabaseState state{};  ///< what it is a copy of: as state() was at some moment
  };
  /// The copy, once it is complete. Throws Error{system} when the file could not be written, or the
  /// database not read: the copy is given up.
  std::optional<Copy> take_copy();

  /// Reads all of the database, as it was when it was followed last.
  DatabaseState content();
  /// The same, page by page, without the lock page; returns how many pages the database has.
  PageNumber each_page(const std::function<void(PageNumber, std::string_view)>& visit);

  /// What pages of the database's file must be, as long as nobody goes around SQLite. Nothing when
  /// the hashes of its pages are not kept. Any thread; waits while a file is written.
  std::optional<ExpectedPages> expected(PageNumber first, PageNumber count);
  /// The page, if it is the one with that hash now. What is read is not compared with it. Any
  /// thread; waits as expected() does. Throws Error{system}, Error{corrupt}.
  std::optional<std::string> page_with(PageNumber number, std::uint64_t hash);

  /// Whether the database's file at the path is another one than that which is open, or gone.
  bool replaced() const;

  enum class Checkpointed {
    done,   ///< the next writer begins the WAL anew, or it is short
    some,   ///< the WAL went on all the time: it is worth another try at once
    stuck,  ///< a reader keeps an old state, or another process checkpoints
  };
  /// Checkpoints if the WAL is longer than half its limit. To be called on another thread than the
  /// others; takes as long as the disk does. Nobody waits for it as long as the WAL is shorter than
  /// 1.5 times its limit: it is tried again and again to move the end of the WAL between two
  /// commits. Above that writers wait, those without a busy timeout get "database is locked".
  /// Throws Error{system}, Error{unavailable}.
  Checkpointed checkpoint();
  /// What was noted in the hash file gets to the disk. On the thread that checkpoints. Throws
  /// Error{system}.
  void sync_notes();

  /// The last transaction that was noted, and the last that was written. Any thread.
  Txid noted() const noexcept { return noted_.load(); }
  Txid written() const noexcept { return written_txid_.load(); }
  /// Of pages that were noted and not written: about what the next file holds. Any thread.
  std::uint64_t pending_bytes() const noexcept { return pending_bytes_.load(); }
  /// Bytes of the WAL that count now. Any thread.
  std::uint64_t wal_bytes() const noexcept { return wal_bytes_.load(); }
  /// It is longer than half its limit, and goes on. Any thread.
  bool wants_checkpoint() const noexcept { return wants_checkpoint_.load(); }
  /// How often the WAL was found begun anew before all of it was seen: each time all pages were
  /// compared. Any thread.
  std::uint64_t gaps() const noexcept { return gaps_.load(); }
  std::uint32_t page_size() const noexcept { return page_size_; }
  /// What the files written so far say of the database, with the hash of the whole; of pages that
  /// have changed since no more is known. Only on the thread that writes.
  DatabaseState written_state();
  /// Where in the WAL it has followed to. Only on the thread that follows.
  const WalPosition& position() const noexcept { return position_; }
  /// The hash of the database that the next file is for. Only on the thread that writes.
  std::uint64_t before() const noexcept { return before_; }

 private:
  class GateOpener;

  struct Mark {
    ReadMark held{};
    WalPosition at{};  // it lets all up to there into the file, and no more
    Txid txid = 0;     // there
    Time since{};
    // It reads the database file alone: the WAL may be begun anew, at `at`. Nothing more gets into
    // the file.
    bool on_file = false;
  };

  void open_database();
  WalIndexHeader take_first_mark();
  void renew_marks(bool to_newest);
  void drop_older(bool to_newest);
  bool move_to_file();
  bool runs_ahead();
  Mark& newest() noexcept { return marks_[newest_]; }
  Mark& older() noexcept { return marks_[1 - newest_]; }
  WalIndexHeader stable_header();
  PageNumber pages_of(const WalIndexHeader& header);
  bool follow_locked();
  void catch_up();
  void check_file(bool followed);
  bool file_is_as_known();
  bool pages_are_as_known();
  void follow_frames(const WalIndexHeader& header);
  void begin_run(const WalIndexHeader& header);
  void compare_all();
  void take_transaction();
  void begin_at(const WalPosition& end);
  void forget_frames();
  void note_mark();
  void note_ahead();
  void forget_mark();
  void not_noted(const Error& error);
  void scan_run(const WalIndexHeader& header);
  std::string_view page(PageNumber number);
  std::string_view frame(std::uint32_t number);
  void mark(PageNumber number);
  void copy(std::size_t pages);
  void complete_copy();
  bool is_backfilled(const WalSalts& salts, std::uint32_t frame);
  Checkpointed checkpoint_in_rounds();
  Checkpointed move_into_file(bool first);
  Checkpointed finish_checkpoint();
  bool may_begin_anew();
  bool shut_gate(Duration wait);
  void open_gate() noexcept;
  void look_beside_writing();
  bool too_long() const;
  std::uint64_t most_bytes() const;
  void cut_off();
  void tell();

  const CaptureOptions options_;
  std::mutex mutex_;
  Handle checkpointer_;
  Handle gate_;    // holds the marks, and the writer lock to keep writers out
  Mark marks_[2];  // the newest is always held, the other one until JetStream has what is between
  int newest_ = 0;
  Duration mark_age_{};  // then the newest one goes to another place
  WalIndex index_;
  FileWrites file_writes_;
  WalFile wal_;
  std::uint64_t inode_ = 0;
  std::uint32_t page_size_ = 0;

  WalPosition position_;  // followed so far
  bool checkpointing_ = false;
  bool shut_ = false;                  // the gate
  bool sealed_ = false;                // and it stays shut
  std::optional<Time> behind_since_;   // JetStream has answered nothing, and something waits
  Txid last_acknowledged_ = 0;         // then
  PageNumber commit_ = 0;              // pages of the database at position_
  bool hashing_ = false;               // pages_ is kept
  PageHashes pages_;                   // at position_
  std::vector<PageHash> transaction_;  // of frames behind it, whose transaction is not whole yet
  std::unordered_map<PageNumber, std::uint32_t> frames_;  // the newest of each page in this run
  std::uint64_t runs_ = 0;                                // how often frames_ has begun anew
  PageSet marked_;                                        // pages to be written
  std::string hashes_failed_;                             // why it could not be noted
  std::uint64_t before_ = 0;  // hash of the database that the next file is for
  std::string page_buffer_;
  std::string ahead_;  // frames that were read together
  std::uint32_t ahead_first_ = 0, ahead_count_ = 0, last_frame_ = 0;
  WalSalts ahead_salts_{};
  std::optional<ImageCopy> copying_;
  std::optional<Result<Copy>> copy_;  // that is complete, or has failed

  std::atomic<Txid> noted_{0}, written_txid_{0}, acknowledged_{0};
  std::atomic<std::uint64_t> pending_bytes_{0}, wal_bytes_{0}, gaps_{0}, worked_{0};
  std::atomic<bool> wants_checkpoint_{false}, unsynced_{false}, overwritten_{false};
};

}  // namespace cluster::sqlite
