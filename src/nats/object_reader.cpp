// How an object is got: an ephemeral pull consumer on its chunks, asked for no more than there is
// room for. When that fails in any way, the metadata is read again (is it still the same object?)
// and another consumer goes on behind what has come.
#include <deque>

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/ids.h"
#include "nats/object_store_core.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;
using std::chrono::seconds;

constexpr auto kUnused = seconds(60);  // the server removes a consumer that asks for nothing
constexpr auto kSilence = seconds(5);  // what was asked for is there: it comes at once
constexpr int kMostChunks = 64;

}  // namespace

struct ObjectReader::Core final : ObjectTransfer, std::enable_shared_from_this<ObjectReader::Core> {
  std::shared_ptr<ObjectStore::Core> store;
  const std::string name;
  ObjectStore::ReaderEvents events;

  bool ended = false;
  std::optional<ObjectInfo> info{};
  std::deque<std::string> waiting{};
  bool starved = true;  // take() had nothing since events.ready was called last
  std::uint32_t received = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t last_sequence = 0;
  ObjectDigest digest{};
  ObjectPace pace{1};
  ObjectRetry retry{};

  // Of the newest try:
  std::uint64_t attempt = 0;
  std::string consumer{};
  std::string inbox{};
  Subscription subscription{};
  std::uint64_t consumer_sequence = 0;
  std::uint32_t asked = 0;  // and not come yet
  Time heard{};
  std::uint32_t measure_at = 0;  // `received` at which an asking is complete; 0: none is timed
  Time asked_at{};
  LoopSource timer{};

  Core(std::shared_ptr<ObjectStore::Core> s, std::string n, ObjectStore::ReaderEvents e)
      : store(std::move(s)), name(std::move(n)), events(std::move(e)) {
    store->transfers.insert(this);
  }
  ~Core() override { store->transfers.erase(this); }

  template <typename Fn>
  auto guarded(Fn fn) {
    return [weak = weak_from_this(), mine = attempt, fn](auto... args) {
      auto self = weak.lock();
      if (self && !self->store->closed && !self->ended && self->attempt == mine)
        fn(*self, std::move(args)...);
    };
  }

  std::string what() const {
    return "get object \"" + name + "\" from bucket \"" + store->bucket + "\"";
  }
  Error fault(Errc code, const std::string& text) const {
    return Error(code, what() + ": " + text);
  }

  void begin();
  void again(const Error& error);
  void drop();
  void known(const ObjectStore::Core::Known& now);
  void create();
  void created(const std::string& answer);
  void count();
  void counted(std::uint64_t there);
  void ask();
  void on_message(Message message);
  void add(StoredMessage message);
  void verify();
  void end(Failure failure);
  void leave();
  void store_gone() override;
};

void ObjectReader::Core::begin() {
  drop();
  store->read(name, guarded([](Core& self, Result<ObjectStore::Core::Known> now) {
                if (now) return self.known(now.value());
                if (may_pass(now.error())) return self.again(now.error());
                self.end(self.fault(now.error().errc(), now.error().what()));
              }));
}

void ObjectReader::Core::drop() {
  ++attempt;
  timer.reset();
  subscription = {};
  asked = 0;
  measure_at = 0;
  if (!consumer.empty() && store->js.connection().state() == ConnectionState::connected) {
    // Best effort: without an answer the server removes it after kUnused.
    store->js.api("CONSUMER.DELETE." + store->stream + "." + consumer, "",
                  [](Result<std::string>) {});
  }
  consumer.clear();
}

void ObjectReader::Core::again(const Error& error) {
  drop();
  auto wait = retry.next(store->patience);
  if (!wait) return end(fault(error.errc(), error.what()));
  store->later(*wait, guarded([](Core& self) { self.begin(); }));
}

void ObjectReader::Core::known(const ObjectStore::Core::Known& now) {
  if (now.fault) return end(fault(now.fault->errc(), now.fault->what()));
  if (info) {
    if (!now.info || now.info->deleted || now.info->nuid != info->nuid)
      return end(fault(Errc::not_found, "it was removed or replaced while it was read"));
    return create();
  }
  if (!now.info || now.info->deleted) return end(fault(Errc::not_found, "there is no such object"));
  if (!now.info->link.empty())
    return end(fault(Errc::incompatible,
                     "it is a link to \"" + now.info->link + "\", and links are not followed"));
  info = now.info;
  auto chunk = std::max<std::uint64_t>(info->chunk_size,
                                       info->size / std::max<std::uint32_t>(1, info->chunks));
  pace = ObjectPace(static_cast<int>(
      std::clamp<std::uint64_t>(kMostBytes / std::max<std::uint64_t>(1, chunk), 1, kMostChunks)));
  auto mine = attempt;
  if (auto call = events.begun) call(*info);
  if (ended || attempt != mine) return;
  if (info->chunks == 0) return verify();
  create();
}

void ObjectReader::Core::create() {
  consumer = random_id();
  consumer_sequence = 0;
  inbox = store->js.connection().new_inbox();
  subscription = store->js.connection().subscribe(
      inbox, guarded([](Core& self, Message message) { self.on_message(std::move(message)); }));
  const std::string filter = object_chunk_subject(store->bucket, info->nuid);
  const Json body = {{"stream_name", store->stream},
                     {"config",
                      {{"name", consumer},
                       {"filter_subject", filter},
                       {"deliver_policy", "by_start_sequence"},
                       {"opt_start_seq", last_sequence + 1},
                       {"ack_policy", "none"},
                       {"replay_policy", "instant"},
                       {"inactive_threshold", std::chrono::nanoseconds(kUnused).count()},
                       {"mem_storage", true},
                       {"num_replicas", 1}}}};
  store->js.api("CONSUMER.CREATE." + store->stream + "." + consumer + "." + filter, body.dump(),
                guarded([](Core& self, Result<std::string> answer) {
                  if (answer) return self.created(answer.value());
                  self.again(answer.error());
                }));
}

void ObjectReader::Core::created(const std::string& answer) {
  auto json = Json::parse(answer, nullptr, false);
  const Json none = 0;
  const Json& pending =
      json.is_object() && json.contains("num_pending") ? json["num_pending"] : none;
  const auto there = pending.is_number_unsigned() ? pending.get<std::uint64_t>() : 0;
  if (there != info->chunks - received) return count();
  heard = BootClock::now();
  timer = store->js.connection().loop().every(
      seconds(1), guarded([](Core& self) {
        if (self.asked != 0 && BootClock::now() - self.heard > kSilence)
          self.again(Error(Errc::timeout, "chunk " + std::to_string(self.received) +
                                              " did not come within the time limit"));
      }));
  ask();
}

// The consumer sees another number of chunks than the metadata says. It may be on a replica that
// lags: the leader knows.
void ObjectReader::Core::count() {
  store->js.count_messages(store->stream, object_chunk_subject(store->bucket, info->nuid),
                           guarded([](Core& self, Result<std::uint64_t> there) {
                             if (there) return self.counted(there.value());
                             self.again(there.error());
                           }));
}

void ObjectReader::Core::counted(std::uint64_t there) {
  if (there == info->chunks)
    return again(Error(Errc::unavailable, "a replica of the stream lacks chunks that it has"));
  // Who replaces or removes an object changes its metadata first.
  store->read(name, guarded([there](Core& self, Result<ObjectStore::Core::Known> now) {
                if (!now) return self.again(now.error());
                const auto& object = now.value().info;
                if (!object || object->deleted || object->nuid != self.info->nuid)
                  return self.known(now.value());
                self.end(self.fault(Errc::corrupt, "it has " + std::to_string(there) +
                                                       " chunks, its metadata says " +
                                                       std::to_string(self.info->chunks)));
              }));
}

void ObjectReader::Core::ask() {
  if (ended || consumer.empty()) return;
  const auto window = static_cast<std::size_t>(pace.window());
  const auto kept = waiting.size() + asked;
  const std::size_t left = info->chunks - received - asked;
  const auto most = std::min(kept < window ? window - kept : 0, left);
  if (most == 0 || (asked != 0 && most < left && most < window / 2)) return;
  Message request;
  request.subject = "$JS.API.CONSUMER.MSG.NEXT." + store->stream + "." + consumer;
  request.reply = inbox;
  request.data = Json{{"batch", most}, {"no_wait", true}}.dump();
  if (asked == 0) heard = BootClock::now();
  asked += static_cast<std::uint32_t>(most);
  if (measure_at == 0) {
    measure_at = received + asked;
    asked_at = BootClock::now();
  }
  // What is not sent is noticed as silence, or with the connection's state.
  store->js.connection().publish(request);
}

void ObjectReader::Core::on_message(Message message) {
  heard = BootClock::now();
  if (message.status == 100) return;
  if (message.status != 0)
    return again(Error(Errc::unavailable, "the stream's consumer says " +
                                              std::to_string(message.status) + " " +
                                              std::string(message.header("Description"))));
  auto place = delivery_place_from(message.reply);
  if (!place) return;  // not from JetStream
  if (place->consumer_sequence != consumer_sequence + 1 || asked == 0)
    return again(Error(Errc::unavailable, "a chunk was lost on its way"));
  consumer_sequence = place->consumer_sequence;
  --asked;
  if (place->stream_sequence <= last_sequence) return;  // a replica that lags began too early
  last_sequence = place->stream_sequence;
  const std::size_t size = message.data.size();
  if (received_bytes + size > info->size)
    return end(fault(Errc::corrupt, "with chunk " + std::to_string(received) + " it has " +
                                        std::to_string(received_bytes + size) +
                                        " bytes, its metadata says " + std::to_string(info->size)));
  ++received;
  received_bytes += size;
  digest.add(message.data);
  waiting.push_back(std::move(message.data));
  retry.progress();
  if (received == measure_at) {
    measure_at = 0;
    pace.took(heard - asked_at);
  }
  auto mine = attempt;
  if (received == info->chunks) {
    verify();
  } else {
    ask();
  }
  if (attempt != mine && !ended) return;
  if (starved && !waiting.empty()) {
    starved = false;
    if (auto call = events.ready) call();
  }
}

void ObjectReader::Core::verify() {
  if (received_bytes != info->size)
    return end(fault(Errc::corrupt, "it has " + std::to_string(received_bytes) +
                                        " bytes, its metadata says " + std::to_string(info->size)));
  auto found = digest.finish();
  if (!same_digest(found, info->digest))
    return end(fault(Errc::corrupt, "its digest is " + found + ", its metadata says " +
                                        (info->digest.empty() ? "nothing" : info->digest)));
  end(std::nullopt);
}

void ObjectReader::Core::end(Failure failure) {
  auto self = shared_from_this();
  drop();
  ended = true;
  if (failure) waiting.clear();
  store->transfers.erase(this);
  auto tell = std::exchange(events.ended, nullptr);
  if (failure) events = {};
  if (tell) tell(std::move(failure));
}

void ObjectReader::Core::leave() {
  events = {};
  waiting.clear();
  if (store->closed || ended) return;
  ended = true;
  drop();
}

void ObjectReader::Core::store_gone() {
  if (!ended) end(store->gone());
}

ObjectReader::ObjectReader(std::shared_ptr<Core> core) : core_(std::move(core)) {}

ObjectReader::~ObjectReader() { core_->leave(); }

std::optional<std::string> ObjectReader::take() {
  if (core_->waiting.empty()) {
    core_->starved = true;
    return std::nullopt;
  }
  auto chunk = std::move(core_->waiting.front());
  core_->waiting.pop_front();
  core_->ask();
  return chunk;
}

std::unique_ptr<ObjectReader> ObjectStore::get(const std::string& name, ReaderEvents events) {
  ObjectInfo asked;
  asked.name = name;
  static_cast<void>(to_json(core_->bucket, asked));  // refuses a name that can't be
  auto core = std::make_shared<ObjectReader::Core>(core_, name, std::move(events));
  core_->js.connection().on_state(
      core, [reader = core.get()](ConnectionState state, const std::string& why) {
        if (reader->ended || reader->store->closed || reader->attempt == 0) return;
        if (state == ConnectionState::connected) {
          reader->begin();
        } else if (!reader->consumer.empty()) {
          reader->again(Error(Errc::unavailable, why));
        }
      });
  // Not from within this call: the caller has no reader yet.
  core_->js.connection().defer([weak = std::weak_ptr(core)] {
    auto reader = weak.lock();
    if (reader && !reader->ended && !reader->store->closed && reader->attempt == 0) reader->begin();
  });
  return std::unique_ptr<ObjectReader>(new ObjectReader(std::move(core)));
}

}  // namespace cluster::nats
