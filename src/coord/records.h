// The records of sessions and leases as values. Their JSON is in records_json.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coord/held_database.h"

namespace cluster::coord {

using Revision = std::uint64_t;

/// What a node says of itself; no protocol looks at it, but for the zone.
struct NodeFacts {
  std::map<std::string, std::string> labels{};
  std::string host{};
  std::string boot{};    ///< the kernel's id of the machine's boot
  std::string folder{};  ///< id of the node's folder
  std::string version{};
  std::vector<std::string> apps{};
  double load = 0;
  std::string started{};                            ///< wall time, for people
  std::map<std::string, HeldDatabase> databases{};  ///< of its apps that have one
};

/// A session by name: of which node, which one.
struct SessionId {
  std::string node{};
  std::string session{};
  bool operator==(const SessionId&) const = default;
  auto operator<=>(const SessionId&) const = default;
  std::string text() const { return node + "/" + session; }
};

enum class SessionState { live, left, expired };

/// `<p>_members`/`<node>`.
struct SessionRecord {
  std::string node{};
  std::string session{};
  SessionState state = SessionState::live;
  std::vector<SessionId> voters{};
  std::shared_ptr<const NodeFacts> facts{};
  std::string ended_by{};  ///< who ended it and why

  bool live() const { return state == SessionState::live; }
};

/// `<p>_leases`/`<app>`.
struct LeaseRecord {
  std::string app{};
  std::uint64_t epoch = 0;
  bool held = false;  ///< or released
  std::string holder{};
  std::string session{};
  Revision session_rev = 0;
  std::string target{};  ///< of a release: who may take it first
  bool operator==(const LeaseRecord&) const = default;
};

enum class LockKind { lock, semaphore, barrier };

/// One that holds a lock or waits for it: a claim of a session.
struct LockParty {
  SessionId session{};
  Revision session_rev = 0;
  std::uint64_t claim = 0;    ///< unique within the session
  Revision token = 0;         ///< of a holder: the revision of acquisition; 0: of this very record
  bool watches = false;       ///< waits until a barrier is open, and never holds it
  std::int64_t asked_ms = 0;  ///< wall time since 1970, for people
  std::string note{};         ///< for people
  bool operator==(const LockParty&) const = default;
};

/// `<p>_locks`/`<app>.<name>`.
struct LockRecord {
  std::string key{};
  LockKind kind = LockKind::lock;
  int limit = 1;      ///< holders at a time
  bool open = false;  ///< of a barrier: nobody waits any more
  std::vector<LockParty> holders{};
  std::vector<LockParty> waiters{};  ///< in order of arrival
  bool operator==(const LockRecord&) const = default;
};

}  // namespace cluster::coord
