#include "platform/lock_service.h"

#include <algorithm>
#include <utility>

#include "coord/records_json.h"
#include "core/deadline.h"
#include "core/key_text.h"
#include "core/wall_time.h"

namespace cluster {
namespace {

using coord::LockKind;
using coord::LockNews;
using std::chrono::milliseconds;

constexpr int kMostHolders = 1'000;
constexpr milliseconds kLookLimit{1'000};  // for the sake of an error's text

std::string title(LockKind kind, const std::string& name) {
  return std::string(coord::to_text(kind)) + " \"" + name + "\"";
}

LockHolder holder_from(const coord::LockParty& party, coord::Revision rev) {
  LockHolder holder;
  holder.node = party.session.node;
  holder.session = party.session.session;
  holder.token = party.token == 0 ? rev : party.token;
  holder.note = party.note;
  holder.since = std::chrono::system_clock::time_point(milliseconds(party.asked_ms));
  return holder;
}

std::vector<LockHolder> holders_of(const LockService& service, const std::string& key,
                                   milliseconds timeout) {
  coord::Revision rev = 0;
  const auto record = service.look(key, &rev, timeout);
  std::vector<LockHolder> all;
  if (record)
    for (const auto& party : record->holders) all.push_back(holder_from(party, rev));
  return all;
}

}  // namespace

std::string lock_key(const std::string& app, const std::string& name) {
  if (auto fault = key_text_fault(name); !fault.empty())
    throw Error(Errc::invalid_argument, "\"" + name + "\" can't name a lock: " + fault);
  return app + "." + escaped_key(name);
}

int checked_limit(const std::string& name, int limit) {
  if (limit >= 1 && limit <= kMostHolders) return limit;
  throw Error(Errc::invalid_argument, "semaphore \"" + name + "\": a limit of " +
                                          std::to_string(limit) + " is not between 1 and " +
                                          std::to_string(kMostHolders));
}

LockService::LockService(Loop& loop, std::shared_ptr<nats::Exchange> exchange, std::string platform,
                         AuditSink audit)
    : jetstream_(std::move(exchange)),
      platform_(std::move(platform)),
      audit_(std::move(audit)),
      gate_(loop) {}

// ---- the loop's side

void LockService::use(coord::Driver* driver) {
  driver_ = driver;
  if (!driver_) return;
  for (auto& [id, claim] : std::exchange(early_, {})) driver_->claim_lock(std::move(claim));
}

void LockService::news(const LockNews& news) {
  std::shared_ptr<LockGuard::State> state;
  {
    const std::lock_guard lock(mutex_);
    const auto it = states_.find(news.claim);
    if (it == states_.end()) return;
    state = it->second;
    if (news.what != LockNews::What::granted) states_.erase(it);
  }
  if (news.what == LockNews::What::lost && state->held.load()) tell_lost(*state);
  if (news.what != LockNews::What::granted) return end(state, news);
  {
    const std::lock_guard lock(state->mutex);
    state->token.store(news.token);
    state->held.store(true);
  }
  state->changed.notify_all();
}

// Its session has ended, or somebody took it away by force.
void LockService::tell_lost(const LockGuard::State& state) const {
  const std::string app = state.key.substr(0, state.key.find('.'));
  audit_({.category = "lock",
          .action = "lost",
          .app = app == "_" ? "" : app,
          .level = "warn",
          .fields = {{"name", state.name},
                     {"kind", coord::to_text(state.kind)},
                     {"token", std::to_string(state.token.load())}}});
}

void LockService::refused(const Error& error) {
  const std::string text = error.what();
  const std::string bucket = "KV." + platform_ + "_locks.";
  // Not the record of one lock but reading, or the bucket itself.
  const bool all = text.find("KV_" + platform_ + "_locks") != std::string::npos;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, state] : states_) {
    if (!all && text.find(bucket + state->key + '"') == std::string::npos) continue;
    const std::lock_guard waits(state->mutex);
    state->refused = error;
    state->changed.notify_all();
  }
}

void LockService::end(const std::shared_ptr<LockGuard::State>& state, const LockNews& news) {
  {
    const std::lock_guard lock(state->mutex);
    state->held.store(false);
    state->ended = news;
  }
  state->changed.notify_all();
  if (news.what == LockNews::What::lost) state->lost.request_stop();
}

void LockService::close() {
  gate_.close();
  std::map<std::uint64_t, std::shared_ptr<LockGuard::State>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(states_);
  }
  driver_ = nullptr;
  limit_ns_.store(0);
  for (const auto& [id, state] : all) end(state, {id, LockNews::What::lost});
}

// ---- of other threads

// Runs on the loop, if there is one still.
bool LockService::post(std::function<void(LockService&)> task) {
  return gate_.post([weak = weak_from_this(), task = std::move(task)] {
    if (const auto self = weak.lock()) task(*self);
  });
}

LockService::Answer LockService::claim(const Wanted& wanted, Milliseconds timeout) {
  const std::string what = title(wanted.kind, wanted.name);
  gate_.check_may_block(what);
  const auto state = std::make_shared<LockGuard::State>();
  state->service = shared_from_this();
  state->key = wanted.key;
  state->name = wanted.name;
  state->kind = wanted.kind;
  {
    const std::lock_guard lock(mutex_);
    state->id = ++last_id_;
    states_.emplace(state->id, state);
  }
  coord::LockClaim claim;
  claim.id = state->id;
  claim.key = wanted.key;
  claim.kind = wanted.kind;
  claim.limit = wanted.limit;
  claim.wait = wanted.wait;
  claim.watches = wanted.watches;
  claim.asked_ms = wall_ms();
  claim.note = wanted.note;
  const bool posted = post([claim = std::move(claim)](LockService& self) {
    if (self.driver_)
      self.driver_->claim_lock(claim);
    else
      self.early_.emplace(claim.id, claim);
  });
  if (!posted) news({state->id, LockNews::What::lost});  // the platform has just ended
  std::unique_lock lock(state->mutex);
  state->changed.wait_for(lock, std::min(timeout, kLongestWait),
                          [&] { return state->held.load() || state->ended || state->refused; });
  if (state->held.load()) return {LockGuard(state)};
  if (!state->ended) {
    const Failure refusal = state->refused;
    lock.unlock();
    release(state, false);
    if (refusal) throw Error(refusal->errc(), what + ": " + refusal->what());
    give_up(wanted, timeout);
  }
  const LockNews ended = *state->ended;
  switch (ended.what) {
    case LockNews::What::lost: throw Error(Errc::shutting_down, what + ": the platform stops");
    case LockNews::What::full:
      throw Error(Errc::overloaded, what + ": " + std::to_string(coord::Lock::kMostWaiters) +
                                        " wait for it already; try again later");
    case LockNews::What::mismatch:
      throw Error(Errc::invalid_argument, what + ": others use this name for " + ended.text +
                                              ": use the same everywhere, or another name");
    default: return {LockGuard(), ended.what};
  }
}

void LockService::give_up(const Wanted& wanted, Milliseconds timeout) const {
  std::string text = title(wanted.kind, wanted.name) + ": not to be had within " +
                     std::to_string(timeout.count()) + " ms";
  try {
    coord::Revision rev = 0;
    const auto record = look(wanted.key, &rev, std::min(timeout, kLookLimit));
    for (const auto& party : record ? record->holders : std::vector<coord::LockParty>())
      text += "; node \"" + party.session.node + "\" holds it" +
              (party.note.empty() ? "" : " (" + party.note + ")");
  } catch (const Error& error) {
    text += "; who holds it can't be told: " + std::string(error.what());
  }
  if (!in_force()) text += "; this node has no session now";
  throw Error(Errc::timeout, text);
}

void LockService::release(const std::shared_ptr<LockGuard::State>& state, bool open) {
  state->held.store(false);
  post([id = state->id, open](LockService& self) {
    if (self.driver_) return self.driver_->release_lock(id, open);
    self.early_.erase(id);
    self.news({id, LockNews::What::released});
  });
}

void LockService::release_and_wait(const std::shared_ptr<LockGuard::State>& state, bool open,
                                   Milliseconds timeout) {
  gate_.check_may_block("release of \"" + state->name + "\"");
  release(state, open);
  std::unique_lock lock(state->mutex);
  state->changed.wait_for(lock, std::min(timeout, kLongestWait),
                          [&] { return state->ended.has_value(); });
  if (!state->ended)
    throw Error(Errc::timeout, "release of \"" + state->name + "\": not settled within " +
                                   std::to_string(timeout.count()) +
                                   " ms; it is given up as soon as JetStream answers");
  if (open && state->ended->what == LockNews::What::lost)
    throw Error(Errc::lock_lost, "barrier \"" + state->name +
                                     "\": this node's session ended before it could be opened");
}

std::optional<coord::LockRecord> LockService::look(const std::string& key, coord::Revision* rev,
                                                   Milliseconds timeout) const {
  const std::string bucket = platform_ + "_locks";
  auto message = jetstream_.last_message("KV_" + bucket, "$KV." + bucket + "." + key, timeout);
  if (!message) {
    if (message.error().errc() == Errc::not_found) return std::nullopt;
    throw message.error();
  }
  *rev = message.value().sequence;
  if (!message.value().header("KV-Operation").empty()) return std::nullopt;
  return coord::lock_record_from(key, message.value().data).value();
}

// ---- the public face

LockGuard::LockGuard(LockGuard&&) noexcept = default;

LockGuard& LockGuard::operator=(LockGuard&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

LockGuard::~LockGuard() {
  if (state_ && state_->held.load()) state_->service->release(state_, false);
}

bool LockGuard::held() const noexcept {
  return state_ && state_->held.load() && state_->service->in_force();
}

std::uint64_t LockGuard::token() const noexcept { return state_ ? state_->token.load() : 0; }

std::stop_token LockGuard::lost() const noexcept {
  return state_ ? state_->lost.get_token() : std::stop_token();
}

const std::string& LockGuard::name() const noexcept {
  static const std::string none;
  return state_ ? state_->name : none;
}

void LockGuard::release(milliseconds timeout) {
  if (!state_ || !state_->held.load()) return;
  state_->service->release_and_wait(state_, false, timeout);
}

Lock& Lock::note(std::string note) {
  if (note.size() > 200) note.resize(200);
  note_ = std::move(note);
  return *this;
}

LockGuard Lock::acquire(milliseconds timeout) {
  return service_->claim({.key = key_, .name = name_, .note = note_}, timeout).guard;
}

std::optional<LockGuard> Lock::try_acquire(milliseconds timeout) {
  auto answer =
      service_->claim({.key = key_, .name = name_, .wait = false, .note = note_}, timeout);
  if (answer.what != LockNews::What::granted) return std::nullopt;
  return std::move(answer.guard);
}

void Lock::run(const std::function<void(LockGuard&)>& fn, milliseconds timeout) {
  LockGuard guard = acquire(timeout);
  fn(guard);
  guard.release();
}

std::optional<LockHolder> Lock::holder(milliseconds timeout) const {
  const auto all = holders_of(*service_, key_, timeout);
  if (all.empty()) return std::nullopt;
  return all.front();
}

LockGuard Semaphore::acquire(milliseconds timeout) {
  return service_
      ->claim({.key = key_, .name = name_, .kind = LockKind::semaphore, .limit = limit_}, timeout)
      .guard;
}

std::optional<LockGuard> Semaphore::try_acquire(milliseconds timeout) {
  auto answer = service_->claim(
      {.key = key_, .name = name_, .kind = LockKind::semaphore, .limit = limit_, .wait = false},
      timeout);
  if (answer.what != LockNews::What::granted) return std::nullopt;
  return std::move(answer.guard);
}

void Semaphore::run(const std::function<void(LockGuard&)>& fn, milliseconds timeout) {
  LockGuard guard = acquire(timeout);
  fn(guard);
  guard.release();
}

std::vector<LockHolder> Semaphore::holders(milliseconds timeout) const {
  return holders_of(*service_, key_, timeout);
}

bool Barrier::once(const std::function<void(LockGuard&)>& fn, milliseconds timeout) {
  auto answer = service_->claim({.key = key_, .name = name_, .kind = LockKind::barrier}, timeout);
  if (answer.what == LockNews::What::opened) return false;
  fn(answer.guard);
  service_->open_barrier(answer.guard, timeout);
  return true;
}

void Barrier::wait(milliseconds timeout) {
  service_->claim({.key = key_, .name = name_, .kind = LockKind::barrier, .watches = true},
                  timeout);
}

void Barrier::open(milliseconds timeout) {
  once([](LockGuard&) {}, timeout);
}

bool Barrier::is_open(milliseconds timeout) const {
  coord::Revision rev = 0;
  const auto record = service_->look(key_, &rev, timeout);
  return record && record->open;
}

}  // namespace cluster
