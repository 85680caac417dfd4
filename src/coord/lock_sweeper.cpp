#include "coord/lock_sweeper.h"

#include <nlohmann/json.hpp>

#include "coord/records_json.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "nats/connection.h"

namespace cluster::coord {
namespace {}  // namespace

LockSweeper::LockSweeper(nats::JetStream& jetstream, Options options)
    : jetstream_(jetstream), options_(std::move(options)) {
  timer_ = jetstream_.connection().loop().after(options_.first, [this] { begin(); });
}

LockSweeper::~LockSweeper() { *alive_ = false; }

void LockSweeper::begin() {
  idle_.clear();
  removed_ = 0;
  nats::OrderedConsumer::Handlers handlers;
  handlers.message = [this](const nats::StoredMessage& message) { seen(message); };
  handlers.caught_up = [this] {
    timer_ = jetstream_.connection().loop().after(Duration(0), [this] {
      consumer_.reset();
      remove_next();
    });
  };
  // No bucket, or no NATS, for now: the next round will tell.
  handlers.trouble = [this](const Error& error) {
    log::debug("locks_not_swept", {{"platform", options_.platform}, {"why", error.what()}});
    timer_ = jetstream_.connection().loop().after(Duration(0), [this] { end(); });
  };
  consumer_ = std::make_unique<nats::OrderedConsumer>(
      jetstream_, stream(), std::vector{"$KV." + options_.platform + "_locks.>"},
      nats::StartAt{nats::StartAt::Kind::last_per_subject, 0, false}, std::move(handlers));
}

void LockSweeper::seen(const nats::StoredMessage& message) {
  if (idle_.size() >= kMostAtATime) return;
  if (wall_ns() - message.time_ns < std::chrono::nanoseconds(options_.idle).count()) return;
  const auto key = message.subject.substr(("$KV." + options_.platform + "_locks.").size());
  const auto record = lock_record_from(key, message.data);
  // What can't be read may be of a later version. An open barrier says so for good.
  if (!record || !record.value().holders.empty() || !record.value().waiters.empty() ||
      record.value().open)
    return;
  idle_.emplace_back(message.subject, message.sequence);
}

// Up to that revision only: whoever has written it again meanwhile keeps what he wrote.
void LockSweeper::remove_next() {
  if (idle_.empty()) return end();
  const auto [subject, revision] = idle_.back();
  idle_.pop_back();
  const nlohmann::json what{{"filter", subject}, {"seq", revision + 1}};
  jetstream_.api("STREAM.PURGE." + stream(), what.dump(),
                 [this, alive = alive_](const Result<std::string>& done) {
                   if (!*alive) return;
                   if (!done) {
                     log::debug("locks_not_swept",
                                {{"platform", options_.platform}, {"why", done.error().what()}});
                     return end();
                   }
                   ++removed_;
                   remove_next();
                 });
}

void LockSweeper::end() {
  consumer_.reset();
  if (removed_ > 0)
    log::info("locks_swept", {{"platform", options_.platform}, {"removed", removed_}});
  timer_ = jetstream_.connection().loop().after(options_.interval, [this] { begin(); });
  if (options_.swept) options_.swept(removed_);
}

}  // namespace cluster::coord
