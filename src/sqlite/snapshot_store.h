// The bucket `<platform>_<app>_snapshots`: LTX files in an object store. Made and destroyed on the
// loop; used by threads that block. Decides nothing (snapshot_plan.h).
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "core/loop.h"
#include "nats/jetstream.h"
#include "nats/object_bridge.h"
#include "sqlite/stored_file.h"

namespace cluster::sqlite {

std::string snapshot_bucket(const std::string& platform, const std::string& app);
/// The stream of what is committed to an app's database.
std::string wal_stream(const std::string& platform, const std::string& app);

/// Which part of which WAL stream there is.
struct StreamRange {
  std::uint64_t history = 0;
  std::uint64_t first = 0, last = 0;  ///< sequences; last is first - 1 when it is empty
  std::uint64_t bytes = 0;
  std::string name{};
  std::int64_t last_ns = 0;    ///< when its last message was stored; 0: not known
  std::int64_t server_ns = 0;  ///< what its server's clock says; 0: not known
};

/// A WAL stream is made with an id in its metadata, under this key: another stream of the same name
/// is another history.
constexpr const char* kHistoryKey = "cpp-cluster-history";
std::uint64_t history_of(const nats::StreamState& stream);

/// It must outlive the calls, and the JetStream must outlive it, or live until close(): request the
/// calls' stop, then wait for their thread or close. The calls block, not on the loop. They throw
/// Error: what the store says; shutting_down when `stop` is requested or it is closed; timeout when
/// nothing has moved for twice `patience`.
class SnapshotStore {
 public:
  SnapshotStore(nats::JetStream& jetstream, std::string bucket,
                Duration patience = std::chrono::seconds(30));
  ~SnapshotStore();
  SnapshotStore(const SnapshotStore&) = delete;
  SnapshotStore& operator=(const SnapshotStore&) = delete;

  /// On the loop: nothing of it is there any more but for calls of other threads, which fail. Their
  /// stop is to be requested before: once the loop has ended, nobody answers them.
  void close();

  const std::string& bucket() const noexcept { return bucket_; }
  /// Makes the bucket if there is none.
  void ensure(int replicas, std::stop_token stop = {});
  /// Nothing is in a bucket that is not there.
  StoreListing list(std::stop_token stop = {});
  /// Whether it was there.
  bool remove(const std::string& name, std::stop_token stop = {});
  std::shared_ptr<nats::ObjectSource> open(const std::string& name, std::stop_token stop = {});
  std::shared_ptr<nats::ObjectSink> create(const StoredFile& file, std::stop_token stop = {});
  /// Writes down for how long the database was led.
  void note_led(std::int64_t led_ms, std::stop_token stop = {});
  /// What there is of a stream; nothing when it does not exist.
  std::optional<StreamRange> stream(const std::string& name, std::stop_token stop = {});
  /// Frees what uploads have left behind whose program died, and to which nothing was added for
  /// `age`; tells how many.
  std::uint64_t sweep(Duration age, std::stop_token stop = {});
  /// One message of a stream; nothing when it is not there.
  std::optional<nats::StoredMessage> message(const std::string& stream, std::uint64_t sequence,
                                             std::stop_token stop = {});
  /// Removes the messages before that sequence.
  void trim(const std::string& stream, std::uint64_t before, std::stop_token stop = {});

  /// Has `make` make something on the loop that lives there until let_go(), or until this is gone;
  /// `key` finds it. These three do not block.
  void keep(std::function<std::shared_ptr<void>(nats::JetStream&)> make, std::shared_ptr<void> key);
  template <typename T>
  void with(const std::shared_ptr<void>& key, std::function<void(T&)> task) {
    with_kept(key, [task = std::move(task)](void* kept) { task(*static_cast<T*>(kept)); });
  }
  void let_go(const std::shared_ptr<void>& key);

 private:
  void with_kept(const std::shared_ptr<void>& key, std::function<void(void*)> task);
  struct Shared;
  template <typename T>
  T ask(const std::string& what, std::stop_token stop,
        std::function<void(Shared&, Callback<T>)> start);

  Loop& loop_;
  const std::string bucket_;
  const Duration patience_;
  std::shared_ptr<Shared> shared_;     // the loop's alone
  const std::weak_ptr<Shared> known_;  // to it, for other threads
};

}  // namespace cluster::sqlite
