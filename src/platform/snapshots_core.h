// An app's snapshots for threads that block: the calls of the public API, each with its limit,
// which end when the platform does.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>

#include "cluster/snapshots.h"
#include "platform/app_core.h"
#include "sqlite/snapshot_store.h"

namespace cluster {

class Snapshots::Core {
 public:
  explicit Core(App::Core& app) : app_(app) {}

  /// On the loop: NATS can be used.
  void open();
  /// On the loop: it can't any more. Calls under way end soon, with an error.
  void close();

  // Of any other thread.

  std::string name() const;    ///< of the app, for messages
  std::string stream() const;  ///< what is committed to its database
  /// Runs `work`; its stop is requested when `limit` has passed, or by close(). Throws what it
  /// throws, and timeout or shutting_down when it was stopped.
  template <typename T>
  T call(const std::string& what, std::chrono::milliseconds limit,
         const std::function<T(sqlite::SnapshotStore&, std::stop_token)>& work);
  /// Has the leader's control service answer.
  std::string ask(const std::string& leader, const std::string& request, std::stop_token stop);

  App::Core& app() const noexcept { return app_; }

 private:
  struct Call {
    std::stop_source stop{};
    std::atomic<bool> late{false};
    LoopSource limit{};  // the loop's
  };
  std::shared_ptr<Call> begin(const std::string& what, std::chrono::milliseconds limit,
                              std::shared_ptr<sqlite::SnapshotStore>& store);
  void end(const std::shared_ptr<Call>& call);
  struct Ending {
    Core& core;
    std::shared_ptr<Call> call;
    ~Ending() { core.end(call); }
  };

  App::Core& app_;
  std::mutex mutex_;  // over all below
  std::shared_ptr<sqlite::SnapshotStore> store_;
  std::set<std::shared_ptr<Call>> calls_;
  bool closed_ = false;
};

}  // namespace cluster
