#include "platform/hand_over.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace cluster {
namespace {

using std::chrono::milliseconds;

// What was committed while so little time was needed to send the rest is sent as quickly.
constexpr Duration kSoonSent = std::chrono::seconds(1);
constexpr int kMostRounds = 10;
constexpr Duration kAskAgain = milliseconds(100);
// A node that has just joined, say.
constexpr Duration kLookPatience = std::chrono::seconds(3);
constexpr Duration kUnsealPatience = std::chrono::seconds(2);

}  // namespace

const char* to_text(HandOver::Stage stage) {
  using Stage = HandOver::Stage;
  switch (stage) {
    case Stage::looking: return "looking for a node that can lead";
    case Stage::draining: return "sending what was committed";
    case Stage::following: return "waiting for the next leader's copy";
    case Stage::asking: return "asking JetStream";
    case Stage::stopping: return "stopping the app";
    case Stage::emptying: return "sending the rest";
    case Stage::confirming: return "waiting for the next leader to have the rest";
    case Stage::releasing: return "releasing the lease";
    case Stage::resuming: return "starting the app again";
  }
  return "unknown";
}

HandOver::HandOver(Loop& loop, Options options, Surroundings surroundings)
    : loop_(loop), options_(std::move(options)), around_(std::move(surroundings)) {}

HandOver::~HandOver() { end(); }

void HandOver::end() {
  *alive_ = false;
  timer_.reset();
}

void HandOver::begin() {
  moved_at_ = BootClock::now();
  look();
}

// `then` once each of them has answered, or has not in time.
void HandOver::ask_all(const LeadQuery& query, std::function<void()> then) {
  const auto nodes = options_.target.empty() ? around_.candidates() : std::vector{options_.target};
  answers_.assign(nodes.size(), {});
  for (std::size_t i = 0; i < nodes.size(); ++i) answers_[i].node = nodes[i];
  if (nodes.empty()) return then();
  auto open = std::make_shared<std::size_t>(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i)
    around_.ask(nodes[i], query, [this, alive = alive_, i, open, then](Result<LeadState> state) {
      if (!*alive) return;
      answers_[i].state = std::move(state);
      if (--*open == 0) then();
    });
}

std::optional<std::string> HandOver::ready_one() const {
  for (const auto& [node, state] : answers_)
    if (state && state.value().ready && (state.value().has || sequence_ == 0)) return node;
  return std::nullopt;
}

std::string HandOver::reasons() const {
  if (answers_.empty()) return "no other live node runs the app";
  std::string text;
  for (const auto& [node, state] : answers_) {
    text += (text.empty() ? "" : "; ") + node + ": ";
    if (!state)
      text += state.error().what();
    else if (!state.value().ready)
      text += state.value().why;
    else
      text += "its copy has come to record " + std::to_string(state.value().sequence) +
              " of the stream, not to " + std::to_string(sequence_);
  }
  return text;
}

Error HandOver::nobody_is_ready() const {
  return Error(Errc::unavailable, "no node is ready to lead it: " + reasons());
}

void HandOver::look() {
  ask_all({.check = true}, [this] {
    if (const auto node = ready_one()) {
      next_ = *node;
      return go_on();
    }
    const Time now = BootClock::now();
    if (!options_.force && now < std::min(moved_at_ + kLookPatience, options_.until)) {
      timer_ = loop_.after(kAskAgain, [this] { look(); });
      return;
    }
    or_call_off(nobody_is_ready());
  });
}

// While more is committed: what is left for the time when the app is stopped becomes less.
void HandOver::drain() {
  around_.database->drain({options_.quiet, options_.until}, false,
                          [this, alive = alive_, begun = BootClock::now()](const Failure& failure) {
                            if (*alive) drained(failure, BootClock::now() - begun);
                          });
}

void HandOver::drained(const Failure& failure, Duration took) {
  if (stage_ != Stage::draining) return;
  if (failure) return or_call_off(*failure);
  if (took > kSoonSent && ++rounds_ < kMostRounds) return drain();
  if (took > kSoonSent)
    return or_call_off(Error(Errc::not_replicated,
                             "the app commits more than JetStream takes: what was committed while "
                             "the rest was sent takes as long again"));
  go_on();
}

// Until the copy of one that is ready has all that is stored by now.
void HandOver::follow(Stage stage) {
  stage_ = stage;
  sequence_ = around_.database->sequence();
  moved_at_ = BootClock::now();
  look_at_followers();
}

void HandOver::look_at_followers() {
  ask_all({.check = true, .sequence = sequence_}, [this] {
    if (const auto node = ready_one()) {
      next_ = *node;
      return go_on();
    }
    const Time now = BootClock::now();
    std::uint64_t moved = 0;
    bool some = false;
    for (const auto& [node, state] : answers_) {
      if (!state) continue;
      moved += state.value().sequence;
      some = some || state.value().ready;
    }
    if (std::exchange(moved_, moved) != moved) moved_at_ = now;
    const bool late = now - moved_at_ >= options_.quiet || (live() && now >= options_.until);
    if (!some || late) return or_call_off(nobody_is_ready());
    timer_ = loop_.after(kAskAgain, [this] { look_at_followers(); });
  });
}

void HandOver::ask_store() {
  around_.ask_store([this, alive = alive_](const Failure& failure) {
    if (!*alive) return;
    if (failure)
      return or_call_off(Error(Errc::unavailable,
                               std::string("the lease can't be released now: ") + failure->what()));
    go_on();
  });
}

void HandOver::stop() { around_.database ? around_.hold() : release(); }

void HandOver::held() {
  if (stage_ == Stage::stopping) go_on();
}

void HandOver::empty() {
  around_.database->drain({.quiet = options_.quiet}, true,
                          [this, alive = alive_](const Failure& failure) {
                            if (!*alive || stage_ != Stage::emptying) return;
                            failure ? or_call_off(*failure) : go_on();
                          });
}

void HandOver::release() {
  stage_ = Stage::releasing;
  around_.release(next_.empty() ? options_.target : next_);
}

void HandOver::go_on() {
  switch (stage_) {
    case Stage::looking:
      if (!around_.database) {
        stage_ = Stage::asking;
        return ask_store();
      }
      stage_ = Stage::draining;
      return drain();
    case Stage::draining: return follow(Stage::following);
    case Stage::following: stage_ = Stage::asking; return ask_store();
    case Stage::asking: stage_ = Stage::stopping; return stop();
    case Stage::stopping: stage_ = Stage::emptying; return empty();
    case Stage::emptying: return follow(Stage::confirming);
    case Stage::confirming: return release();
    case Stage::releasing:
    case Stage::resuming: return;
  }
}

void HandOver::or_call_off(const Error& why) {
  if (!options_.force) return call_off(why);
  go_on();
}

void HandOver::call_off(const Error& why) {
  if (!live()) return resume(why);
  // What was asked may still be answered.
  end();
  around_.called_off(Error(why));
}

bool HandOver::call_off_now(const Error& why) {
  if (!live()) return false;
  call_off(stage_ == Stage::looking ? nobody_is_ready() : why);
  return true;
}

void HandOver::resume(const Error& why) {
  stage_ = Stage::resuming;
  why_ = why;
  auto begin = [this, once = std::make_shared<bool>(false)] {
    if (std::exchange(*once, true)) return;
    timer_.reset();
    around_.resume();
  };
  // A disk that hangs must not keep the app stopped as well.
  timer_ = loop_.after(kUnsealPatience, begin);
  around_.database->unseal([alive = alive_, begin] {
    if (*alive) begin();
  });
}

void HandOver::resumed(const Failure& failure) {
  if (stage_ != Stage::resuming) return;
  if (!failure) return around_.called_off(Error(*why_));
  around_.called_off(
      Error(why_->errc(), std::string(why_->what()) +
                              "; and the app could not be started again here: " + failure->what()));
}

}  // namespace cluster
