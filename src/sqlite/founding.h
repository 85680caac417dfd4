// Whether this node may begin the history of a database whose stream is empty, as long as it is:
// gathers what the rules (founding_rules.h) want to know, and asks them again when it changes. On
// the loop.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/loop.h"
#include "nats/jetstream.h"
#include "sqlite/founding_rules.h"

namespace cluster::sqlite {

/// How long nodes that hold a database are waited for: 10 s. Tests shorten it, and `cpp-cluster
/// dev`, which starts all nodes at once, with the variable CPP_CLUSTER_FOUNDING_WAIT.
Duration founding_wait();

class Founding {
 public:
  struct Options {
    std::string app{}, node{};
    std::string stream{};
    std::string members{};  ///< the stream of the platform's members: as old as the platform
    /// No node of another machine can reach the NATS server: nobody is waited for.
    bool alone = false;
    /// All other nodes that the platform has or had; empty: there are none.
    std::function<std::vector<FoundingNode>()> others{};
  };
  struct Events {
    /// Another verdict(), or another choice.
    std::function<void()> changed{};
    /// The stream as it is now, from time to time while this node may not found.
    std::function<void(const nats::StreamState&)> stream_seen{};
    std::function<void(const Error&)> trouble{};
  };

  Founding(Loop& loop, nats::JetStream& jetstream, Options options, Events events);
  ~Founding();
  Founding(const Founding&) = delete;
  Founding& operator=(const Founding&) = delete;

  /// The stream, as `stream` says, is empty, and this node holds `own`. Calls nothing back.
  void begin(HeldDatabase own, const nats::StreamState& stream);
  /// It is not empty any more, or is looked at anew.
  void end();
  /// What others say may have changed.
  void others_changed();

  /// Between begin() and end().
  const HeldDatabase& own() const noexcept { return own_; }
  const FoundingVerdict& verdict() const noexcept { return verdict_; }
  const std::optional<FounderChoice>& chosen() const noexcept { return chosen_; }
  bool may() const noexcept { return begun_ && verdict_.kind == FoundingVerdict::Kind::may; }

 private:
  void ask_age();
  void look();
  void seen(const nats::StreamState& stream);
  bool look_again();
  void arm();

  Loop& loop_;
  nats::JetStream& jetstream_;
  const Options options_;
  const Events events_;
  const Duration wait_ = founding_wait();
  const Time started_ = BootClock::now();
  Time platform_since_ = started_;  // or earlier
  bool age_asked_ = false;
  bool begun_ = false;
  std::uint64_t turn_ = 0;
  std::uint64_t history_ = 0;
  HeldDatabase own_;
  std::optional<FounderChoice> chosen_;
  FoundingVerdict verdict_;
  LoopSource timer_, poll_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cluster::sqlite
