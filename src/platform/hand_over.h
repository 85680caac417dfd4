// An ordered hand-over of the lead of one app, on the node that leads (docs/protocols.md, "A
// hand-over in order"): who can lead next is asked first; what was committed to the database is
// sent while the program runs; then the program is stopped and the rest is sent. Where that can't
// be done the program goes on, and this node leads on. Knows neither NATS nor the steps of a
// promotion. On the loop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/loop.h"
#include "core/result.h"
#include "platform/lead_messages.h"
#include "sqlite/primary.h"

namespace cluster {

class HandOver {
 public:
  enum class Stage {
    looking,     ///< who can lead next?
    draining,    ///< what was committed is sent, while more comes
    following,   ///< the next leader's copy gets that
    asking,      ///< does JetStream answer? The lease is there
    stopping,    ///< the app is stopped, but for its database
    emptying,    ///< the rest is sent
    confirming,  ///< and gets to the next leader
    releasing,   ///< the database is left, and the lease
    resuming,    ///< called off: the app is started again
  };

  struct Options {
    std::string target{};  ///< who is to lead; empty: whoever is ready
    bool force = false;    ///< also when nobody is ready, and without what can't be sent
    Duration quiet{};      ///< for so long nothing of a database may get on
    Time until{};          ///< it is called off then, if the app was not stopped yet
  };

  /// What it looks at and acts on. Callbacks that are given may be called at once, or later.
  struct Surroundings {
    /// Live nodes that run the app, without this one; the one that would lead first comes first.
    std::function<std::vector<std::string>()> candidates{};
    /// Asks a node; the answer, or that there is none, comes within seconds.
    std::function<void(const std::string& node, const LeadQuery& query, Callback<LeadState> done)>
        ask{};
    /// Tells within seconds whether the leases can be written.
    std::function<void(Completion done)> ask_store{};
    struct Database {
      std::function<void(const sqlite::DrainLimits& limits, bool seal, Completion done)> drain{};
      std::function<void(std::function<void()> done)> unseal{};
      std::function<std::uint64_t()> sequence{};  ///< of the stream, up to which all is stored
    };
    std::optional<Database> database{};
    std::function<void()> hold{};    ///< stops the app, but for its database: held() follows
    std::function<void()> resume{};  ///< starts it again: resumed() follows
    /// Stops all that is left, and releases the lease for that node to take first.
    std::function<void(const std::string& next)> release{};
    /// It is called off: this node leads on, unless the text says otherwise.
    std::function<void(const Error& why)> called_off{};
  };

  HandOver(Loop& loop, Options options, Surroundings surroundings);
  ~HandOver();
  HandOver(const HandOver&) = delete;
  HandOver& operator=(const HandOver&) = delete;

  void begin();
  void held();
  void resumed(const Failure& failure);
  /// From now on, as if it had been forced from the beginning.
  void force() { options_.force = true; }
  /// It does and says nothing any more. Before it is destroyed from within a callback of its own.
  void end();
  /// Calls it off, if the app was not stopped yet; tells whether that was so.
  bool call_off_now(const Error& why);
  /// Nobody was stopped for it yet.
  bool live() const { return stage_ < Stage::stopping; }

  Stage stage() const { return stage_; }
  const std::string& next() const { return next_; }

 private:
  struct Answer {
    std::string node{};
    Result<LeadState> state = Error(Errc::timeout, "it has not answered yet");
  };

  void ask_all(const LeadQuery& query, std::function<void()> then);
  std::optional<std::string> ready_one() const;
  std::string reasons() const;
  Error nobody_is_ready() const;
  void look();
  void drain();
  void drained(const Failure& failure, Duration took);
  void follow(Stage stage);
  void look_at_followers();
  void ask_store();
  void stop();
  void empty();
  void release();
  void go_on();
  void or_call_off(const Error& why);
  void call_off(const Error& why);
  void resume(const Error& why);

  Loop& loop_;
  Options options_;
  const Surroundings around_;
  Stage stage_ = Stage::looking;
  std::vector<Answer> answers_;  // of the last round
  std::string next_;
  int rounds_ = 0;              // of draining, while the app runs
  std::uint64_t sequence_ = 0;  // that the next leader is to have
  std::uint64_t moved_ = 0;     // how far its candidates are, taken together
  Time moved_at_{};
  std::optional<Error> why_;  // it was called off
  LoopSource timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// For people.
const char* to_text(HandOver::Stage stage);

}  // namespace cluster
