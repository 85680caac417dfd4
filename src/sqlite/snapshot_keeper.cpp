#include "sqlite/snapshot_keeper.h"

#include <algorithm>
#include <future>
#include <map>
#include <set>
#include <utility>

#include "core/ask_loop.h"
#include "core/log.h"
#include "sqlite/snapshot_work.h"
#include "sqlite/stored_claims.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kFirstPlanLook = seconds(1);
constexpr Duration kFirstSnapshotRetry = seconds(1);
constexpr Duration kLastSnapshotRetry = seconds(60);
constexpr Duration kImageLimit = std::chrono::minutes(10);
constexpr std::size_t kMostWanted = 64;
constexpr Duration kUploadRests = std::chrono::hours(1);  // longer than any that goes on
constexpr int kMostFiles = 64;                            // that one turn writes of each kind
constexpr std::size_t kMostTold = 1'024;                  // foreign objects that are told of,
constexpr std::size_t kMostShown = 8;                     // and in one turn

bool is_of_content(const Error& error) {
  return error.errc() == Errc::corrupt || error.errc() == Errc::incompatible ||
         error.errc() == Errc::invalid_argument;
}

}  // namespace

// What the strand works with. A turn: take a snapshot if one is due, merge, delete, trim.
struct SnapshotKeeper::Work {
  SnapshotStore& store;
  const Options options;
  const std::function<std::shared_ptr<DatabaseImage>()> image;
  const std::stop_token stop;

  // Of the strand:
  LedTime led{BootClock::now()};
  std::int64_t led_noted = 0;  // what the bucket has of it
  bool bucket_made = false;
  bool swept = false;
  std::uint64_t given_up = 0;  // what ends there in the stream or before is not merged any more
  Files files{};               // in the bucket, of all histories
  std::vector<ForeignObject> foreign{};             // in it as well
  std::set<std::string> told{};                     // names of those that were told of
  std::vector<StoredFile> known{};                  // that are as the stream says
  std::map<std::string, ForeignObject> unusable{};  // whose content is not what they say
  StreamRange stream{};
  Txid stored = 0;
  std::optional<Made> made{};  // in this turn
  Removed removed{};

  mutable std::mutex mutex{};
  Status status{};
  JetStreamTime jetstream{};

  Outcome turn(Txid stored_now, bool wanted);
  void read();
  PlanTime now() const;
  std::int64_t led_ms() const { return led.at(BootClock::now()); }
  Files own() const { return files_of(files, stream); }
  std::vector<ForeignObject> news();
  void give_up(const StoredFile& file, const Error& why);
  std::optional<StoredFile> snapshot_if_due(bool wanted);
  StoredFile snapshot(const std::string& why);
  void merge_stream();
  void merge_files();
  void remove_old();
  void trim();
  void sweep();
  void note_led();
  void added(const StoredFile& file);
  void tell();
};

SnapshotKeeper::Outcome SnapshotKeeper::Work::turn(Txid stored_now, bool wanted) {
  Outcome outcome;
  made.reset();
  removed = {};
  try {
    stored = stored_now;
    read();
    outcome.taken = snapshot_if_due(wanted);
    merge_stream();
    // Much to replay, also after merging.
    if (!outcome.taken) outcome.taken = snapshot_if_due(false);
    merge_files();
    remove_old();
    trim();
    note_led();
    sweep();
  } catch (const Error& error) {
    outcome.failure = error;
  } catch (const std::exception& error) {
    outcome.failure = Error(Errc::system, error.what());
  }
  // Somebody may have deleted it.
  if (outcome.failure) bucket_made = false;
  tell();
  outcome.foreign = news();
  outcome.made = made;
  outcome.removed = removed;
  return outcome;
}

void SnapshotKeeper::Work::read() {
  if (!bucket_made) store.ensure(options.replicas, stop);
  bucket_made = true;
  auto kept = kept_files(store, options.stream, stop, &known);
  if (!kept.stream) throw Error(Errc::not_found, "there is no stream " + options.stream);
  stream = *kept.stream;
  files = std::move(kept.listing.files);
  foreign = std::move(kept.listing.foreign);
  std::erase_if(files, [&](const auto& file) {
    const auto found = unusable.find(file.name());
    if (found != unusable.end()) foreign.push_back(found->second);
    return found != unusable.end();
  });
  led_noted = kept.listing.led_ms;
  const Time now = BootClock::now();
  led.learn(kept.listing.led_ms, now);
  {
    const std::lock_guard lock(mutex);
    jetstream.learn(stream.last_ns, now);
    for (const auto& file : own()) jetstream.learn(file.time_ns, now);
  }
  tell();
}

// Objects that are told of for the first time; with names that come and go for ever not of all.
std::vector<ForeignObject> SnapshotKeeper::Work::news() {
  std::vector<ForeignObject> fresh;
  for (const auto& object : foreign) {
    if (told.size() >= kMostTold || !told.insert(object.name).second) continue;
    fresh.push_back(object);
  }
  return fresh;
}

// It stays where it is, and nothing is made of it any more.
void SnapshotKeeper::Work::give_up(const StoredFile& file, const Error& why) {
  const ForeignObject object{file.name(), why.what(), file.size};
  unusable[object.name] = object;
  foreign.push_back(object);
  std::erase(files, file);
  tell();
}

PlanTime SnapshotKeeper::Work::now() const {
  const Time now = BootClock::now();
  const std::lock_guard lock(mutex);
  return {jetstream.at(now), led.at(now)};
}

std::optional<StoredFile> SnapshotKeeper::Work::snapshot_if_due(bool wanted) {
  const Files files_now = own();
  std::string why = snapshot_due(files_now, stream, stored, now(), options.plan);
  if (why.empty() && given_up > 0 && !merge_start(files_now, stream, given_up))
    why = "the stream before it can't be merged";
  const Files chain = plan_restore(files_now);
  if (why.empty() && wanted) {
    if (stored <= chain.front().max) return chain.front();
    why = "it was asked for";
  }
  if (why.empty() || stored == 0) return std::nullopt;
  return snapshot(why);
}

StoredFile SnapshotKeeper::Work::snapshot(const std::string& why) {
  const auto begun = BootClock::now();
  {
    const std::lock_guard lock(mutex);
    status.busy = true;
    status.done = status.all = 0;
  }
  struct Over {
    Work& work;
    ~Over() {
      const std::lock_guard lock(work.mutex);
      work.status.busy = false;
    }
  } over{*this};
  const auto of = image();
  const FileOrigin origin{stream.history, place_of(store, stream, own(), *of, stop), led_ms()};
  const StoredFile file = store_snapshot(
      store, *of, origin,
      [this](PageNumber done, PageNumber all) {
        const std::lock_guard lock(mutex);
        status.done = done;
        status.all = all;
      },
      stop);
  const auto took = std::chrono::duration_cast<milliseconds>(BootClock::now() - begun);
  {
    const std::lock_guard lock(mutex);
    ++status.taken;
    status.took = took;
  }
  added(file);
  made = Made{file, of->state.pages.size(), took, why};
  // The range that the stream had when the turn began ends before it.
  stream.last = std::max(stream.last, file.end.sequence);
  return file;
}

void SnapshotKeeper::Work::merge_stream() {
  for (int i = 0; i < kMostFiles; ++i) {
    const auto start = merge_start(own(), stream, given_up);
    if (!start || start->end.sequence >= stream.last) return;
    std::optional<StoredFile> file;
    try {
      file = store_range(store, stream, *start, led_ms(), options.plan, options.folder, stop);
    } catch (const Error& error) {
      if (error.errc() != Errc::corrupt) throw;
      // What is there will not become better: a snapshot of what is behind it makes up for it.
      given_up = std::max(given_up, start->end.sequence);
      throw;
    }
    if (!file) return;
    added(*file);
    log::debug("snapshot_merge", {{"app", options.app},
                                  {"node", options.node},
                                  {"object", file->name()},
                                  {"bytes", file->size}});
  }
}

void SnapshotKeeper::Work::merge_files() {
  // One merge may make the next level's possible.
  for (int i = 0; i < kMostFiles; ++i) {
    const auto merges = plan_merges(own(), options.plan);
    if (merges.empty()) return;
    StoredFile at;
    std::optional<StoredFile> merged;
    try {
      merged = store_merge(store, merges.front(), options.folder, stop, at);
    } catch (const Error& error) {
      // What a source holds will not become better.
      if (at.max == 0 || !is_of_content(error)) throw;
      give_up(at, error);
      continue;
    }
    const StoredFile& file = *merged;
    added(file);
    log::debug("snapshot_merge", {{"app", options.app},
                                  {"node", options.node},
                                  {"object", file.name()},
                                  {"bytes", file.size}});
  }
}

void SnapshotKeeper::Work::remove_old() {
  const auto gone = plan_deletions(files, stream.history, led_ms(), options.plan);
  for (const auto& file : gone) {
    store.remove(file.name(), stop);
    std::erase(files, file);
    ++removed.files;
    if (file.snapshot()) ++removed.snapshots;
    removed.bytes += file.size;
    removed.last = std::max(removed.last, file.max);
    log::debug("snapshot_file_removed",
               {{"app", options.app}, {"node", options.node}, {"object", file.name()}});
  }
}

void SnapshotKeeper::Work::trim() {
  const auto before = plan_trim(own(), stream, led_ms(), options.plan, given_up);
  if (before <= stream.first) return;
  store.trim(options.stream, before, stop);
  stream.first = before;
  log::debug("stream_trimmed", {{"app", options.app},
                                {"node", options.node},
                                {"stream", options.stream},
                                {"before", before}});
}

// Once in a lead: a leader that was killed may have been in the midst of an upload.
void SnapshotKeeper::Work::sweep() {
  if (std::exchange(swept, true)) return;
  if (const auto uploads = store.sweep(kUploadRests, stop); uploads > 0)
    log::info("snapshot_uploads_swept",
              {{"app", options.app}, {"node", options.node}, {"uploads", uploads}});
}

// A database at rest has no new file that says it.
void SnapshotKeeper::Work::note_led() {
  const std::int64_t ms_led = led_ms();
  if (std::chrono::milliseconds(ms_led - led_noted) < options.plan.led_step) return;
  store.note_led(ms_led, stop);
  led_noted = ms_led;
}

void SnapshotKeeper::Work::added(const StoredFile& file) {
  unusable.erase(file.name());
  led_noted = std::max(led_noted, file.led_ms);
  std::erase_if(files, [&](const auto& other) { return other.name() == file.name(); });
  files.push_back(file);
  tell();
}

void SnapshotKeeper::Work::tell() {
  const Files now = own();
  const Files chain = plan_restore(now);
  const std::lock_guard lock(mutex);
  status.newest = chain.empty() ? std::nullopt : std::optional(chain.front());
  status.reach = chain.empty() ? 0 : chain.back().max;
  status.stream_first = stream.first;
  status.snapshots = status.merged = status.bytes = 0;
  status.foreign = foreign.size();
  for (const auto& file : files) {
    ++(file.snapshot() ? status.snapshots : status.merged);
    status.bytes += file.size;
  }
}

// ---- on the loop

SnapshotKeeper::SnapshotKeeper(Loop& loop, StrandPool& strands, SnapshotStore& store,
                               Options options, TakeImage take, std::function<Txid()> stored)
    : loop_(loop),
      options_(std::move(options)),
      journal_("database", options_.app, options_.node, options_.audit),
      take_(std::move(take)),
      stored_(std::move(stored)),
      strand_(strands.strand()),
      retry_(kFirstSnapshotRetry) {
  using Image = std::shared_ptr<DatabaseImage>;
  auto image = [this, alive = alive_, &loop_of = loop_, stop = stop_.get_token()] {
    return ask_loop<Image>(loop_of, "image of the database", kImageLimit, stop,
                           [this, alive](Callback<Image> done) {
                             if (*alive) return take_(std::move(done));
                             done(Error(Errc::not_leader, "this node does not lead any more"));
                           });
  };
  work_ = std::shared_ptr<Work>(new Work{store, options_, std::move(image), stop_.get_token()});
  plan_next(kFirstPlanLook);
}

SnapshotKeeper::~SnapshotKeeper() {
  *alive_ = false;
  stop_.request_stop();
  auto last = std::make_shared<std::promise<void>>();
  auto over = last->get_future();
  strand_->post([last] { last->set_value(); });
  last.reset();  // a task that is never run breaks the promise
  over.wait();
  for (auto* callers : {&waiting_, &wanted_})
    for (auto& done : std::exchange(*callers, {}))
      done(Error(Errc::not_leader, "snapshot: this node does not lead any more"));
}

void SnapshotKeeper::plan_next(Duration delay) {
  timer_ = loop_.after(delay, [this] { look(); });
}

// A database at rest costs nothing but a look now and then.
void SnapshotKeeper::look() {
  const bool changed = stored_() != seen_ || BootClock::now() >= idle_until_;
  if (changed || !wanted_.empty()) return begin();
  plan_next(options_.plan.merge_interval);
}

void SnapshotKeeper::begin() {
  if (working_) return;
  working_ = true;
  timer_.reset();
  seen_ = stored_();
  waiting_ = std::exchange(wanted_, {});
  const bool queued = strand_->post([this, alive = alive_, &loop = loop_, work = work_,
                                     stored = seen_, wanted = !waiting_.empty()] {
    const Outcome outcome = work->turn(stored, wanted);
    loop.post([this, alive, outcome] {
      if (*alive) done(outcome);
    });
  });
  if (!queued)
    loop_.post([this, alive = alive_] {
      if (*alive) done({Error(Errc::system, "no thread to take snapshots with"), {}, {}});
    });
}

void SnapshotKeeper::done(const Outcome& outcome) {
  const auto alive = alive_;
  working_ = false;
  const std::string trouble = outcome.failure ? outcome.failure->what() : "";
  {
    const std::lock_guard lock(work_->mutex);
    if (outcome.failure) ++work_->status.failures;
    if (!trouble.empty() && work_->status.trouble != trouble)
      journal_.warn("snapshot_trouble", {{"why", trouble}});
    work_->status.trouble = trouble;
  }
  if (const auto& made = outcome.made)
    journal_.info("snapshot", {{"txid", made->file.max},
                               {"epoch", made->file.end.epoch},
                               {"sequence", made->file.end.sequence},
                               {"pages", made->pages},
                               {"bytes", made->file.size},
                               {"ms", made->took.count()},
                               {"why", made->why}});
  for (std::size_t i = 0; i < std::min(outcome.foreign.size(), kMostShown); ++i)
    journal_.warn(
        "snapshot_foreign",
        {{"object", outcome.foreign[i].name},
         {"why", outcome.foreign[i].why},
         {"more", outcome.foreign.size() - i - 1},
         {"means", "it is left alone, and nothing is restored from it or decided by it"}});
  if (const auto& removed = outcome.removed; removed.files > 0)
    journal_.info("snapshot_retention", {{"files", removed.files},
                                         {"snapshots", removed.snapshots},
                                         {"bytes", removed.bytes},
                                         {"up_to_txid", removed.last}});
  if (outcome.failure) {
    seen_ = 0;
    plan_next(retry_);
    retry_ = std::min(retry_ * 2, kLastSnapshotRetry);
  } else {
    retry_ = kFirstSnapshotRetry;
    idle_until_ = BootClock::now() + options_.plan.interval;
    plan_next(options_.plan.merge_interval);
  }
  for (auto& caller : std::exchange(waiting_, {})) {
    if (outcome.taken)
      caller(*outcome.taken);
    else
      caller(outcome.failure
                 ? *outcome.failure
                 : Error(Errc::unavailable, "snapshot: the database has no transaction yet"));
    if (!*alive) return;
  }
  if (!wanted_.empty()) begin();
}

void SnapshotKeeper::create(Callback<StoredFile> done) {
  if (wanted_.size() >= kMostWanted)
    return done(Error(Errc::unavailable, "snapshot: too many are asked for"));
  wanted_.push_back(std::move(done));
  begin();
}

SnapshotKeeper::Status SnapshotKeeper::status() const {
  const Txid stored = stored_();
  const std::lock_guard lock(work_->mutex);
  Status status = work_->status;
  if (status.newest && stored > status.newest->max)
    status.age = std::chrono::nanoseconds(
        std::max<std::int64_t>(0, work_->jetstream.at(BootClock::now()) - status.newest->time_ns));
  return status;
}

}  // namespace cluster::sqlite
