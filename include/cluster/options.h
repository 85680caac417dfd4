// Options of a platform and of an app. Plain structs for designated initialisers; checked all at
// once by Platform's constructor and add_app(), which throw Error{invalid_argument} with every
// fault and its path.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "cluster/backend.h"
#include "cluster/call.h"
#include "cluster/kv.h"
#include "cluster/sqlite.h"

namespace cluster {

using Labels = std::map<std::string, std::string>;

/// How connections to NATS are encrypted and who proves what. Used when `enabled`, or when a URL
/// begins with tls://.
struct Tls {
  bool enabled = false;
  std::string ca_file{};    ///< PEM; empty: the system's authorities
  std::string cert_file{};  ///< PEM, for mutual TLS, together with key_file
  std::string key_file{};
  std::string server_name{};       ///< expected in the server's certificate; empty: the URL's host
  bool skip_verification = false;  ///< accept any certificate; for tests only
};

/// A nats-server that the node starts and ends with itself.
struct EmbeddedNats {
  /// JetStream's files and the server's log; empty: `<node folder>/nats`
  std::string folder{};
  std::string host = "127.0.0.1";  ///< address that clients connect to
  int port = 4222;                 ///< 0: one that is free
  std::string server_name{};       ///< unique in its NATS cluster; empty: the node's name
  std::string cluster_name{};      ///< of the NATS cluster; empty: the platform's name
  /// Address that other servers connect to; used with `routes`
  std::string cluster_host = "0.0.0.0";
  int cluster_port = 6222;  ///< used with `routes`
  /// Servers of the cluster, each nats://host:port; empty: one server alone
  std::vector<std::string> routes{};
  /// JetStream syncs each write to disk before it acknowledges it
  bool sync_always = true;
  std::string binary{};  ///< nats-server to run; empty: the one in PATH
};

/// How to reach NATS. At most one of creds_file, nkey_seed_file, user and token.
struct Nats {
  std::vector<std::string> servers{};  ///< nats://host:port or tls://host:port; any of them will do
  std::string creds_file{};            ///< user JWT and seed, as nsc writes it
  std::string nkey_seed_file{};
  std::string user{};
  std::string password{};
  std::string token{};
  Tls tls{};
  /// Given: started before connecting; `servers` may then be empty.
  std::vector<EmbeddedNats> embedded{};  // none or one
  /// How long run() waits for NATS at start; 0: for ever
  std::chrono::milliseconds start_timeout{60'000};
  int replicas = 0;  ///< of our streams: 1 to 5; 0: 3 on a NATS cluster of three or more, else 1
};

/// Time limits; docs/protocols.md says what each is for. All nodes of a platform must have the
/// same.
struct Timing {
  std::chrono::milliseconds session_timeout{700};  ///< 200 ms to 60 s
  std::chrono::milliseconds lease_ttl{15'000};     ///< at least 10 × session_timeout
  std::chrono::milliseconds stop_margin{100};      ///< at most session_timeout / 4
  /// How much two clocks' rates may differ: 0.001 to 0.2
  double drift = 0.02;
  /// After it a hook's stop_token is stopped, and the node goes on without it
  std::chrono::milliseconds hook_timeout{30'000};
  /// After a failed promotion, doubling up to 16 times that
  std::chrono::milliseconds cooldown{5'000};
  /// Within it a node that was told to stop has stopped: what was committed to its databases is
  /// sent until shortly before, and what is left then is ended by force. From 1 s on
  std::chrono::milliseconds shutdown_timeout{30'000};
};

/// Limits of the stream that holds a platform's events; all its nodes should have the same. A
/// stream that is there is changed to them by the node that uses events first after its start.
struct EventsOptions {
  std::chrono::milliseconds max_age{std::chrono::hours(24 * 7)};  ///< older ones go; 0: none does
  /// Bytes of the stream; the oldest events go when it is full. 0: no limit
  std::int64_t max_bytes = std::int64_t{1} << 30;
  /// Bytes of an event with its headers; 0: what the server takes (its max_payload)
  std::int32_t max_message_size = 0;
  /// For how long two events with the same id are known to be one: 1 s to max_age
  std::chrono::milliseconds duplicate_window{120'000};
};

/// How long the platform's audit log is kept; all its nodes should have the same. A log that is
/// there is changed to it by each node that starts.
struct AuditOptions {
  std::chrono::milliseconds max_age{std::chrono::hours(24 * 30)};  ///< 1 min or more; 0: for ever
  /// 1 MiB or more; the oldest entries go when the log is full. 0: no limit
  std::int64_t max_bytes = std::int64_t{256} << 20;
};

struct PlatformOptions {
  std::string name{};      ///< `[a-z][a-z0-9-]{0,31}`; the same on all nodes
  std::string node{};      ///< `[A-Za-z0-9][A-Za-z0-9-]{0,62}`; empty: the host's short name
  std::string nats_url{};  ///< short for nats.servers; several are separated by commas
  Nats nats{};
  /// `zone` is known to the choice of voters; others are for placement and for people
  Labels labels{};
  /// What the node keeps on disk; empty: $STATE_DIRECTORY, or
  /// ~/.local/state/cpp-cluster/<name>/<node>
  std::string folder{};
  /// Where /health, /ready and /status are served; empty: nowhere; port 0: a free one
  std::string http{"127.0.0.1:8080"};
  Timing timing{};
  EventsOptions events{};
  CallerOptions calls{};  ///< that this node makes
  AuditOptions audit{};
  /// Carried in the node's record; empty: the machine's 1-minute load average. Asked every
  /// lease_ttl / 5, on a thread of its own, never twice at a time. What it throws is logged; until
  /// it has returned, and after it threw, the record has the last value.
  std::function<double()> load{};
  /// run() ends in order on SIGINT and SIGTERM, which it blocks on its thread for that. False: they
  /// are the program's, which calls stop().
  bool handle_signals = true;
  /// The guardian program; empty: the installed one, or one beside this program
  std::string guardian{};
};

/// One node at a time leads; the others stand by.
struct Singleton {};
/// Active on every node.
struct Spread {};
using Mode = std::variant<Singleton, Spread>;

struct AppOptions {
  std::string name{};  ///< `[a-z][a-z0-9-]{0,31}`, unique on the platform
  Mode mode{Singleton{}};
  Sqlite sqlite{};    ///< replicated; of singletons only. The primary's before the backend starts
  Backend backend{};  ///< started after promotion, before on_active; stopped after on_passive
  std::chrono::milliseconds hook_timeout{0};  ///< 0: the platform's
  KvOptions kv{};                             ///< of the app's bucket, see App::kv()
  HandlerOptions calls{};                     ///< to the app on this node, see App::handle()
};

}  // namespace cluster
