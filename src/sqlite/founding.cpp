#include "sqlite/founding.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "core/duration.h"
#include "core/log.h"
#include "nats/stored_message.h"
#include "sqlite/snapshot_store.h"

namespace cluster::sqlite {
namespace {

constexpr Duration kUsualWait = std::chrono::seconds(10);
constexpr Duration kPoll = std::chrono::seconds(1);

std::optional<FounderChoice> choice_in(const nats::StreamState& stream) {
  const auto text = stream.config.metadata.find(kFounderKey);
  if (text == stream.config.metadata.end()) return std::nullopt;
  return founder_choice_from(text->second);
}

}  // namespace

Duration founding_wait() {
  const char* text = std::getenv("CPP_CLUSTER_FOUNDING_WAIT");
  if (text == nullptr || *text == '\0') return kUsualWait;
  const auto wait = parse_duration(text);
  if (wait) return wait.value();
  log::warn("founding_wait", {{"variable", "CPP_CLUSTER_FOUNDING_WAIT"},
                              {"why", wait.error().what()},
                              {"means", "it is ignored"}});
  return kUsualWait;
}

Founding::Founding(Loop& loop, nats::JetStream& jetstream, Options options, Events events)
    : loop_(loop),
      jetstream_(jetstream),
      options_(std::move(options)),
      events_(std::move(events)) {}

Founding::~Founding() { *alive_ = false; }

void Founding::begin(HeldDatabase own, const nats::StreamState& stream) {
  end();
  begun_ = true;
  history_ = history_of(stream);
  own_ = std::move(own);
  own_.stream = history_;
  chosen_ = choice_in(stream);
  ask_age();
  look_again();
  arm();
}

void Founding::end() {
  begun_ = false;
  ++turn_;
  timer_.reset();
  poll_.reset();
  chosen_.reset();
  verdict_ = {};
}

// By the clock of JetStream alone. Without an answer it counts as young as this node.
void Founding::ask_age() {
  if (age_asked_ || options_.alone || wait_ == Duration(0)) return;
  age_asked_ = true;
  jetstream_.stream(options_.members, [this, alive = alive_](const Result<nats::StreamState>& s) {
    if (!*alive || !s) return;
    const auto created = nats::time_ns_from(s.value().created);
    if (!created || s.value().server_time_ns < *created) return;
    const auto age = std::chrono::nanoseconds(s.value().server_time_ns - *created);
    // More than the wait does not matter, and a clock that was set may give anything.
    platform_since_ = std::min(started_, BootClock::now() - std::min<Duration>(age, wait_));
    look();
  });
}

void Founding::others_changed() { look(); }

void Founding::look() {
  if (!begun_) return;
  const bool changed = look_again();
  arm();
  if (changed && events_.changed) events_.changed();
}

bool Founding::look_again() {
  const Time now = BootClock::now();
  FoundingSituation situation;
  situation.app = options_.app;
  situation.node = options_.node;
  situation.stream = history_;
  situation.own = own_;
  if (options_.others) situation.others = options_.others();
  situation.chosen = chosen_;
  situation.heard = options_.alone || now >= platform_since_ + wait_;
  situation.waited = options_.alone || now >= started_ + wait_;
  auto verdict = judge(situation);
  const bool changed = verdict != verdict_;
  verdict_ = std::move(verdict);
  return changed;
}

// Whoever may found waits for nothing.
void Founding::arm() {
  timer_.reset();
  if (may()) return poll_.reset();
  if (!poll_) {
    poll_ = loop_.every(kPoll, [this] {
      jetstream_.stream(options_.stream, [this, alive = alive_,
                                          turn = turn_](const Result<nats::StreamState>& stream) {
        if (!*alive || turn != turn_) return;
        if (stream) return seen(stream.value());
        if (events_.trouble) events_.trouble(stream.error());
      });
    });
  }
  const Time now = BootClock::now();
  Time due = Time::max();
  for (const Time at : {platform_since_ + wait_, started_ + wait_})
    if (at > now) due = std::min(due, at);
  if (due != Time::max()) timer_ = loop_.at(due, [this] { look(); });
}

void Founding::seen(const nats::StreamState& stream) {
  if (history_of(stream) == history_) {
    const auto chosen = choice_in(stream);
    if (std::exchange(chosen_, chosen) != chosen) {
      look_again();
      arm();
      if (events_.changed) events_.changed();
      return;
    }
  }
  if (events_.stream_seen) events_.stream_seen(stream);
}

}  // namespace cluster::sqlite
