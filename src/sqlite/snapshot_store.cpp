#include "sqlite/snapshot_store.h"

#include <map>
#include <utility>

#include "core/ask_loop.h"
#include "core/check.h"
#include "nats/object_sweep.h"
#include "sqlite/checksum.h"

namespace cluster::sqlite {
struct SnapshotStore::Shared {
  nats::JetStream& jetstream;
  nats::ObjectStore objects;
  std::map<std::shared_ptr<void>, std::shared_ptr<void>> kept{};
  Shared(nats::JetStream& js, std::string bucket, Duration how_long)
      : jetstream(js), objects(js, std::move(bucket), how_long) {}
};

std::string snapshot_bucket(const std::string& platform, const std::string& app) {
  return platform + "_" + app + "_snapshots";
}

std::string wal_stream(const std::string& platform, const std::string& app) {
  return platform + "_" + app + "_wal";
}

// When a stream was created can't tell it from others: clusters that restart change that.
std::uint64_t history_of(const nats::StreamState& stream) {
  const auto id = stream.config.metadata.find(kHistoryKey);
  return number_of(id != stream.config.metadata.end() ? id->second : stream.created);
}

SnapshotStore::SnapshotStore(nats::JetStream& jetstream, std::string bucket, Duration patience)
    : loop_(jetstream.connection().loop()),
      bucket_(std::move(bucket)),
      patience_(patience),
      shared_(std::make_shared<Shared>(jetstream, bucket_, patience)),
      known_(shared_) {}

SnapshotStore::~SnapshotStore() { close(); }

// Here on the loop, whatever its tasks still hold.
void SnapshotStore::close() {
  CLUSTER_CHECK(shared_.use_count() <= 1);
  shared_.reset();
}

template <typename T>
T SnapshotStore::ask(const std::string& what, std::stop_token stop,
                     std::function<void(Shared&, Callback<T>)> start) {
  return ask_loop<T>(loop_, what + " (bucket " + bucket_ + ")", patience_ * 2, std::move(stop),
                     [known = known_, start = std::move(start)](Callback<T> done) {
                       // Only the loop lets go of it.
                       const auto shared = known.lock();
                       if (!shared)
                         return done(Error(Errc::shutting_down, "the snapshot store is closed"));
                       start(*shared, std::move(done));
                     });
}

void SnapshotStore::ensure(int replicas, std::stop_token stop) {
  ask<bool>("create", stop, [replicas](Shared& shared, const Callback<bool>& done) {
    nats::ObjectBucketConfig config;
    config.description = "cpp-cluster: snapshots of a database, as Litestream keeps them";
    config.replicas = replicas;
    shared.objects.ensure(config, [done](const Failure& failure) {
      if (failure) return done(*failure);
      done(true);
    });
  });
}

StoreListing SnapshotStore::list(std::stop_token stop) {
  using Objects = std::vector<nats::ObjectInfo>;
  try {
    const auto objects = ask<Objects>(
        "list", stop, [](Shared& shared, auto done) { shared.objects.list(std::move(done)); });
    // Behind the list: what is in that is counted here, unless it has gone meanwhile.
    const auto bytes = ask<std::uint64_t>(
        "list", stop, [bucket = bucket_](Shared& shared, const Callback<std::uint64_t>& done) {
          shared.jetstream.stream(nats::object_stream(bucket),
                                  [done](const Result<nats::StreamState>& state) {
                                    if (!state) return done(state.error());
                                    done(state.value().bytes);
                                  });
        });
    return listing_of(objects, bytes);
  } catch (const Error& error) {
    if (error.errc() != Errc::not_found) throw;
    return {};
  }
}

bool SnapshotStore::remove(const std::string& name, std::stop_token stop) {
  return ask<bool>("remove " + name, stop, [name](Shared& shared, const Callback<bool>& done) {
    shared.objects.remove(name, [done](const Failure& failure) {
      if (failure && failure->errc() != Errc::not_found) return done(*failure);
      done(!failure);
    });
  });
}

std::uint64_t SnapshotStore::sweep(Duration age, std::stop_token stop) {
  return ask<std::uint64_t>(
      "sweep", stop, [name = bucket_, age](Shared& shared, const Callback<std::uint64_t>& done) {
        shared.objects.list([name, age, done, &jetstream = shared.jetstream](
                                Result<std::vector<nats::ObjectInfo>> objects) {
          if (!objects) return done(objects.error());
          nats::sweep_chunks(jetstream, name, objects.value(), age, done);
        });
      });
}

std::shared_ptr<nats::ObjectSource> SnapshotStore::open(const std::string& name,
                                                        std::stop_token stop) {
  using Source = std::shared_ptr<nats::ObjectSource>;
  return ask<Source>("read " + name, stop,
                     [name, stop](Shared& shared, const Callback<Source>& done) {
                       done(std::make_shared<nats::ObjectSource>(shared.objects, name, stop));
                     });
}

std::shared_ptr<nats::ObjectSink> SnapshotStore::create(const StoredFile& file,
                                                        std::stop_token stop) {
  using Sink = std::shared_ptr<nats::ObjectSink>;
  return ask<Sink>(
      "write " + file.name(), stop, [file, stop](Shared& shared, const Callback<Sink>& done) {
        nats::NewObject object;
        object.name = file.name();
        object.headers = headers_of(file);
        done(std::make_shared<nats::ObjectSink>(shared.objects, std::move(object), stop));
      });
}

void SnapshotStore::note_led(std::int64_t led_ms, std::stop_token stop) {
  using Sink = std::shared_ptr<nats::ObjectSink>;
  const auto sink =
      ask<Sink>("write " + std::string(kLedObject), stop,
                [led_ms, stop](Shared& shared, const Callback<Sink>& done) {
                  nats::NewObject object;
                  object.name = kLedObject;
                  object.headers = headers_of_led(led_ms);
                  done(std::make_shared<nats::ObjectSink>(shared.objects, std::move(object), stop));
                });
  sink->finish();
}

std::optional<StreamRange> SnapshotStore::stream(const std::string& name, std::stop_token stop) {
  using Range = std::optional<StreamRange>;
  return ask<Range>("read stream " + name, stop,
                    [name](Shared& shared, const Callback<Range>& done) {
                      shared.jetstream.stream(name, [name, done](Result<nats::StreamState> state) {
                        if (!state && state.error().errc() == Errc::not_found) return done(Range());
                        if (!state) return done(state.error());
                        const nats::StreamState& s = state.value();
                        done(Range({history_of(s), s.messages == 0 ? s.last_seq + 1 : s.first_seq,
                                    s.last_seq, s.bytes, name, s.last_time_ns, s.server_time_ns}));
                      });
                    });
}

std::optional<nats::StoredMessage> SnapshotStore::message(const std::string& stream,
                                                          std::uint64_t sequence,
                                                          std::stop_token stop) {
  using Found = std::optional<nats::StoredMessage>;
  return ask<Found>("read stream " + stream, stop,
                    [stream, sequence](Shared& shared, const Callback<Found>& done) {
                      shared.jetstream.message(stream, sequence,
                                               [done](Result<nats::StoredMessage> m) {
                                                 if (!m && m.error().errc() == Errc::not_found)
                                                   return done(Found());
                                                 if (!m) return done(m.error());
                                                 done(Found(std::move(m.value())));
                                               });
                    });
}

void SnapshotStore::trim(const std::string& stream, std::uint64_t before, std::stop_token stop) {
  ask<std::uint64_t>("trim stream " + stream, stop,
                     [stream, before](Shared& shared, const Callback<std::uint64_t>& done) {
                       shared.jetstream.purge(stream, "", before, done);
                     });
}

void SnapshotStore::keep(std::function<std::shared_ptr<void>(nats::JetStream&)> make,
                         std::shared_ptr<void> key) {
  loop_.post([known = known_, make = std::move(make), key = std::move(key)] {
    if (const auto shared = known.lock()) shared->kept[key] = make(shared->jetstream);
  });
}

void SnapshotStore::with_kept(const std::shared_ptr<void>& key, std::function<void(void*)> task) {
  loop_.post([known = known_, key, task = std::move(task)] {
    const auto shared = known.lock();
    if (!shared) return;
    const auto it = shared->kept.find(key);
    if (it != shared->kept.end()) task(it->second.get());
  });
}

void SnapshotStore::let_go(const std::shared_ptr<void>& key) {
  loop_.post([known = known_, key] {
    if (const auto shared = known.lock()) shared->kept.erase(key);
  });
}

}  // namespace cluster::sqlite
