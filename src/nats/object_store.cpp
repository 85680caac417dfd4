#include "nats/object_store.h"

#include "core/log.h"
#include "nats/bucket_name.h"
#include "nats/object_store_core.h"

namespace cluster::nats {
namespace {

Error no_object(const std::string& bucket, const std::string& name) {
  return Error(Errc::not_found, "there is no object \"" + name + "\" in bucket \"" + bucket + "\"");
}

// Reads all metadata, up to the newest that the stream's leader has.
struct Listing : std::enable_shared_from_this<Listing> {
  ObjectStore::Core& store;
  Callback<std::vector<ObjectInfo>> done;
  std::map<std::string, ObjectInfo> found{};  // by subject
  std::uint64_t seen = 0;
  std::uint64_t newest = 0;
  std::unique_ptr<OrderedConsumer> consumer{};
  LoopSource limit{};

  Listing(ObjectStore::Core& s, Callback<std::vector<ObjectInfo>> d)
      : store(s), done(std::move(d)) {}

  template <typename Fn>
  auto guarded(Fn fn) {
    return [weak = weak_from_this(), fn](auto... args) {
      auto self = weak.lock();
      if (self && !self->store.closed && self->done) fn(*self, std::move(args)...);
    };
  }

  void begin() {
    limit = store.js.connection().loop().after(
        store.patience, guarded([](Listing& self) {
          self.end(Error(Errc::timeout, "list bucket \"" + self.store.bucket +
                                            "\": the metadata did not come within the time limit"));
        }));
    ask_newest();
  }

  void ask_newest() {
    store.js.last_message(store.stream, object_meta_subject(store.bucket),
                          guarded([](Listing& self, Result<StoredMessage> last) {
                            if (!last && last.error().errc() == Errc::not_found)
                              return self.nothing_there();
                            if (!last) return self.end(last.error());
                            self.newest = last.value().sequence;
                            if (self.seen >= self.newest) return self.end_well();
                            if (!self.consumer) self.consume();
                          }));
  }

  void nothing_there() {
    store.js.stream(store.stream, guarded([](Listing& self, Result<StreamState> stream) {
                      if (!stream) return self.end(stream.error());
                      self.found.clear();
                      self.end_well();
                    }));
  }

  void consume() {
    OrderedConsumer::Handlers handlers;
    handlers.message = guarded([](Listing& self, StoredMessage m) { self.add(std::move(m)); });
    // A replica that lags: what is missing comes soon, unless it was removed meanwhile.
    handlers.caught_up = guarded([](Listing& self) { self.look_again(); });
    handlers.trouble = guarded([](Listing& self, const Error& error) {
      if (!may_pass(error)) self.end(error);
    });
    consumer = std::make_unique<OrderedConsumer>(
        store.js, store.stream, std::vector{object_meta_subject(store.bucket)},
        StartAt{StartAt::Kind::last_per_subject, 0}, std::move(handlers));
  }

  void look_again() {
    store.later(std::chrono::milliseconds(100), guarded([](Listing& self) {
                  self.ask_newest();
                  self.look_again();
                }));
  }

  void add(StoredMessage message) {
    seen = message.sequence;
    auto info = object_info_from(message.data, message.time_ns);
    if (!info)
      log::warn(
          "object_unreadable",
          {{"bucket", store.bucket}, {"subject", message.subject}, {"error", info.error().what()}});
    if (info && !info.value().deleted) {
      found[message.subject] = std::move(info.value());
    } else {
      found.erase(message.subject);
    }
    if (seen >= newest) end_well();
  }

  void end_well() {
    std::vector<ObjectInfo> all;
    all.reserve(found.size());
    for (auto& [subject, info] : found) all.push_back(std::move(info));
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    end(std::move(all));
  }

  void end(Result<std::vector<ObjectInfo>> result) {
    auto self = shared_from_this();
    auto answer = std::exchange(done, nullptr);
    consumer.reset();
    limit.reset();
    store.unfinished.erase(self);
    answer(std::move(result));
  }
};

}  // namespace

ObjectStore::Core::Core(JetStream& jetstream, std::string name, Duration how_long)
    : js(jetstream), bucket(std::move(name)), stream(object_stream(bucket)), patience(how_long) {}

void ObjectStore::Core::close() {
  closed = true;
  timers_.clear();
  while (!transfers.empty()) {
    auto* transfer = *transfers.begin();
    transfers.erase(transfers.begin());
    transfer->store_gone();
  }
  auto dropped = std::exchange(unfinished, {});
}

Error ObjectStore::Core::gone() const {
  return Error(Errc::shutting_down, "bucket \"" + bucket + "\" is being closed");
}

void ObjectStore::Core::later(Duration delay, Loop::Task task) {
  const auto id = ++last_timer_;
  timers_[id] =
      js.connection().loop().after(delay, [weak = weak_from_this(), id, task = std::move(task)] {
        auto core = weak.lock();
        if (!core || core->closed) return;
        core->timers_.erase(id);
        task();
      });
}

void ObjectStore::Core::read(const std::string& name, Callback<Known> done) {
  js.last_message(
      stream, object_meta_subject(bucket, name),
      [weak = weak_from_this(), name, done = std::move(done)](Result<StoredMessage> message) {
        auto core = weak.lock();
        if (!core || core->closed) return;
        if (message) {
          Known known;
          known.sequence = message.value().sequence;
          auto info = object_info_from(message.value().data, message.value().time_ns);
          if (info && info.value().name == name) {
            known.info = std::move(info.value());
          } else {
            known.fault =
                info ? Error(Errc::corrupt, "the metadata is another object's") : info.error();
          }
          return done(std::move(known));
        }
        if (message.error().errc() != Errc::not_found) return done(message.error());
        // No such object, or no bucket?
        core->js.stream(core->stream, [weak, done](Result<StreamState> there) {
          auto still = weak.lock();
          if (!still || still->closed) return;
          if (there) return done(Known{});
          if (there.error().errc() != Errc::not_found) return done(there.error());
          done(Error(Errc::not_found, "there is no bucket \"" + still->bucket + "\""));
        });
      });
}

struct ObjectStore::Core::Change {
  std::string name;
  Decide decide;
  Callback<std::optional<ObjectInfo>> done;
  std::optional<ObjectInfo> before{};
  bool tried = false;
  ObjectRetry retry{};
};

void ObjectStore::Core::change(const std::string& name, Decide decide,
                               Callback<std::optional<ObjectInfo>> done) {
  auto change = std::make_shared<Change>();
  change->name = name;
  change->decide = std::move(decide);
  change->done = std::move(done);
  step(change);
}

void ObjectStore::Core::step(const std::shared_ptr<Change>& change) {
  auto again = [this, change](const Error& error) {
    auto wait = may_pass(error) ? change->retry.next(patience) : std::nullopt;
    if (!wait) return change->done(error);
    later(*wait, [this, change] { step(change); });
  };
  read(change->name, [this, change, again](Result<Known> known) {
    if (!known) return again(known.error());
    auto wanted = change->decide(known.value());
    if (!wanted) return change->done(wanted.error());
    if (!wanted.value()) return change->done(change->tried ? change->before : known.value().info);
    change->before = known.value().info;
    change->tried = true;
    Message message;
    message.subject = object_meta_subject(bucket, change->name);
    message.headers = {{"Nats-Rollup", "sub"}};
    message.data = to_json(bucket, *wanted.value());
    Expect expect;
    expect.last_subject_sequence = known.value().sequence;
    js.publish(std::move(message), expect,
               [weak = weak_from_this(), change, again](Result<PubAck> ack) {
                 auto core = weak.lock();
                 if (!core || core->closed) return;
                 if (ack) return change->done(change->before);
                 again(ack.error());  // what is there is read anew, so a lost answer is no loss
               });
  });
}

struct ObjectStore::Core::Freeing {
  std::string nuid;
  Completion done;
  ObjectRetry retry{};
};

void ObjectStore::Core::free_chunks(const std::string& nuid, Completion done) {
  auto freeing = std::make_shared<Freeing>();
  freeing->nuid = nuid;
  freeing->done = std::move(done);
  free_step(freeing);
}

void ObjectStore::Core::free_step(const std::shared_ptr<Freeing>& freeing) {
  js.purge(stream, object_chunk_subject(bucket, freeing->nuid), 0,
           [weak = weak_from_this(), freeing](Result<std::uint64_t> purged) {
             auto core = weak.lock();
             if (!core || core->closed) return;
             if (purged) return freeing->done(std::nullopt);
             auto wait =
                 may_pass(purged.error()) ? freeing->retry.next(core->patience) : std::nullopt;
             if (!wait) return freeing->done(purged.error());
             core->later(*wait, [core = core.get(), freeing] { core->free_step(freeing); });
           });
}

ObjectStore::ObjectStore(JetStream& jetstream, std::string bucket, Duration patience) {
  check_bucket_name(bucket);
  core_ = std::make_shared<Core>(jetstream, std::move(bucket), patience);
}

ObjectStore::~ObjectStore() { core_->close(); }

const std::string& ObjectStore::bucket() const noexcept { return core_->bucket; }

void ObjectStore::ensure(const ObjectBucketConfig& config, Completion done) {
  // As every NATS client makes a bucket.
  StreamConfig stream;
  stream.name = core_->stream;
  stream.description = config.description;
  stream.subjects = {object_chunk_subject(core_->bucket), object_meta_subject(core_->bucket)};
  stream.replicas = config.replicas;
  stream.max_bytes = config.max_bytes;
  stream.allow_rollup = true;
  stream.allow_direct = true;
  stream.discard_new = true;
  core_->js.ensure_stream(stream, std::move(done));
}

void ObjectStore::info(const std::string& name, Callback<ObjectInfo> done) {
  core_->read(name, [core = core_.get(), name, done = std::move(done)](Result<Core::Known> known) {
    if (!known) return done(known.error());
    if (known.value().fault)
      return done(Error(known.value().fault->errc(), "object \"" + name + "\" in bucket \"" +
                                                         core->bucket +
                                                         "\": " + known.value().fault->what()));
    if (!known.value().info || known.value().info->deleted)
      return done(no_object(core->bucket, name));
    done(std::move(*known.value().info));
  });
}

void ObjectStore::list(Callback<std::vector<ObjectInfo>> done) {
  auto listing = std::make_shared<Listing>(*core_, std::move(done));
  core_->unfinished.insert(listing);
  listing->begin();
}

void ObjectStore::remove(const std::string& name, Completion done) {
  auto decide = [core = core_.get(),
                 name](const Core::Known& now) -> Result<std::optional<ObjectInfo>> {
    if (now.sequence == 0) return no_object(core->bucket, name);
    if (now.info && now.info->deleted) return std::optional<ObjectInfo>();
    ObjectInfo marker = now.info.value_or(ObjectInfo{});
    if (!now.info) {
      marker.name = name;
      marker.nuid = "unknown";
    }
    marker.deleted = true;
    marker.size = 0;
    marker.chunks = 0;
    marker.digest.clear();
    return std::optional(std::move(marker));
  };
  core_->change(
      name, decide,
      [core = core_.get(), name, done = std::move(done)](Result<std::optional<ObjectInfo>> before) {
        if (!before) return done(before.error());
        if (!before.value()) return done(std::nullopt);
        // Also of one that was removed before: its chunks may have been left then.
        core->free_chunks(before.value()->nuid, [name, done](Failure failure) {
          if (!failure) return done(std::nullopt);
          done(Error(failure->errc(), "object \"" + name +
                                          "\" is removed but its chunks are not freed (" +
                                          failure->what() + "); remove it again to free them"));
        });
      });
}

}  // namespace cluster::nats
