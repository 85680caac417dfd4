#include "sqlite/replicated_database.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "core/check.h"
#include "core/ids.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "sqlite/left_over.h"
#include "sqlite/make_folder.h"
#include "sqlite/set_aside.h"
#include "sqlite/snapshot_restore.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr Duration kStreamRetry = milliseconds(500);
constexpr Duration kFolderRetry = std::chrono::seconds(1);
constexpr auto kDuplicateWindow = std::chrono::seconds(30);
constexpr std::size_t kMostPageTasks = 64;

DatabaseCopy::Restore restore_from(SnapshotStore& store, const std::string& stream) {
  return [&store, stream](const std::string& into, std::uint64_t first,
                          const std::function<void(int)>& progress,
                          const std::stop_token& stop) -> std::optional<DatabaseCopy::Restored> {
    auto range = store.stream(stream, stop);
    if (!range) throw Error(Errc::not_found, "there is no stream " + stream);
    range->first = std::max(range->first, first);
    auto tell = [&progress](std::uint64_t done, std::uint64_t all) {
      if (all > 0) progress(static_cast<int>(done * 100 / all));
    };
    auto restored = restore_connected(store, *range, into, tell, stop);
    if (!restored) return std::nullopt;
    return DatabaseCopy::Restored{std::move(restored->state),
                                  {restored->epoch, restored->sequence}};
  };
}

}  // namespace

const char* to_text(ReplicatedDatabase::Role role) {
  using Role = ReplicatedDatabase::Role;
  switch (role) {
    case Role::standby: return "standby";
    case Role::promoting: return "promoting";
    case Role::primary: return "primary";
    case Role::demoting: return "demoting";
  }
  return "unknown";
}

std::string to_text(const Unsent& unsent) {
  const auto count = unsent.transactions();
  return std::to_string(count) + (count == 1 ? " transaction (" : " transactions (") +
         std::to_string(unsent.first) + (count == 1 ? "" : " to " + std::to_string(unsent.last)) +
         ", about " + std::to_string(unsent.bytes) + " bytes)";
}

ReplicatedDatabase::ReplicatedDatabase(Loop& loop, StrandPool& strands, nats::JetStream& jetstream,
                                       Options options, Events events)
    : loop_(loop),
      strands_(strands),
      jetstream_(jetstream),
      options_(std::move(options)),
      events_(std::move(events)),
      journal_("database", options_.app, options_.node, events_.audit),
      stream_(wal_stream(options_.platform, options_.app)),
      snapshots_(jetstream, snapshot_bucket(options_.platform, options_.app)),
      copy_(loop, strands, jetstream,
            {options_.app, options_.node, options_.path, options_.replica, stream_,
             options_.platform + "." + options_.app + ".wal", options_.wal_limit,
             restore_from(snapshots_, stream_), events_.audit,
             "KV_" + options_.platform + "_members", options_.alone, options_.others},
            {[this] { copy_changed(); }, [this] { make_missing_stream(); }}),
      verifier_(strands.strand()),
      files_(strands.strand()),
      pages_(strands.strand(kMostPageTasks)),
      scrub_(loop, strands,
             {options_.app, options_.node, scrub_record_path(options_.path), options_.scrub,
              events_.audit},
             scrub_work()) {
  jetstream.connection().on_state(alive_, [this](nats::ConnectionState state, const std::string&) {
    // Where it is too small now for anything, what is sent next says so.
    if (state == nats::ConnectionState::connected && primary_)
      primary_->most_part(std::max<std::size_t>(most_part_now(), 1));
  });
}

ReplicatedDatabase::~ReplicatedDatabase() {
  *alive_ = false;
  verifier_stop_.request_stop();
}

void ReplicatedDatabase::start() {
  make_folders();
  scrub_.start();
}

void ReplicatedDatabase::make_folders() {
  auto again = [this](const std::string& why) {
    if (trouble_ != why) journal_.error("database_unavailable", {{"why", why}});
    trouble_ = why;
    timer_ = loop_.after(kFolderRetry, [this] { make_folders(); });
  };
  auto made = [this, alive = alive_, again](const std::string& why, HeldDatabase held) {
    if (!*alive || stopped_) return;
    copy_.note_held(std::move(held));
    tell_held();
    if (!why.empty()) return again(why);
    trouble_.clear();
    ensure_stream();
  };
  auto task = [&loop = loop_, made, path = options_.path, replica = options_.replica,
               user = options_.user] {
    std::string why;
    try {
      for (const auto& file : {path, replica})
        if (!file.empty()) make_folder(std::filesystem::path(file).parent_path(), user);
    } catch (const std::exception& error) {
      why = error.what();
    }
    loop.post([made, why, held = look_for_database({path, replica.empty() ? path : replica})] {
      made(why, held);
    });
  };
  if (!files_->post(std::move(task))) again("there is no thread to look at its folder with");
}

nats::StreamConfig ReplicatedDatabase::stream_config() const {
  nats::StreamConfig config;
  config.name = stream_;
  config.description = "cpp-cluster: what is committed to the database of app " + options_.app;
  config.subjects = {options_.platform + "." + options_.app + ".wal"};
  config.replicas = options_.stream_replicas;
  config.deny_delete = true;
  config.duplicate_window = kDuplicateWindow;
  config.metadata = {{kHistoryKey, random_id()}};
  return config;
}

// Somebody has deleted it while this node follows: whoever is to lead next needs one.
void ReplicatedDatabase::make_missing_stream() {
  if (making_stream_ || stopped_) return;
  making_stream_ = true;
  ensure_stream();
}

void ReplicatedDatabase::ensure_stream() {
  auto known = [this, alive = alive_](const Result<nats::StreamState>& state) {
    if (!*alive) return;
    making_stream_ = false;
    if (primary_ || handing_over_ || stopped_) return;
    if (copy_.phase() != DatabaseCopy::Phase::idle) {
      // Without an answer the copy finds it missing again.
      if (state && role_ == Role::standby) copy_.found_stream(history_of(state.value()));
      return;
    }
    if (!state) {
      if (trouble_ != state.error().what())
        log::warn("database_stream",
                  {{"app", options_.app}, {"node", options_.node}, {"why", state.error().what()}});
      trouble_ = state.error().what();
      timer_ = loop_.after(kStreamRetry, [this] { ensure_stream(); });
      return;
    }
    trouble_.clear();
    history_ = history_of(state.value());
    copy_.begin(history_);
  };
  jetstream_.create_stream(stream_config(),
                           [this, alive = alive_, known](Result<nats::StreamState> state) {
                             if (!*alive) return;
                             if (state && history_ != 0)
                               journal_.warn("database_stream_missing",
                                             {{"stream", stream_},
                                              {"means",
                                               "somebody has deleted it; it is made again, empty: "
                                               "the node that has the most of the same history "
                                               "begins it with its whole database"}});
                             // With another configuration it is there already, and stays as it is;
                             // who may not make it may use it.
                             if (state || (state.error().errc() != Errc::invalid_argument &&
                                           state.error().errc() != Errc::permission_denied))
                               return known(state);
                             jetstream_.stream(stream_, known);
                           });
}

void ReplicatedDatabase::copy_changed() {
  if (role_ == Role::promoting && copy_.refused()) finish_promotion(copy_.refused());
  if (role_ == Role::promoting) try_to_take_over();
  if (events_.moved) events_.moved();
  tell_held();
  const bool ready = copy_.ready();
  if (std::exchange(was_ready_, ready) != ready && role_ == Role::standby && events_.ready_changed)
    events_.ready_changed(ready);
}

HeldDatabase ReplicatedDatabase::held() const {
  if (!primary_) return copy_.held();
  HeldDatabase held;
  held.stream = copy_.history();
  held.txid = primary_->status().committed;
  held.what = held.txid == 0 ? HeldDatabase::What::nothing : HeldDatabase::What::copy;
  held.history = held.stream;
  held.epoch = epoch_;
  return held;
}

// How far a copy is, the record says from time to time anyhow.
void ReplicatedDatabase::tell_held() {
  HeldDatabase now = held();
  if (now.what == HeldDatabase::What::copy && now.history == now.stream)
    now.hash = now.epoch = now.txid = 0;
  if (now == told_held_) return;
  told_held_ = std::move(now);
  if (events_.held_changed) events_.held_changed();
}

// ---- promotion

void ReplicatedDatabase::promote(std::uint64_t epoch, Completion done) {
  CLUSTER_CHECK(role_ == Role::standby && !leader_);
  role_ = Role::promoting;
  epoch_ = epoch;
  promoted_ = std::move(done);
  damages_ = 0;
  lost_ = false;
  fence_.reset();
  copy_.hold_judgement(true);
  const std::string writer = options_.node + "-" + std::to_string(epoch) + "-" + random_id();
  leader_ = std::make_unique<WalLeader>(
      jetstream_, stream_, options_.platform + "." + options_.app + ".wal", copy_.history(), epoch,
      writer,
      [this] {
        const auto at = copy_.position();
        return at ? StreamWriter::Own{*at, copy_.sequence(), copy_.newest_epoch()}
                  : StreamWriter::Own{};
      },
      leader_events());
}

WalLeader::Events ReplicatedDatabase::leader_events() {
  WalLeader::Events events;
  events.fence_stored = [this](const StreamRecord& fence) {
    fence_ = fence;
    journal_.info("database_fence",
                  {{"epoch", epoch_}, {"sequence", fence.sequence}, {"txid", fence.last}});
    try_to_take_over();
  };
  events.stored = [this](const StreamRecord& record) {
    stored_sequence_ = record.sequence;
    trouble_.clear();
    if (primary_) primary_->stored(record);
    watch_gaps();
    if (events_.moved) events_.moved();
  };
  events.ready = [this] {
    if (primary_) primary_->ready();
  };
  events.fenced = [this](std::uint64_t by) {
    ++counts_.fenced;
    const Error error(Errc::fenced, "database of app \"" + options_.app + "\": a leader of epoch " +
                                        std::to_string(by) + " has fenced this one, of epoch " +
                                        std::to_string(epoch_));
    lost_ = true;
    refuse_commits(error.what());
    if (primary_) primary_->give_up_drain(error);
    if (promoted_) return finish_promotion(error);
    if (role_ != Role::primary) return;
    journal_.error("database_fenced", {{"epoch", epoch_}, {"by_epoch", by}});
    if (events_.lost) events_.lost(error, true);
  };
  events.lost = [this](const Error& error) { lose(error); };
  events.foreign = [this](std::uint64_t first, std::uint64_t last) {
    copy_.found_foreign(first, last);
  };
  events.trouble = [this](const Error& error) {
    if (trouble_ != error.what())
      log::warn("database_stream", {{"app", options_.app},
                                    {"node", options_.node},
                                    {"epoch", epoch_},
                                    {"why", error.what()}});
    trouble_ = error.what();
  };
  return events;
}

void ReplicatedDatabase::lose(const Error& error) {
  ++counts_.lost;
  lost_ = true;
  refuse_commits(error.what());
  if (primary_) primary_->give_up_drain(error);
  if (promoted_) return finish_promotion(error);
  if (role_ != Role::primary) return;
  journal_.error("database_lost", {{"epoch", epoch_}, {"why", error.what()}});
  if (events_.lost) events_.lost(error, false);
}

// Once the fence stands, and all before it is here.
void ReplicatedDatabase::try_to_take_over() {
  if (role_ != Role::promoting || !promoted_ || !fence_ || handing_over_) return;
  if (copy_.phase() == DatabaseCopy::Phase::founding) {
    if (fence_->last > 0) return copy_.begun_by_another();
    if (!copy_.may_found())
      return finish_promotion(Error(Errc::unavailable, "stream " + stream_ +
                                                           " is empty, and this node may not begin "
                                                           "it: " +
                                                           copy_.why_not_found()));
    journal_.info("database_founded",
                  {{"epoch", epoch_}, {"stream", stream_}, {"with", text_of(copy_.held())}});
    return take_over({});
  }
  const auto at = copy_.position();
  if (!at) return;
  if (at->epoch > epoch_)
    return finish_promotion(Error(
        Errc::fenced, "database of app \"" + options_.app + "\": a leader of epoch " +
                          std::to_string(at->epoch) + " has gone on behind this one's fence"));
  switch (inheritance(*at, *fence_, copy_.hash_at(fence_->last))) {
    case Inheritance::whole: return take_over({});
    case Inheritance::ahead: {
      ++counts_.left_over;
      left_over_at_least_ = copy_.log().at_least(at->txid, at->hash);
      journal_.warn(
          "database_left_over",
          {{"epoch", epoch_},
           {"transactions", to_text(LeftOver{at->txid - fence_->last, left_over_at_least_})},
           {"means",
            "this node committed them when it led last, and nobody else has led "
            "since: they are replicated now"}});
      return take_over(at->txid);
    }
    case Inheritance::behind:
      if (copy_.judgement_held()) {
        copy_.hold_judgement(false);
        return copy_.hold_judgement(true);
      }
      if (copy_.sequence() < fence_->sequence) return;
      return copy_.start_over({"it stands at transaction " + std::to_string(at->txid) +
                                   ", the stream goes on behind " + std::to_string(fence_->last),
                               false, at->txid, fence_->sequence});
    case Inheritance::diverged:
      return copy_.start_over({"it holds transactions up to " + std::to_string(at->txid) +
                                   ", the stream goes on behind " + std::to_string(fence_->last),
                               true, fence_->last});
  }
}

// `ahead`: the last transaction of a copy that has more than the fence says.
void ReplicatedDatabase::take_over(std::optional<Txid> ahead) {
  handing_over_ = true;
  const auto since = ahead ? std::optional(fence_->last) : std::nullopt;
  copy_.hand_over(since, epoch_, [this, ahead](Result<DatabaseCopy::HandedOver> handed) {
    handing_over_ = false;
    if (role_ == Role::demoting) return stand_by();
    if (!handed) return finish_promotion(handed.error());
    if (const std::string& damage = handed.value().damage; !damage.empty()) {
      journal_.error("database_damaged",
                     {{"epoch", epoch_}, {"path", options_.path}, {"why", damage}});
      trouble_ = "database " + options_.path + " is damaged: " + damage;
      copy_.begin(copy_.history());
      if (++damages_ > 1)
        return finish_promotion(Error(
            Errc::corrupt,
            "database " + options_.path + " is damaged, and so is what was restored: " + damage));
      return copy_.start_over({damage, true}, true);
    }
    DatabaseState known = std::move(handed.value().state);
    const bool complete = known.txid != 0;
    if (ahead && !complete) {
      // Then all pages are sent.
      known.txid = fence_->last;
      known.hash = fence_->hash;
    }
    lead(std::move(known), complete, ahead.value_or(0));
  });
}

// Of the server that this node is connected to.
std::size_t ReplicatedDatabase::most_part_now() const {
  return most_part(fence_->writer, jetstream_.connection().server().max_payload);
}

void ReplicatedDatabase::lead(DatabaseState known, bool trusted, Txid numbered) {
  Primary::Options options;
  options.path = options_.path;
  options.wal_limit = options_.wal_limit;
  options.epoch = epoch_;
  options.history = copy_.history();
  options.node_id = number_of(options_.node);
  options.most_part = most_part_now();
  if (options.most_part == 0)
    return finish_promotion(
        Error(Errc::invalid_argument,
              "database " + options_.path +
                  " can't be replicated: the NATS server's max_payload "
                  "of " +
                  std::to_string(jetstream_.connection().server().max_payload) +
                  " is too small: raise max_payload in nats-server's configuration, to 4096 at "
                  "least"));
  options.numbered = numbered;
  options.at_least = numbered > 0 && left_over_at_least_;
  gaps_told_ = 0;
  // A database of which nothing is known is compared with nothing.
  const bool compare = trusted && known.txid > 0;
  try {
    primary_ = std::make_unique<Primary>(loop_, *leader_, copy_.log(), copy_.hashes(), options,
                                         std::move(known), compare, primary_events());
  } catch (const Error& error) {
    finish_promotion(error);
  }
}

Primary::Events ReplicatedDatabase::primary_events() {
  Primary::Events events;
  events.opened = [this](const Failure& failure) {
    failure ? finish_promotion(failure) : serve_commits();
  };
  events.degraded = [this](const Failure& failure) {
    if (!failure) return journal_.info("database_recovered", {{"epoch", epoch_}});
    ++counts_.degraded;
    journal_.error("database_degraded", {{"epoch", epoch_}, {"why", failure->what()}});
  };
  events.failed = [this](const Error& error) { lose(error); };
  events.replaced = [this] {
    ++counts_.replaced;
    journal_.error(
        "database_replaced",
        {{"epoch", epoch_},
         {"path", options_.path},
         {"means", "its content is compared with what it was, and what differs is sent"}});
  };
  events.not_drained = [this](const Error& why) {
    const auto at = primary_->status();
    journal_.warn("database_not_drained",
                  {{"epoch", epoch_},
                   {"committed", at.committed},
                   {"stored", at.stored},
                   {"bytes", at.pending_bytes},
                   {"why", why.what() + (trouble_.empty() ? "" : ": " + trouble_)}});
  };
  return events;
}

// Capture compares all pages then: nothing is lost, but somebody has gone around it.
void ReplicatedDatabase::watch_gaps() {
  if (!primary_) return;
  const auto gaps = primary_->status().gaps;
  if (gaps <= gaps_told_) return;
  journal_.warn("database_wal_gap",
                {{"epoch", epoch_},
                 {"gaps", gaps},
                 {"means",
                  "a part of the WAL was gone before it was read: somebody else has checkpointed "
                  "the database; all of its pages were compared, and what differed is sent"}});
  gaps_told_ = gaps;
}

void ReplicatedDatabase::finish_promotion(Failure failure) {
  if (!promoted_) return;
  if (!failure) {
    role_ = Role::primary;
    ++counts_.promotions;
    copy_.hold_judgement(false);
    journal_.info("database_primary", {{"epoch", epoch_}, {"txid", primary_->status().committed}});
    keep_snapshots();
  } else {
    ++counts_.failed_promotions;
    journal_.warn("database_not_primary", {{"epoch", epoch_}, {"why", failure->what()}});
  }
  std::exchange(promoted_, nullptr)(std::move(failure));
}

void ReplicatedDatabase::keep_snapshots() {
  SnapshotKeeper::Options options;
  options.app = options_.app;
  options.node = options_.node;
  options.stream = stream_;
  options.folder = std::filesystem::absolute(options_.path).parent_path();
  options.replicas = options_.stream_replicas;
  options.plan = options_.snapshots;
  options.audit = events_.audit;
  keeper_ = std::make_unique<SnapshotKeeper>(
      loop_, strands_, snapshots_, std::move(options),
      [this](Callback<std::shared_ptr<DatabaseImage>> done) { primary_->image(std::move(done)); },
      [this] { return primary_->status().stored; });
}

// There before anybody may write, and until the last commit is stored or given up.
void ReplicatedDatabase::serve_commits() {
  if (!promoted_) return;
  commits_ = std::make_unique<CommitService>(
      loop_, files_, CommitService::Options{options_.path, epoch_},
      [this](Duration limit, Callback<CommitService::Stored> done) {
        sync(limit, [this, done = std::move(done)](const Result<Txid>& txid) {
          if (!txid) return done(txid.error());
          done(CommitService::Stored{epoch_, txid.value(), stored_sequence_});
        });
      },
      [this] { finish_promotion({}); });
}

void ReplicatedDatabase::refuse_commits(const std::string& why) {
  if (commits_) commits_->refuse(why);
}

void ReplicatedDatabase::cancel() {
  finish_promotion(Error(Errc::shutting_down, "the promotion was broken off"));
}

// ---- demotion

void ReplicatedDatabase::drain(const DrainLimits& limits, bool seal, Completion done) {
  if (!primary_)
    return done(Error(Errc::not_leader, "this node does not lead database " + options_.path));
  primary_->drain(limits, seal, [this, done = std::move(done)](const Failure& failure) {
    if (!failure) return done(failure);
    const auto left = unsent();
    std::string text = "database " + options_.path + ": " + failure->what();
    if (!left.why.empty()) text += ": " + left.why;
    if (left.transactions() > 0) text += "; not in JetStream: " + to_text(left);
    done(Error(failure->errc(), text));
  });
}

void ReplicatedDatabase::unseal(std::function<void()> done) {
  primary_ ? primary_->unseal(std::move(done)) : done();
}

Unsent ReplicatedDatabase::unsent() const {
  if (!primary_) return left_;
  const auto at = primary_->status();
  return {epoch_, at.stored + 1, at.committed, at.pending_bytes,
          at.degraded.empty() ? trouble_ : at.degraded};
}

std::uint64_t ReplicatedDatabase::stored_up_to() const {
  if (!primary_ || primary_->status().stored == 0) return 0;
  return std::max(stored_sequence_, fence_ ? fence_->sequence : 0);
}

void ReplicatedDatabase::check(Callback<std::string> done) {
  if (role_ != Role::standby)
    return done(Error(Errc::unavailable,
                      std::string("its database is no standby: it is ") + to_text(role_)));
  copy_.check(std::move(done));
}

void ReplicatedDatabase::demote(const DrainLimits& limits, std::function<void()> done) {
  cancel();
  left_ = {};
  if (role_ == Role::standby) return done();
  role_ = Role::demoting;
  keeper_.reset();
  refuse_commits("this node stops leading database " + options_.path);
  demoted_ = std::move(done);
  if (handing_over_) return;
  // With `lost_` nothing more can be stored.
  if (primary_) return primary_->stop(lost_ ? DrainLimits{} : limits, [this] { stand_by(); });
  stand_by();
}

void ReplicatedDatabase::stand_by() {
  if (primary_) {
    watch_gaps();
    const auto at = primary_->status();
    counts_.gaps += at.gaps;
    if (role_ == Role::demoting) ++counts_.demotions;
    journal_.info("database_standby",
                  {{"epoch", epoch_}, {"txid", at.committed}, {"stored", at.stored}});
    left_ = unsent();
    counts_.unreplicated += left_.transactions();
    if (left_.transactions() > 0)
      journal_.warn("database_not_replicated", {{"epoch", epoch_},
                                                {"first", left_.first},
                                                {"last", left_.last},
                                                {"bytes", left_.bytes},
                                                {"why", left_.why}});
  }
  if (primary_) copy_.note_held(held());
  primary_.reset();
  // Those who still waited have their errors now.
  commits_.reset();
  leader_.reset();
  fence_.reset();
  role_ = Role::standby;
  if (stopped_) {
    if (auto done = std::exchange(demoted_, nullptr)) done();
    return copy_.end(std::exchange(ended_, nullptr));
  }
  ensure_stream();
  if (copy_.phase() != DatabaseCopy::Phase::idle) copy_.hold_judgement(false);
  was_ready_ = copy_.ready();
  if (auto done = std::exchange(demoted_, nullptr)) done();
}

void ReplicatedDatabase::stop(std::function<void()> done) {
  timer_.reset();
  scrub_.stop();
  stopped_ = true;
  if (role_ == Role::standby) return copy_.end(std::move(done));
  // A demotion that was given up still uses the database: it is let go of behind that.
  ended_ = std::move(done);
  if (role_ != Role::demoting) demote({}, [] {});
}

void ReplicatedDatabase::sync(Duration limit, Callback<Txid> done) {
  if (!primary_)
    return done(Error(Errc::not_leader, "this node does not lead database " + options_.path));
  primary_->sync(limit, std::move(done));
}

void ReplicatedDatabase::snapshot(Callback<StoredFile> done) {
  if (!keeper_)
    return done(Error(Errc::not_leader, "this node does not lead database " + options_.path));
  keeper_->create(std::move(done));
}

void ReplicatedDatabase::verify(std::shared_ptr<VerifyProgress> progress, Txid at,
                                Callback<Verified> done) {
  if (verifying_)
    return done(
        Error(Errc::unavailable, "database " + options_.path + " is being verified already"));
  if (role_ == Role::promoting || role_ == Role::demoting)
    return done(Error(
        Errc::unavailable,
        "database " + options_.path + " can't be verified while this node is " + to_text(role_)));
  verifying_ = true;
  auto once = [this, done = std::move(done)](Result<Verified> result) {
    verified(std::move(result), done);
  };
  if (primary_) return verify_image_of_primary(std::move(progress), std::move(once));
  copy_.verify(std::move(progress), at, std::move(once));
}

void ReplicatedDatabase::verify_image_of_primary(std::shared_ptr<VerifyProgress> progress,
                                                 Callback<Verified> done) {
  if (primary_->status().committed == 0)
    return done(Error(Errc::unavailable,
                      "database " + options_.path + " has no transaction yet: nothing to verify"));
  primary_->image([this, alive = alive_, progress,
                   done](const Result<std::shared_ptr<DatabaseImage>>& image) {
    if (!*alive) return;
    if (!image) return done(image.error());
    progress->txid = image.value()->state.txid;
    const bool queued = verifier_->post([alive, &loop = loop_, progress, done,
                                         stop = verifier_stop_.get_token(), image = image.value()] {
      Result<Verified> result = Verified{};
      try {
        result = verify_image(*image, *progress, stop);
      } catch (const Error& error) {
        result = error;
      } catch (const std::exception& error) {
        result = Error(Errc::system, error.what());
      }
      loop.post([alive, done, result = std::move(result)] {
        if (*alive) done(result);
      });
    });
    if (!queued) done(Error(Errc::system, "no thread to verify the database with"));
  });
}

void ReplicatedDatabase::verified(Result<Verified> result, const Callback<Verified>& done) {
  verifying_ = false;
  if (!result && result.error().errc() == Errc::corrupt) {
    Verified damaged;
    damaged.damage = result.error().what();
    result = std::move(damaged);
  }
  if (!result) return done(std::move(result));
  verified_ = result.value();
  verified_ms_ = wall_ms();
  if (verified_->sound())
    journal_.info(
        "database_verified",
        {{"epoch", verified_->epoch}, {"txid", verified_->txid}, {"pages", verified_->pages}});
  else
    tell_damage(journal_, *verified_);
  done(std::move(result));
  // What is wrong here never leads, and what comes to it may be wrong as well.
  if (!verified_->sound() && role_ == Role::standby && !stopped_ &&
      copy_.phase() == DatabaseCopy::Phase::following)
    copy_.start_over({"verifying has found it wrong", true}, true);
}

// ---- scrubbing

Scrub::Work ReplicatedDatabase::scrub_work() {
  Scrub::Work work;
  work.compare = [this](PageNumber first, std::size_t bytes, Callback<ScrubStep> done) {
    compare(first, bytes, std::move(done));
  };
  work.leads = [this] { return role_ == Role::primary; };
  work.repair = [this](const WrongPage& page, std::uint32_t page_size, Callback<bool> done) {
    repair(page, page_size, std::move(done));
  };
  work.settle = [this] { copy_.settle(); };
  work.give_up = [this](const std::string& why) { return give_copy_up(why); };
  work.unsound = [this](const std::string& why) {
    if (events_.unsound) events_.unsound(why);
  };
  work.changed = [this] { copy_.suspect(scrub_.found_wrong()); };
  return work;
}

void ReplicatedDatabase::compare(PageNumber first, std::size_t bytes, Callback<ScrubStep> done) {
  if (role_ == Role::primary) return compare_of_primary(first, bytes, std::move(done));
  if (role_ == Role::standby) return copy_.scrub(first, bytes, std::move(done));
  done(Error(Errc::unavailable, "database " + options_.path +
                                    " can't be scrubbed while this node " + "is " +
                                    to_text(role_)));
}

// Where reading pages of the primary may take long.
template <typename T>
void ReplicatedDatabase::beside(std::function<T()> task, Callback<T> done) {
  auto answer = [alive = alive_, &loop = loop_, done](Result<T> result) {
    loop.post([alive, done, result = std::move(result)] {
      if (*alive) done(result);
    });
  };
  const bool queued = pages_->post([task = std::move(task), answer] {
    try {
      answer(task());
    } catch (const Error& error) {
      answer(error);
    } catch (const std::exception& error) {
      answer(Error(Errc::system, error.what()));
    }
  });
  if (!queued)
    answer(Error(Errc::unavailable,
                 "database " + options_.path + ": too much is asked of its pages at once"));
}

// It may end its lead meanwhile, and waits for nobody who looks at its pages.
void ReplicatedDatabase::compare_of_primary(PageNumber first, std::size_t bytes,
                                            Callback<ScrubStep> done) {
  auto task = [path = options_.path, first, bytes, capture = primary_->capture(),
               stop = verifier_stop_.get_token()] {
    const auto expect = [&](PageNumber from, PageNumber count) {
      const auto open = capture.lock();
      return open ? open->expected(from, count) : std::nullopt;
    };
    return scrub_some(path, first, bytes, expect, stop);
  };
  beside<ScrubStep>(std::move(task), std::move(done));
}

void ReplicatedDatabase::read_page(const PageRequest& request, Callback<std::string> done) {
  if (role_ != Role::primary || !primary_)
    return done(Error(Errc::not_leader, "this node does not lead database " + options_.path));
  auto task = [path = options_.path, request, capture = primary_->capture()] {
    const auto open = capture.lock();
    if (!open) throw Error(Errc::unavailable, "database " + path + " can't be read now");
    const auto page = open->page_with(request.page, request.hash);
    if (!page)
      throw Error(Errc::not_found, "page " + std::to_string(request.page) + " of database " + path +
                                       " is another one on the node that leads by now");
    return request.part_of(*page);
  };
  beside<std::string>(std::move(task), std::move(done));
}

void ReplicatedDatabase::repair(const WrongPage& page, std::uint32_t page_size,
                                Callback<bool> done) {
  if (!options_.ask_for_page)
    return done(Error(Errc::unavailable, "there is no node to have the page from"));
  fetch_page(options_.ask_for_page, page.number, page.hash, page_size,
             [this, alive = alive_, number = page.number, done](const Result<std::string>& bytes) {
               if (!*alive) return;
               if (!bytes) return done(bytes.error());
               if (role_ != Role::standby)
                 return done(Error(Errc::unavailable, "this node does not follow any more"));
               copy_.repair(number, bytes.value(), done);
             });
}

bool ReplicatedDatabase::give_copy_up(const std::string& why) {
  if (role_ != Role::standby || stopped_ || copy_.phase() != DatabaseCopy::Phase::following)
    return false;
  copy_.start_over({"scrubbing has found it wrong: " + why, true}, true);
  return true;
}

bool ReplicatedDatabase::has(std::uint64_t epoch, Txid txid, std::uint64_t sequence) const {
  const Status now = status();
  // A sequence is of the one history; without it, epochs tell which transaction is meant.
  if (sequence > 0 && now.sequence >= sequence) return true;
  return now.epoch == epoch && now.txid >= txid;
}

ReplicatedDatabase::Status ReplicatedDatabase::status() const {
  Status status;
  status.role = role_;
  status.path = options_.path;
  const auto copy = copy_.status();
  status.copy = copy.phase;
  status.counts = counts_;
  status.counts.copy = copy.counts;
  status.restored_percent = copy.restored_percent;
  status.quarantine = copy.quarantine;
  status.verified = verified_;
  status.verified_ms = verified_ms_;
  status.ready = copy_.ready();
  status.scrub = scrub_.status();
  status.trouble = !trouble_.empty()       ? trouble_
                   : !copy.trouble.empty() ? copy.trouble
                                           : status.scrub.trouble;
  if (!primary_) {
    status.epoch = copy.position.epoch;
    status.txid = copy.position.txid;
    status.sequence = copy.sequence;
    status.lag_transactions = copy.lag_transactions;
    status.lag_records = copy.lag_records;
    status.lag_bytes = copy.lag_bytes;
    status.lag_time = copy.lag_time;
    status.wal_bytes = copy.wal_bytes;
    return status;
  }
  const auto primary = primary_->status();
  status.epoch = epoch_;
  status.txid = primary.committed;
  status.sequence = stored_sequence_;
  status.lag_transactions = primary.committed - primary.stored;
  status.lag_bytes = primary.pending_bytes;
  status.lag_time = primary.oldest;
  status.wal_bytes = primary.wal_bytes;
  status.counts.gaps += primary.gaps;
  if (commits_ && !commits_->trouble().empty()) status.trouble = commits_->trouble();
  if (keeper_) status.snapshots = keeper_->status();
  if (!primary.degraded.empty()) status.trouble = primary.degraded;
  return status;
}

}  // namespace cluster::sqlite
