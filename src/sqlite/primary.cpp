#include "sqlite/primary.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include <sys/prctl.h>

#include "core/log.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// While nothing is under way a transaction goes at once; else so much is gathered first.
constexpr std::uint64_t kGather = std::uint64_t{256} * 1024;
constexpr std::uint64_t kMostUnstored = std::uint64_t{4} * 1024 * 1024;  // bytes under way
constexpr std::size_t kMostSyncs = 4096;
constexpr std::size_t kMostImages = 16;
constexpr std::size_t kMostStoredSince = 4096;
constexpr std::size_t kImageStep = 512 * 1024;  // bytes copied between two looks
// A write to the WAL is seen before the wal-index counts it, by as long as a sync takes.
constexpr Duration kFirstWalLook = microseconds(40);
constexpr Duration kLastLook = milliseconds(20);
constexpr Duration kCheckpointLook = milliseconds(2);  // somebody waits for a mark to move
constexpr Duration kSafety = milliseconds(200);        // for file systems that tell of nothing
constexpr Duration kFirstCaptureRetry = milliseconds(50);
constexpr Duration kLastCaptureRetry = milliseconds(2'000);
constexpr Duration kFirstCheckpointRetry = milliseconds(2);
constexpr Duration kLastCheckpointRetry = milliseconds(250);
constexpr Duration kNotesSync = std::chrono::seconds(1);
constexpr Duration kDrainLook = milliseconds(50);
constexpr Duration kSealLook = milliseconds(2);

// Waits of this thread's end on time, not some 50 µs later as the kernel has it by default. It is
// only a hint: where it is refused, all is a little slower.
void wait_precisely() { ::prctl(PR_SET_TIMERSLACK, 1'000UL); }

}  // namespace

Primary::Primary(Loop& loop, WalLeader& leader, PositionLog& log, HashFile& hashes, Options options,
                 DatabaseState known, bool trusted, Events events)
    : loop_(loop),
      leader_(leader),
      log_(log),
      hashes_(hashes),
      options_(std::move(options)),
      folder_(std::filesystem::absolute(options_.path).parent_path()),
      events_(std::move(events)),
      known_(std::move(known)),
      trusted_(trusted),
      first_pause_(options_.path),
      watch_(options_.path),
      most_part_(options_.most_part) {
  committed_ = stored_ = known_.txid;
  last_stored_ = leader_.writer().last_stored();
  follower_ = std::thread([this] { run(); });
  checkpointer_ = std::thread([this] { run_checkpoints(); });
}

Primary::~Primary() {
  *alive_ = false;
  ending_ = true;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  watch_.wake();
  checkpoint_wanted_.notify_all();
  if (follower_.joinable()) follower_.join();
  if (checkpointer_.joinable()) checkpointer_.join();
  const Error error(Errc::not_leader, "this node has stopped leading database " + options_.path);
  give_up_drain(error);
  for (auto& [id, sync] : std::exchange(syncs_, {})) sync.done(error);
  for (auto& done : std::exchange(images_, {})) done(error);
  for (auto& done : std::exchange(unsealed_, {})) done();
}

// ---- on the loop

void Primary::on_loop(std::function<void()> task) {
  loop_.post([alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void Primary::send() {
  while (!queue_.empty() && leader_.ready()) {
    Part part = next_part();
    sent_.push_back({part.bytes->size(), part.since});
    leader_.append(part.record, part.bytes);
  }
}

// The first of those that wait, or as much of it as the server takes now: it may be another server
// than when the part was made.
Primary::Part Primary::next_part() {
  const std::size_t most = most_part_;
  Part part = queue_.front();
  if (part.bytes->size() > most) {
    part.record.final = false;
    part.record.hash = 0;
    part.bytes = std::make_shared<const std::string>(part.bytes->substr(0, most));
    queue_.front().bytes = std::make_shared<const std::string>(queue_.front().bytes->substr(most));
  } else {
    queue_.pop_front();
  }
  part.record.part = next_part_;
  next_part_ = part.record.final ? 1 : next_part_ + 1;
  return part;
}

void Primary::stored(const StreamRecord& record) {
  {
    std::lock_guard lock(mutex_);
    unstored_bytes_ -= sent_.front().size;
    stored_parts_ += sent_.front().size;
    if (record.final) newest_stored_ = record;
  }
  unfinished_ = record.final ? std::nullopt : std::optional(sent_.front().since);
  sent_.pop_front();
  watch_.wake();
  if (!record.final) return;
  stored_ = record.last;
  last_stored_ = record;
  if (!images_.empty()) {
    stored_since_.push_back(record);
    // What an image is said to be at may be too early by some records, never too late.
    if (stored_since_.size() > kMostStoredSince) stored_since_.erase(stored_since_.begin() + 1);
  }
  answer_syncs();
  answer_image();
}

void Primary::sync(Duration limit, Callback<Txid> done) {
  if (ending_)
    return done(Error(Errc::not_leader, "this node has stopped leading database " + options_.path));
  if (syncs_.size() >= kMostSyncs)
    return done(Error(Errc::unavailable, "database " + options_.path + ": " +
                                             std::to_string(kMostSyncs) +
                                             " calls wait for JetStream already"));
  const SyncId id = begin_sync(std::move(done));
  syncs_.at(id).limit = loop_.after(limit, [this, id, limit] {
    const auto ms = std::chrono::duration_cast<milliseconds>(limit).count();
    finish_sync(id,
                Error(Errc::timeout,
                      "database " + options_.path + ": JetStream has not acknowledged within " +
                          std::to_string(ms) + " ms; what was committed is here, and is sent on"));
  });
}

Primary::SyncId Primary::begin_sync(Callback<Txid> done) {
  const SyncId id = ++last_sync_;
  syncs_.emplace(id, Sync{std::move(done), {}});
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    first = asked_.empty();
    asked_.push_back(id);
  }
  if (first) watch_.wake();
  return id;
}

// The database was looked at after these had been asked for.
void Primary::covered(const std::vector<SyncId>& syncs, const Result<Txid>& until) {
  for (const SyncId id : syncs) {
    if (!until) {
      finish_sync(id, until);
    } else if (auto it = syncs_.find(id); it != syncs_.end()) {
      it->second.until = until.value();
    }
  }
  answer_syncs();
}

void Primary::answer_syncs() {
  std::vector<SyncId> done;
  for (const auto& [id, sync] : syncs_)
    if (sync.until && *sync.until <= stored_) done.push_back(id);
  for (const SyncId id : done) finish_sync(id, stored_.load());
}

void Primary::finish_sync(SyncId id, const Result<Txid>& answer) {
  auto sync = syncs_.extract(id);
  if (sync) sync.mapped().done(answer);
}

void Primary::image(Callback<std::shared_ptr<DatabaseImage>> done) {
  if (ending_)
    return done(Error(Errc::not_leader, "this node has stopped leading database " + options_.path));
  if (images_.size() >= kMostImages)
    return done(Error(Errc::unavailable, "database " + options_.path + ": " +
                                             std::to_string(kMostImages) +
                                             " images are asked for already"));
  images_.push_back(std::move(done));
  if (images_.size() == 1) want_image();
}

void Primary::want_image() {
  stored_since_.assign(1, last_stored_);
  {
    std::lock_guard lock(mutex_);
    image_wanted_ = true;
  }
  watch_.wake();
}

void Primary::imaged(Result<std::shared_ptr<DatabaseImage>> image) {
  if (image) {
    image_ = std::move(image.value());
    return answer_image();
  }
  auto done = std::move(images_.front());
  images_.pop_front();
  stored_since_.clear();
  if (!images_.empty()) want_image();
  done(std::move(image));
}

// Files end where images are made: a record ends with the image's transaction.
void Primary::answer_image() {
  if (!image_ || stored_ < image_->state.txid) return;
  auto image = std::exchange(image_, nullptr);
  auto done = std::move(images_.front());
  images_.pop_front();
  for (const auto& record : stored_since_)
    if (record.last <= image->state.txid) image->sequence = record.sequence;
  stored_since_.clear();
  if (!images_.empty()) want_image();
  done(std::move(image));
}

void Primary::drain(const DrainLimits& limits, bool seal, Completion done) {
  if (ending_)
    return done(Error(Errc::not_leader, "this node has stopped leading database " + options_.path));
  give_up_drain(Error(Errc::shutting_down, "something else waits for it now"));
  drain_ = std::make_unique<Drain>(Drain{limits, std::move(done)});
  drain_->moved = drained_so_far();
  drain_->look = loop_.every(kDrainLook, [this] { look_at_drain(); });
  if (!seal || sealed_) return sync_drain();
  set_seal(true);
}

void Primary::sync_drain() {
  drain_->sync = begin_sync([this](const Result<Txid>& all) {
    if (!drain_) return;
    finish_drain(all ? Failure() : Failure(all.error()));
  });
}

// What is stored counts. Before that the database is looked at, which takes long where much was
// committed at once; what is committed later gets nothing on.
std::uint64_t Primary::drained_so_far() const {
  const auto sync = syncs_.find(drain_->sync);
  if (sync == syncs_.end() || sync->second.until) return stored_parts_;
  std::lock_guard lock(mutex_);
  return stored_parts_ + (capture_ ? capture_->worked() : 0);
}

void Primary::look_at_drain() {
  const Time now = BootClock::now();
  const auto& [quiet, until] = drain_->limits;
  if (const auto moved = drained_so_far(); moved != drain_->moved) {
    drain_->moved = moved;
    drain_->moved_at = now;
  }
  const bool stalled = now - drain_->moved_at >= quiet;
  if (!stalled && now < until) return;
  const auto ms = std::chrono::duration_cast<milliseconds>(quiet).count();
  finish_drain(Error(Errc::not_replicated,
                     drain_->sync == 0 ? "another process is in the middle of a write transaction"
                     : stalled ? "nothing of it has got on for " + std::to_string(ms) + " ms"
                               : "the time for it is over"));
}

void Primary::finish_drain(const Failure& failure) {
  // With it goes what has called this.
  auto drain = std::move(drain_);
  syncs_.extract(drain->sync);
  if (!failure || ending_) return drain->done(failure);
  unseal([done = std::move(drain->done), failure] { done(failure); });
}

void Primary::give_up_drain(const Error& why) {
  if (drain_) finish_drain(why);
}

void Primary::unseal(std::function<void()> done) {
  const bool wanted = [this] {
    std::lock_guard lock(mutex_);
    return seal_wanted_;
  }();
  if (!wanted && !sealed_) return done();
  unsealed_.push_back(std::move(done));
  set_seal(false);
}

void Primary::set_seal(bool wanted) {
  {
    std::lock_guard lock(mutex_);
    seal_wanted_ = wanted;
    if (!wanted) unseal_asked_ = true;
  }
  watch_.wake();
}

void Primary::stop(const DrainLimits& limits, std::function<void()> done) {
  ended_ = std::move(done);
  if (limits.quiet <= Duration(0)) return end();
  drain(limits, false, [this, alive = alive_](const Failure& failure) {
    if (!*alive) return;
    if (failure && events_.not_drained) events_.not_drained(*failure);
    end();
  });
}

void Primary::end() {
  ending_ = true;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  watch_.wake();
  checkpoint_wanted_.notify_all();
}

Primary::Status Primary::status() const {
  Status status;
  status.committed = committed_;
  status.stored = stored_;
  const auto since = unfinished_       ? unfinished_
                     : !sent_.empty()  ? std::optional(sent_.front().since)
                     : !queue_.empty() ? std::optional(queue_.front().since)
                                       : std::nullopt;
  if (since) status.oldest = std::chrono::duration_cast<milliseconds>(BootClock::now() - *since);
  std::lock_guard lock(mutex_);
  status.degraded = degraded_;
  status.pending_bytes = unstored_bytes_ + unsent_bytes_;
  status.stored_bytes = stored_parts_;
  if (!capture_) return status;
  status.pending_bytes += capture_->pending_bytes();
  status.wal_bytes = capture_->wal_bytes();
  status.gaps = capture_->gaps();
  return status;
}

std::weak_ptr<Capture> Primary::capture() const {
  std::lock_guard lock(mutex_);
  return capture_;
}

// ---- on the thread that follows

void Primary::run() {
  wait_precisely();
  using Woken = WalWatch::Woken;
  Duration look = kSafety;
  Duration retry = kFirstCaptureRetry;
  bool check = false;
  std::vector<SyncId> asked;
  while (!stopping(asked)) {
    Duration wait = look;
    try {
      // Who asks may have committed to another file that has just taken the place of this one.
      if (check || !asked.empty()) check_file();
      if (!keep_writers_away()) wait = std::min(wait, kSealLook);
      Txid covered_until = 0;
      // Who asks wants what is committed replicated now.
      if (open(!asked.empty())) {
        follow();
        covered_until = committed_;
      }
      if (!asked.empty()) on_loop([this, asked, covered_until] { covered(asked, covered_until); });
      feed();
      if (capture_ && capture_->expects_checkpoint()) wait = std::min(wait, kCheckpointLook);
      if (make_image()) wait = Duration(0);
      if (program_at_it_) wait = std::min(wait, FirstPause::kLook);
      if (!removed_ && !failed_) set_degraded({});
      retry = kFirstCaptureRetry;
    } catch (const std::exception& error) {
      if (!asked.empty())
        on_loop([this, asked, why = std::string(error.what())] {
          covered(asked,
                  Error(Errc::unavailable, "what is committed can't be replicated now: " + why));
        });
      const auto* known = dynamic_cast<const Error*>(&error);
      set_degraded(known != nullptr ? *known : Error(Errc::system, error.what()));
      wait = retry;
      retry = std::min(retry * 2, kLastCaptureRetry);
    }
    const Woken woken = watch_.wait(wait);
    check = woken == Woken::files || (woken == Woken::timeout && look == kSafety);
    if (woken == Woken::written || woken == Woken::files)
      look = kFirstWalLook;
    else if (woken == Woken::timeout)
      look = look < kLastLook ? look * 2 : kSafety;
  }
  note_end();
  checkpointer_.join();
  on_loop([this] {
    follower_.join();
    // It may destroy this object.
    if (auto done = std::move(ended_)) done();
  });
}

bool Primary::stopping(std::vector<SyncId>& asked) {
  asked.clear();
  std::lock_guard lock(mutex_);
  asked.swap(asked_);
  return stop_;
}

// As it is wanted; false: it is to be tried again soon. Before the database is looked at, so that
// nothing is committed behind that.
bool Primary::keep_writers_away() {
  bool wanted = false, unseal = false;
  {
    std::lock_guard lock(mutex_);
    wanted = seal_wanted_;
    unseal = std::exchange(unseal_asked_, false);
  }
  if (unseal) {
    seal_told_ = false;
    if (capture_) capture_->unseal();
    on_loop([this] {
      sealed_ = false;
      for (auto& done : std::exchange(unsealed_, {})) done();
    });
  }
  if (!wanted) return true;
  // Also a database that was opened meanwhile.
  if (capture_ && !capture_->seal()) return false;
  if (std::exchange(seal_told_, true)) return true;
  on_loop([this] {
    sealed_ = true;
    if (drain_ && drain_->sync == 0) sync_drain();
  });
  return true;
}

// Before a program may write, the database is opened at once. One that it makes later, not before
// the program lets it go for a moment.
bool Primary::may_open(bool at_once) {
  program_at_it_ = false;
  if (!opened_) return true;
  switch (first_pause_.look(at_once)) {
    case FirstPause::State::ready: return true;
    case FirstPause::State::busy: program_at_it_ = true; return false;
    case FirstPause::State::absent: break;
  }
  if (known_.txid != 0)
    throw Error(Errc::not_found, "database " + options_.path + " is not there, or is empty");
  return false;
}

// True once there is a database.
bool Primary::open(bool at_once) {
  if (capture_) return true;
  if (!may_open(at_once)) return false;
  std::shared_ptr<Capture> capture;
  try {
    capture = std::make_shared<Capture>(
        CaptureOptions{options_.path, options_.wal_limit, options_.node_id, options_.numbered,
                       &hashes_, options_.history, options_.epoch},
        known_, trusted_);
  } catch (const Error& error) {
    // The program that is to be started may make it. What is there and can't be opened is no such
    // case: what is committed to it would be taken for nothing.
    std::error_code none;
    const auto size = std::filesystem::file_size(options_.path, none);
    const bool absent = none == std::errc::no_such_file_or_directory || (!none && size == 0);
    if (error.errc() != Errc::not_found || known_.txid != 0 || !absent) throw;
  }
  if (capture) {
    first_pause_.end();
    removed_ = false;
    // As it was taken over, and nothing of this lead's.
    if (capture->written() > 0 && capture->noted() == capture->written())
      note(*capture, capture->before(), capture->position());
    known_ = {};
    std::lock_guard lock(mutex_);
    capture_ = std::move(capture);
  }
  if (!std::exchange(opened_, true))
    on_loop([this] {
      if (events_.opened) events_.opened({});
    });
  return capture_ != nullptr;
}

void Primary::follow() {
  capture_->acknowledged(stored_);
  try {
    capture_->follow();
  } catch (const std::exception& error) {
    if (capture_->overwritten()) {
      if (!failed_) fail(Error(Errc::corrupt, error.what()));
      throw;
    }
    // All is looked at again, and what differs from what was written is sent.
    known_ = capture_->written_state();
    trusted_ = false;
    std::lock_guard lock(mutex_);
    capture_.reset();
    throw;
  }
  committed_ = capture_->noted();
  // A checkpoint would take a large transaction's time from sending it, and could not end before.
  const bool large = capture_->pending_bytes() > options_.wal_limit / 2 && worth_writing();
  if (!large) want_checkpoint();
  log_stored();
}

void Primary::want_checkpoint() {
  if (capture_->wants_checkpoint()) checkpoint_wanted_.notify_one();
}

// The file at the path may have become another one, or gone.
void Primary::check_file() {
  if (!capture_) return;
  if (!capture_->replaced()) {
    removed_ = false;  // it is back
    return;
  }
  if (inode_of(options_.path) != 0) {
    on_loop([this] {
      if (events_.replaced) events_.replaced();
    });
    capture_->follow();
    known_ = capture_->written_state();
    trusted_ = false;
    std::lock_guard lock(mutex_);
    capture_.reset();
    return;
  }
  removed_ = true;
  set_degraded(Error(Errc::not_found,
                     "database " + options_.path +
                         " was removed while this node leads; programs that have it open still "
                         "write to the removed file, which is followed. Stop them, or put a "
                         "database there"));
}

bool Primary::worth_writing() const {
  if (!capture_ || capture_->noted() == capture_->written()) return false;
  std::lock_guard lock(mutex_);
  return unstored_bytes_ == 0 ||
         (unstored_bytes_ < kMostUnstored && capture_->pending_bytes() >= kGather);
}

void Primary::feed() {
  while (!failed_) {
    if (!file_ && !worth_writing()) return;
    if (!file_) write_file();
    if (file_ && !send_parts()) return;
    file_.reset();
  }
}

// Hands parts to the loop, as far as not too much is under way; also while the file is still being
// written, which never waits for JetStream. True once it has been handed over whole.
bool Primary::send_parts() {
  StreamRecord& next = file_->record;
  while (!next.final && (file_->complete || file_->bytes.size() >= most_part_)) {
    {
      std::lock_guard lock(mutex_);
      if (unstored_bytes_ >= kMostUnstored) break;
    }
    auto bytes = std::make_shared<const std::string>(file_->bytes.take(most_part_));
    next.final = file_->complete && file_->bytes.size() == 0;
    {
      std::lock_guard lock(mutex_);
      unstored_bytes_ += bytes->size();
      unsent_bytes_ = file_->bytes.size();
    }
    StreamRecord record = next;
    if (!record.final) record.hash = 0;
    ++next.part;
    on_loop([this, record = std::move(record), bytes, since = file_->since] {
      queue_.push_back({record, bytes, since});
      send();
    });
  }
  unsent_bytes_ = file_->bytes.size();
  return next.final;
}

void Primary::write_file() {
  file_ = std::make_unique<File>(folder_, most_part_);
  std::optional<Captured> captured;
  try {
    captured = capture_->write(
        [&](std::string_view bytes) {
          file_->bytes.append(bytes);
          send_parts();
        },
        [&](const Captured& begun) {
          file_->record.first = begun.header.min_txid;
          file_->record.last = begun.header.max_txid;
          file_->record.before = begun.hashes.before;
        });
  } catch (const std::exception& error) {
    const bool begun = file_->record.part > 1;
    file_.reset();
    unsent_bytes_ = 0;
    if (!begun) throw;
    return give_up(error);
  }
  want_checkpoint();
  if (!captured) return file_.reset();
  file_->complete = true;
  file_->record.hash = captured->hashes.after;
  // From here on it will be sent, whatever fails.
  written_.push_back(note(*capture_, captured->hashes.after, captured->end));
}

// What follows a part must be the rest of its file. A node that can't read its database is not the
// one to lead, either.
void Primary::give_up(const std::exception& error) {
  fail(Error(Errc::system,
             "database " + options_.path + " can't be read while it is sent: " + error.what()));
}

void Primary::fail(const Error& failure) {
  failed_ = true;
  set_degraded(failure);
  on_loop([this, failure] {
    if (events_.failed) events_.failed(failure);
  });
}

// Some more of the image that is wanted; true while it is not complete.
bool Primary::make_image() {
  if (!capture_) return false;
  if (!copying_) {
    std::lock_guard lock(mutex_);
    if (!std::exchange(image_wanted_, false)) return false;
    copying_ = true;
    copied_from_.reset();
  }
  Result<std::shared_ptr<DatabaseImage>> answer = std::shared_ptr<DatabaseImage>();
  try {
    // With another capture it begins anew.
    if (copied_from_.lock() != capture_) {
      capture_->begin_copy(temporary_file(folder_));
      copied_from_ = capture_;
    }
    capture_->copy_more(kImageStep);
    auto copy = capture_->take_copy();
    if (!copy) return true;
    auto image = std::make_shared<DatabaseImage>();
    image->file = std::move(copy->file);
    image->state = std::move(copy->state);
    image->epoch = options_.epoch;
    answer = std::move(image);
  } catch (const Error& error) {
    answer = error;
  }
  copying_ = false;
  on_loop([this, answer] { imaged(answer); });
  return false;
}

// Where the database stands, for a later start that finds it so or further on.
PositionRecord Primary::note(const Capture& capture, std::uint64_t hash, const WalPosition& end) {
  const PositionRecord record{options_.epoch, capture.written(), 0, hash, capture.page_size(), end,
                              true,
                              // Once they are stored they are so many as they are numbered.
                              options_.at_least && stored_ < options_.numbered};
  log_.append(record);
  return record;
}

// Which place in the stream the newest stored transaction has: from there a restart follows.
void Primary::log_stored() {
  std::optional<StreamRecord> stored;
  {
    std::lock_guard lock(mutex_);
    stored = std::exchange(newest_stored_, std::nullopt);
  }
  if (!stored) return;
  while (!written_.empty() && written_.front().txid <= stored->last) {
    PositionRecord record = written_.front();
    written_.pop_front();
    if (record.txid != stored->last) continue;
    record.sequence = stored->sequence;
    log_.append(record);
  }
}

// What was committed at the very last may never be sent: a later start must know it all the same.
void Primary::note_end() {
  try {
    if (!capture_) return;
    log_stored();
    // What it holds now is at no position.
    if (!capture_->overwritten()) {
      capture_->follow();
      committed_ = capture_->noted();
      const auto not_sent = [this](std::string_view bytes) { unsent_bytes_ += bytes.size(); };
      if (const auto captured = capture_->write(not_sent))
        note(*capture_, captured->hashes.after, captured->end);
      capture_->leave();
    }
  } catch (const std::exception& error) {
    log::warn("database_position_unknown",
              {{"path", options_.path},
               {"epoch", options_.epoch},
               {"why", error.what()},
               {"means", "the next start takes its last transactions for a divergence"}});
  }
  std::lock_guard lock(mutex_);
  capture_.reset();
}

void Primary::set_degraded(const Failure& failure) {
  const std::string text = failure ? failure->what() : "";
  {
    std::lock_guard lock(mutex_);
    if (degraded_ == text) return;
    degraded_ = text;
  }
  on_loop([this, failure, first = !std::exchange(opened_, true)] {
    if (first)
      events_.opened(failure);
    else if (events_.degraded)
      events_.degraded(failure);
  });
}

// ---- on the thread that checkpoints

void Primary::run_checkpoints() {
  wait_precisely();
  Duration retry = kFirstCheckpointRetry;
  Time synced = BootClock::now();
  std::string told;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto capture = capture_;
    const bool wanted = capture && capture->wants_checkpoint();
    const bool sync = capture && BootClock::now() >= synced + kNotesSync;
    if (!wanted && !sync) {
      checkpoint_wanted_.wait_for(lock, kSafety);
      continue;
    }
    lock.unlock();
    auto result = Capture::Checkpointed::stuck;
    std::string failure;
    try {
      if (sync) capture->sync_notes();
      if (sync) synced = BootClock::now();
      result = capture->checkpoint();
    } catch (const Error& error) {
      failure = error.what();
    }
    if (!failure.empty() && failure != told)
      log::error("checkpoint_failed", {{"path", options_.path}, {"why", failure}});
    told = failure;
    lock.lock();
    if (result == Capture::Checkpointed::done) {
      retry = kFirstCheckpointRetry;
      continue;
    }
    // Where the WAL went on there may be a moment in it soon.
    if (result == Capture::Checkpointed::some) retry = kFirstCheckpointRetry;
    checkpoint_wanted_.wait_for(lock, retry, [this] { return stop_; });
    retry = std::min(retry * 2, kLastCheckpointRetry);
  }
}

}  // namespace cluster::sqlite
