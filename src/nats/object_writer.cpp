// How an object is put. Chunks go out many at a time and stand in the stream in the order in which
// they came, which for one connection is the order in which they were sent, unless a leader's
// change swallows some. So when an acknowledgement is missing, nothing more is sent until all
// others are settled; then the stream's leader is asked what it has, what stands too early is
// removed, and the rest is sent again.
#include <deque>

#include "core/check.h"
#include "core/ids.h"
#include "core/log.h"
#include "core/wall_time.h"
#include "nats/object_store_core.h"

namespace cluster::nats {
namespace {

// A server that dropped a chunk while it stored it may take its id for known. Not found so often,
// it gets another one.
constexpr int kMissesOfOneId = 3;

// What a message has besides a chunk: the header with its id, of about 60 bytes.
constexpr std::int64_t kChunkHeader = 256;
constexpr std::int64_t kLeastChunk = 512;

// No more than the server takes now. Behind one that takes less the put fails, and the next one
// has smaller chunks.
std::uint32_t fitting_chunk(std::uint32_t wanted, std::int64_t max_payload) {
  if (max_payload <= 0) return wanted;  // not known yet
  if (max_payload < kChunkHeader + kLeastChunk)
    throw Error(Errc::invalid_argument, "objects can't be put: the server's max_payload of " +
                                            std::to_string(max_payload) +
                                            " is too small: raise max_payload in nats-server's "
                                            "configuration to 4096 at least");
  return static_cast<std::uint32_t>(std::min<std::int64_t>(wanted, max_payload - kChunkHeader));
}

}  // namespace

struct ObjectWriter::Core final : ObjectTransfer, std::enable_shared_from_this<ObjectWriter::Core> {
  struct Chunk {
    std::uint64_t index = 0;
    std::string data{};
    int edition = 0;  // part of the id that the server knows it by
    int misses = 0;
    std::uint64_t sequence = 0;  // where it is stored; 0: not known to be
  };
  enum class Stage { writing, publishing, cleaning, ended };

  std::shared_ptr<ObjectStore::Core> store;
  ObjectInfo info;
  ObjectStore::WriterEvents events;
  Callback<ObjectInfo> finished{};
  const std::string subject;

  Stage stage = Stage::writing;
  bool finishing = false;
  bool blocked = false;  // ready() was false since events.ready was called last
  ObjectDigest digest{};
  std::deque<Chunk> chunks{};       // from the first that is not settled on
  std::uint64_t settled_up_to = 0;  // the sequence of the last settled chunk
  int under_way = 0;
  ObjectPace pace{kMostUnderWay};

  bool troubled = false;  // settling, or waiting for it
  bool ever_troubled = false;
  std::optional<Error> trouble{};
  ObjectRetry retry{};

  Core(std::shared_ptr<ObjectStore::Core> s, NewObject object, ObjectStore::WriterEvents e)
      : store(std::move(s)),
        info({.name = std::move(object.name),
              .description = std::move(object.description),
              .headers = std::move(object.headers),
              .nuid = random_id(),
              .chunk_size =
                  fitting_chunk(object.chunk_size, store->js.connection().server().max_payload)}),
        events(std::move(e)),
        subject(object_chunk_subject(store->bucket, info.nuid)) {
    static_cast<void>(to_json(store->bucket, info));  // refuses what can't be
    if (info.chunk_size == 0) throw Error(Errc::invalid_argument, "a chunk size of 0 bytes");
    store->transfers.insert(this);
  }
  ~Core() override { store->transfers.erase(this); }

  template <typename Fn>
  auto guarded(Fn fn) {
    return [weak = weak_from_this(), fn](auto... args) {
      auto self = weak.lock();
      if (self && !self->store->closed) fn(*self, std::move(args)...);
    };
  }

  std::string what() const {
    return "put object \"" + info.name + "\" into bucket \"" + store->bucket + "\"";
  }
  std::string id_of(const Chunk& chunk) const {
    return info.nuid + "." + std::to_string(chunk.index) + "." + std::to_string(chunk.edition);
  }
  bool ready() const {
    return stage == Stage::writing && !finishing && !troubled &&
           chunks.size() < static_cast<std::size_t>(pace.window());
  }

  void write(std::string data);
  void send(Chunk& chunk);
  void acknowledged(std::uint64_t index, int edition, Time sent, Result<PubAck> ack);
  void settle_front();
  void go_on();
  void in_trouble(const Error& error);
  void settle();
  void look(std::uint64_t from);
  void found(const StoredMessage& message);
  void resend();
  void complete();
  void publish_metadata();
  void published(Result<std::optional<ObjectInfo>> before);
  void fail(const Error& error, bool clean);
  void clean_up();
  void end();
  void leave();
  void store_gone() override;
};

void ObjectWriter::Core::write(std::string data) {
  CLUSTER_CHECK(ready() && !data.empty() && data.size() <= info.chunk_size);
  digest.add(data);
  info.size += data.size();
  chunks.push_back({.index = info.chunks++, .data = std::move(data)});
  blocked = !ready();
  send(chunks.back());
}

void ObjectWriter::Core::send(Chunk& chunk) {
  Message message;
  message.subject = subject;
  message.data = chunk.data;
  // So that a copy which lands late, behind the one that was sent again, is dropped by the server.
  message.headers = {{"Nats-Msg-Id", id_of(chunk)}};
  ++under_way;
  store->js.publish(std::move(message), {},
                    guarded([index = chunk.index, edition = chunk.edition, sent = BootClock::now()](
                                Core& self, Result<PubAck> ack) {
                      self.acknowledged(index, edition, sent, std::move(ack));
                    }));
}

void ObjectWriter::Core::acknowledged(std::uint64_t index, int edition, Time sent,
                                      Result<PubAck> ack) {
  --under_way;
  if (stage == Stage::cleaning) return clean_up();
  if (stage != Stage::writing) return;
  pace.took(BootClock::now() - sent);
  if (!ack) return in_trouble(ack.error());
  auto at = index - chunks.front().index;
  CLUSTER_CHECK(at < chunks.size() && chunks[at].edition == edition);
  chunks[at].sequence = ack.value().sequence;
  if (troubled) return in_trouble(*trouble);
  settle_front();
  go_on();
}

// Lets go of chunks that are stored with all before them.
void ObjectWriter::Core::settle_front() {
  while (stage == Stage::writing && !chunks.empty() && chunks.front().sequence != 0) {
    if (chunks.front().sequence <= settled_up_to)
      return fail(Error(Errc::corrupt, what() + ": chunk " + std::to_string(chunks.front().index) +
                                           " was stored before the one that it follows"),
                  true);
    settled_up_to = chunks.front().sequence;
    chunks.pop_front();
    retry.progress();
  }
}

void ObjectWriter::Core::go_on() {
  if (stage != Stage::writing) return;
  if (finishing) return complete();
  if (!blocked || !ready()) return;
  blocked = false;
  if (auto call = events.ready) call();
}

void ObjectWriter::Core::in_trouble(const Error& error) {
  if (!may_pass(error) && error.errc() != Errc::not_found)
    return fail(Error(error.errc(), what() + ": " + error.what()), true);
  troubled = ever_troubled = true;
  trouble = error;
  blocked = true;
  if (under_way != 0) return;
  auto wait = retry.next(store->patience);
  if (!wait) return fail(Error(error.errc(), what() + ": " + error.what()), true);
  store->later(*wait, guarded([](Core& self) {
    if (self.stage == Stage::writing) self.settle();
  }));
}

void ObjectWriter::Core::settle() {
  for (auto& chunk : chunks) chunk.sequence = 0;
  store->js.stream(store->stream, guarded([](Core& self, Result<StreamState> stream) {
                     if (self.stage != Stage::writing) return;
                     if (stream) return self.look(self.settled_up_to + 1);
                     if (stream.error().errc() != Errc::not_found)
                       return self.in_trouble(stream.error());
                     self.fail(Error(Errc::not_found, self.what() + ": there is no such bucket"),
                               false);
                   }));
}

void ObjectWriter::Core::look(std::uint64_t from) {
  store->js.next_message(store->stream, subject, from,
                         guarded([](Core& self, Result<StoredMessage> message) {
                           if (self.stage != Stage::writing) return;
                           if (message) return self.found(message.value());
                           if (message.error().errc() == Errc::not_found) return self.resend();
                           self.in_trouble(message.error());
                         }));
}

// The stream has this behind what is settled.
void ObjectWriter::Core::found(const StoredMessage& message) {
  const std::string id(message.header("Nats-Msg-Id"));
  if (!chunks.empty() && id == id_of(chunks.front())) {
    chunks.front().sequence = message.sequence;
    settle_front();
    return look(message.sequence + 1);
  }
  log::warn("object_chunk_misplaced", {{"bucket", store->bucket},
                                       {"object", info.name},
                                       {"id", id},
                                       {"sequence", message.sequence}});
  store->js.delete_message(store->stream, message.sequence,
                           guarded([id, next = message.sequence + 1](Core& self, Failure failure) {
                             if (self.stage != Stage::writing) return;
                             for (auto& chunk : self.chunks)
                               if (id == self.id_of(chunk)) ++chunk.edition;  // its id is spent
                             if (failure) return self.in_trouble(*failure);
                             self.look(next);
                           }));
}

void ObjectWriter::Core::resend() {
  troubled = false;
  for (auto& chunk : chunks) {
    if (++chunk.misses == kMissesOfOneId) {
      chunk.misses = 0;
      ++chunk.edition;
    }
    send(chunk);
  }
  go_on();
}

void ObjectWriter::Core::complete() {
  if (!chunks.empty() || stage != Stage::writing || troubled) return;
  stage = Stage::publishing;
  if (!ever_troubled) return publish_metadata();
  // The last word on whether a copy has landed late after all.
  store->js.count_messages(
      store->stream, subject, guarded([](Core& self, Result<std::uint64_t> count) {
        if (self.stage != Stage::publishing) return;
        if (!count) {
          self.stage = Stage::writing;
          return self.in_trouble(count.error());
        }
        if (count.value() == self.info.chunks) return self.publish_metadata();
        self.fail(Error(Errc::corrupt, self.what() + ": " + std::to_string(count.value()) +
                                           " chunks are stored instead of " +
                                           std::to_string(self.info.chunks)),
                  true);
      }));
}

void ObjectWriter::Core::publish_metadata() {
  info.digest = digest.finish();
  auto decide =
      [info = info](const ObjectStore::Core::Known& now) -> Result<std::optional<ObjectInfo>> {
    if (now.info && now.info->nuid == info.nuid && !now.info->deleted)
      return std::optional<ObjectInfo>();
    return std::optional(info);
  };
  store->change(info.name, decide,
                guarded([](Core& self, Result<std::optional<ObjectInfo>> before) {
                  self.published(std::move(before));
                }));
}

void ObjectWriter::Core::published(Result<std::optional<ObjectInfo>> before) {
  if (!before) {
    // Without an answer it may be visible, and then it needs its chunks.
    const bool refused = !may_pass(before.error());
    return fail(Error(before.error().errc(), what() + ": its metadata: " + before.error().what()),
                refused);
  }
  auto visible = [](Core& self) {
    self.info.mtime_ns = wall_ns();
    auto answer = std::exchange(self.finished, nullptr);
    auto result = self.info;
    self.end();
    if (answer) answer(std::move(result));
  };
  const auto& old = before.value();
  if (!old || old->nuid == info.nuid) return visible(*this);
  store->free_chunks(old->nuid, guarded([visible, nuid = old->nuid](Core& self, Failure failure) {
                       if (failure)
                         log::warn("object_chunks_left", {{"bucket", self.store->bucket},
                                                          {"object", self.info.name},
                                                          {"nuid", nuid},
                                                          {"error", failure->what()}});
                       visible(self);
                     }));
}

void ObjectWriter::Core::fail(const Error& error, bool clean) {
  auto self = shared_from_this();
  auto answer = std::exchange(finished, nullptr);
  auto tell = std::exchange(events, {}).failed;
  chunks.clear();
  if (clean) {
    stage = Stage::cleaning;
    store->unfinished.insert(self);
    clean_up();
  } else {
    end();
  }
  if (answer) {
    answer(error);
  } else if (tell) {
    tell(error);
  }
}

// Once nothing is under way that would be stored behind the purge.
void ObjectWriter::Core::clean_up() {
  if (under_way != 0) return;
  if (info.chunks == 0) return end();
  store->free_chunks(info.nuid, guarded([](Core& self, Failure failure) {
                       if (failure)
                         log::warn("object_chunks_left", {{"bucket", self.store->bucket},
                                                          {"object", self.info.name},
                                                          {"nuid", self.info.nuid},
                                                          {"error", failure->what()}});
                       self.end();
                     }));
}

void ObjectWriter::Core::end() {
  auto self = shared_from_this();
  stage = Stage::ended;
  store->transfers.erase(this);
  store->unfinished.erase(self);
}

void ObjectWriter::Core::leave() {
  events = {};
  finished = nullptr;
  if (store->closed || stage == Stage::ended || stage == Stage::cleaning) return;
  store->unfinished.insert(shared_from_this());
  if (stage != Stage::writing) return;
  stage = Stage::cleaning;
  chunks.clear();
  clean_up();
}

void ObjectWriter::Core::store_gone() {
  auto self = shared_from_this();
  if (stage == Stage::ended) return;
  // Nobody will hear the answer; the loss is of space only.
  if (stage != Stage::publishing && info.chunks != 0)
    store->js.purge(store->stream, subject, 0, [](Result<std::uint64_t>) {});
  stage = Stage::ended;
  chunks.clear();
  auto answer = std::exchange(finished, nullptr);
  auto tell = std::exchange(events, {}).failed;
  if (answer) {
    answer(store->gone());
  } else if (tell) {
    tell(store->gone());
  }
}

ObjectWriter::ObjectWriter(std::shared_ptr<Core> core) : core_(std::move(core)) {}

ObjectWriter::~ObjectWriter() { core_->leave(); }

bool ObjectWriter::ready() const noexcept { return core_->ready(); }

std::uint32_t ObjectWriter::chunk_size() const noexcept { return core_->info.chunk_size; }

void ObjectWriter::write(std::string chunk) { core_->write(std::move(chunk)); }

void ObjectWriter::finish(Callback<ObjectInfo> done) {
  auto core = core_;
  CLUSTER_CHECK(!core->finishing);
  core->finishing = true;
  core->finished = std::move(done);
  if (core->stage == Core::Stage::writing) return core->complete();
  if (core->store->closed) return std::exchange(core->finished, nullptr)(core->store->gone());
  core->store->js.connection().defer([core] {
    if (auto answer = std::exchange(core->finished, nullptr))
      answer(Error(Errc::unavailable, core->what() + ": it has failed before"));
  });
}

std::unique_ptr<ObjectWriter> ObjectStore::put(NewObject object, WriterEvents events) {
  return std::unique_ptr<ObjectWriter>(new ObjectWriter(
      std::make_shared<ObjectWriter::Core>(core_, std::move(object), std::move(events))));
}

}  // namespace cluster::nats
