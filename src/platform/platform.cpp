// The life of a node: folder, NATS, guardian, session, apps; and the end of all that in order.
#include "cluster/platform.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <random>

#include <unistd.h>

#include "cluster/version.h"
#include "coord/driver.h"
#include "coord/guardian.h"
#include "coord/lock_sweeper.h"
#include "coord/node_folder.h"
#include "core/ids.h"
#include "core/log.h"
#include "core/names.h"
#include "core/open_files.h"
#include "core/process_scan.h"
#include "core/repeat_limit.h"
#include "nats/embedded_server.h"
#include "ops/http_endpoint.h"
#include "platform/app_core.h"
#include "platform/control.h"
#include "platform/node_metrics.h"
#include "platform/node_status.h"
#include "platform/tell.h"
#include "platform/validate.h"

namespace cluster {
namespace {

constexpr char kCoordinatorApp[] = "_coordinator";
constexpr Duration kStartRetry = std::chrono::milliseconds(250);
constexpr Duration kTellAgain = std::chrono::seconds(5);
constexpr Duration kLeaveLimit = std::chrono::seconds(5);
constexpr Duration kFolderPatience = std::chrono::seconds(30);
constexpr Duration kServerCheck = std::chrono::seconds(1);
constexpr Duration kServerCount = std::chrono::seconds(2);
constexpr std::size_t kServersPlaced = 3;
constexpr Duration kTroubleLasts = std::chrono::seconds(5);
constexpr Duration kPlacementPatience = std::chrono::seconds(10);
constexpr Duration kElectionPatience = std::chrono::seconds(20);  // an election takes up to 9
// Between the restarts of two servers: until the first one counts as a peer again.
constexpr Duration kRestartSpacing = std::chrono::seconds(8);
constexpr int kMostServerRestarts = 3;  // until there is a session

std::string wall_time() {
  std::time_t now = std::time(nullptr);
  char text[32];
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

double machine_load() {
  std::ifstream file("/proc/loadavg");
  double load = 0;
  file >> load;
  return load;
}

PlatformOptions completed(PlatformOptions options) {
  if (options.node.empty()) options.node = short_host_name();
  std::string rest = options.nats_url;
  while (!rest.empty()) {
    auto comma = rest.find(',');
    std::string url = rest.substr(0, comma);
    if (!url.empty()) options.nats.servers.push_back(url);
    rest = comma == std::string::npos ? std::string() : rest.substr(comma + 1);
  }
  options.nats_url.clear();
  return options;
}

// Wrong beyond what waiting could mend.
bool final_error(const Error& error) {
  switch (error.errc()) {
    case Errc::incompatible:
    case Errc::invalid_argument:
    case Errc::permission_denied:
    case Errc::node_already_present: return true;
    default: return false;
  }
}

}  // namespace

struct Platform::Core final : AppHost {
  explicit Core(PlatformOptions o)
      : options(completed(std::move(o))),
        members_journal_("member", {}, options.node, sink()),
        nodes_journal_("node", {}, options.node, sink()),
        hooks_journal_("hook", {}, options.node, sink()) {}
  AuditSink sink() {
    return [this](AuditEntry entry) { audit(std::move(entry)); };
  }

  // AppHost
  Loop& loop() override { return loop_; }
  StrandPool& strands() override { return strands_; }
  const std::string& platform_name() const override { return options.name; }
  const std::string& node_name() const override { return options.node; }
  const std::string& folder_id() const override { return marker_; }
  const Timing& timing() const override { return options.timing; }
  void group_began(pid_t group) override {
    if (guardian_) guardian_->memory().add_group(group);
  }
  void group_ended(pid_t group) override {
    if (guardian_) guardian_->memory().remove_group(group);
  }
  void set_candidate(const std::string& app, bool candidate, Time not_before) override {
    if (driver_) driver_->set_candidate(app, candidate, not_before);
  }
  bool holds(const std::string& app) const override {
    return driver_ && driver_->coordination().holds(app);
  }
  void release(const std::string& app, const std::string& target) override {
    driver_->release(app, target);
  }
  std::int64_t limit_ns() const noexcept override { return limit_ns_.load(); }
  nats::JetStream& jetstream() override { return *jetstream_; }
  const std::shared_ptr<nats::Exchange>& exchange() const noexcept override { return exchange_; }
  const std::shared_ptr<LockService>& locks() const noexcept override { return locks_; }
  const std::shared_ptr<EventBus>& events_bus() const noexcept override { return events_; }
  const std::shared_ptr<CallClient>& calls() const noexcept override { return calls_; }
  nats::Connection& connection() override { return *connection_; }
  const std::shared_ptr<AuditTrail>& audit_trail() const noexcept override { return trail_; }
  int stream_replicas() const override { return stream_replicas_; }
  void audit(AuditEntry entry) override {
    if (audit_) audit_->add(std::move(entry));
  }
  bool is_live(const std::string& node) const override {
    const auto* seen = driver_ ? driver_->coordination().view().find(node) : nullptr;
    return seen && seen->record.live();
  }
  std::size_t rank_among(const std::string& app) const override {
    const auto nodes = nodes_with(app);
    return static_cast<std::size_t>(
        std::count_if(nodes.begin(), nodes.end(),
                      [this](const std::string& node) { return node < options.node; }));
  }
  std::vector<std::string> nodes_with(const std::string& app) const override;
  void app_is_down(const std::string&) override { leave_when_all_are_down(); }
  Time stop_by() const override { return stop_by_; }
  bool alone() const override;
  std::vector<sqlite::FoundingNode> others_with(const std::string& app) const override;
  void held_changed() override {
    if (driver_) driver_->facts_changed();
  }

  void run();
  void tell_of_leaving(const std::string& node, const std::string& session,
                       const std::string& action, const std::string& by);
  HookThrew hook_threw();
  void live();  ///< run(), between its first and its last step
  void stop();
  void wait_until_over();
  void begin_stop();
  void watch_embedded();
  void mend_server();
  void count_servers();
  void restart_server(const std::string& why);
  bool server_restart_due(Duration patience);
  int server_turn();
  void mend_cluster(const Error& error);
  void begin_start_limit();
  std::string status_json();
  App::Core* find_app(const std::string& name);
  Error no_app(const std::string& app) const;
  NodeStatus status() const;
  HttpReply answer(const std::string& path);

  void start_nats();
  void try_to_start();
  void start_failed(const Error& error);
  void start_coordination(int replicas);
  coord::DriverEvents events();
  void blocked_by(const coord::SessionRecord& other);
  void session_began(const coord::SessionId& id, coord::Revision rev);
  void session_ended(const std::string& why);
  void coordinates(std::uint64_t epoch);
  void lease_changed(const std::string& app);
  void member_changed(const std::string& node);
  void leave_when_all_are_down();
  void stop_is_late();
  std::exception_ptr what_was_not_sent() const;
  void finish(std::exception_ptr failure);
  Member member_of(const std::string& node, const coord::SessionRecord& record,
                   coord::Revision rev) const;
  std::shared_ptr<const coord::NodeFacts> facts();
  coord::HeldDatabase held_by(const App::Core& app) const;
  void ask_for_load();
  ControlService::Answers control_answers();
  std::size_t most_answer_bytes() const;

  PlatformOptions options;
  std::vector<std::function<void(const Member&)>> join_hooks, leave_hooks;
  const Journal members_journal_, nodes_journal_, hooks_journal_;

  Loop loop_;
  // These outlive the apps: a backend that still runs then is ended by its app's destructor.
  std::unique_ptr<coord::NodeFolder> folder_;
  std::unique_ptr<coord::Guardian> guardian_;
  std::vector<std::unique_ptr<App>> apps_;
  std::map<std::string, App::Core*> cores_;
  StrandPool strands_;  // ends before the apps, whose hooks its threads run
  std::unique_ptr<Strand> strand_ = strands_.strand();
  std::unique_ptr<Strand> load_strand_ = strands_.strand();
  std::unique_ptr<Strand> servers_strand_ = strands_.strand();
  bool load_asked_ = false;
  std::optional<double> load_;  // what options.load has said last

  std::string marker_;
  std::string started_;
  Time started_at_{};
  std::unique_ptr<nats::EmbeddedServer> embedded_;
  const std::shared_ptr<nats::Exchange> exchange_ = std::make_shared<nats::Exchange>();
  const std::shared_ptr<LockService> locks_ =
      std::make_shared<LockService>(loop_, exchange_, options.name, sink());
  const std::shared_ptr<EventBus> events_ = std::make_shared<EventBus>(
      loop_, strands_, exchange_, EventBus::Options{options.name, options.events});
  const std::shared_ptr<CallClient> calls_ = std::make_shared<CallClient>(
      loop_, exchange_,
      CallClient::Options{options.name, options.node, options.calls,
                          [this](const std::string& app) { return nodes_with(app); }});
  const std::shared_ptr<AuditTrail> trail_ =
      std::make_shared<AuditTrail>(loop_, strands_, exchange_, options.name, options.audit);
  std::unique_ptr<nats::Connection> connection_;
  std::unique_ptr<nats::JetStream> jetstream_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<coord::Driver> driver_;
  std::unique_ptr<coord::LockSweeper> sweeper_;  // while this node coordinates the platform
  int stream_replicas_ = 1;
  SnapshotRequests snapshot_requests_;
  VerifyRequests verify_requests_;
  QuarantineRequests quarantine_requests_{loop_, strands_, options.node};
  std::unique_ptr<ControlService> control_;
  std::unique_ptr<ControlService> closed_control_;  // of the last session
  std::unique_ptr<HttpEndpoint> http_;
  std::vector<LoopSource> signals_;
  LoopSource start_timer_, start_limit_, leave_limit_, stop_limit_, server_timer_;
  Time stop_by_{};  // once it stops
  Time told_at_{};
  Time server_trouble_since_{};
  int server_restarts_ = 0;
  bool leaderless_ = false;  // was the last trouble
  std::optional<int> server_turn_;
  Time store_trouble_at_{};     // when JetStream did not take or give something last
  std::size_t servers_up_ = 0;  // of the NATS cluster that the own server is one of
  std::size_t most_servers_up_ = 0;
  Time servers_counted_at_{};
  bool counting_servers_ = false;
  std::string waiting_for_;
  std::string last_trouble_;
  RepeatLimit trouble_told_{kTellAgain};
  enum class Life { idle, starting, running, stopping, over } life_ = Life::idle;
  bool leaving_ = false;
  bool starting_step_ = false;
  std::exception_ptr failure_;
  std::map<std::string, Member> known_;  // live members that on_member_join has told of
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  std::atomic<std::int64_t> limit_ns_{0};
  std::atomic<bool> run_called_{false};
  std::atomic<bool> stop_asked_{false};
  mutable std::mutex mutex_;  // over what other threads read
  std::condition_variable run_ended_;
  std::thread::id runner_{};  // while run() runs
  std::vector<Member> members_;
  std::string http_address_;
};

// ---- start

void Platform::Core::run() {
  if (run_called_.exchange(true))
    throw Error(Errc::invalid_argument, "Platform::run() was called before: a platform runs once");
  {
    std::lock_guard lock(mutex_);
    runner_ = std::this_thread::get_id();
  }
  live();
  // Notified under the lock: as soon as it is free the destructor may go on.
  auto failure = failure_;
  {
    std::lock_guard lock(mutex_);
    runner_ = std::thread::id{};
    run_ended_.notify_all();
  }
  if (failure) std::rethrow_exception(failure);
}

void Platform::Core::live() {
  raise_open_files();
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  for (int signal : options.handle_signals ? std::vector{SIGINT, SIGTERM} : std::vector<int>{})
    signals_.push_back(loop_.on_signal(signal, [this, signal] {
      log::info("signal",
                {{"node", options.node}, {"signal", signal == SIGINT ? "SIGINT" : "SIGTERM"}});
      if (life_ == Life::stopping) {
        // Asked twice: no more courtesy.
        for (auto& [name, app] : cores_) app->kill_now();
        return finish(nullptr);
      }
      begin_stop();
    }));
  started_ = wall_time();
  started_at_ = BootClock::now();
  life_ = Life::starting;
  try {
    std::string path = options.folder.empty()
                           ? coord::default_node_folder(options.name, options.node)
                           : options.folder;
    folder_ = std::make_unique<coord::NodeFolder>(
        path, std::chrono::duration_cast<std::chrono::milliseconds>(kFolderPatience));
    marker_ = folder_->id();
    auto leftovers = end_marked({instance_mark(marker_)}, std::chrono::seconds(5));
    if (!leftovers.remaining.empty())
      throw Error(Errc::system,
                  "process " + std::to_string(leftovers.remaining.front().pid) + " (" +
                      leftovers.remaining.front().command +
                      "), left over from this node's last run, can't be ended: end it by hand");
    if (!options.http.empty()) {
      http_ = std::make_unique<HttpEndpoint>(options.http,
                                             [this](const std::string& p) { return answer(p); });
      std::lock_guard lock(mutex_);
      http_address_ = http_->address();
    }
    start_nats();
    for (const auto& process : leftovers.ended)
      nodes_journal_.warn("leftover_ended", {{"pid", process.pid}, {"command", process.command}});
    begin_start_limit();
    if (stop_asked_.load()) begin_stop();
    loop_.run();
  } catch (...) {
    failure_ = std::current_exception();
  }
  life_ = Life::over;
  // What runs comes first: nobody looks after it any more. The rest in reverse order, while the
  // loop's thread lives: children die with it. HTTP threads wait for the loop to answer them, so
  // the endpoint goes once it is known that nothing will.
  limit_ns_.store(0);
  if (guardian_) guardian_->set_limit(Time{}, options.timing.stop_margin);
  for (auto& [name, app] : cores_) app->kill_now();
  start_timer_.reset();
  start_limit_.reset();
  leave_limit_.reset();
  stop_limit_.reset();
  server_timer_.reset();
  if (http_) http_->stop();
  control_.reset();
  closed_control_.reset();
  locks_->close();
  events_->close();
  calls_->close();
  trail_->close();
  sweeper_.reset();
  driver_.reset();
  audit_.reset();
  exchange_->close();
  for (auto& [name, app] : cores_) app->over();
  jetstream_.reset();
  connection_.reset();
  embedded_.reset();
  signals_.clear();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Platform::Core::start_nats() {
  if (!options.nats.embedded.empty()) {
    EmbeddedNats embedded = options.nats.embedded.front();
    if (embedded.folder.empty()) embedded.folder = folder_->path() + "/nats";
    if (embedded.server_name.empty()) embedded.server_name = options.node;
    if (embedded.cluster_name.empty()) embedded.cluster_name = options.name;
    embedded_ = std::make_unique<nats::EmbeddedServer>(embedded);
    options.nats.servers.insert(options.nats.servers.begin(), embedded_->url());
    log::info("nats_server", {{"node", options.node},
                              {"url", embedded_->url()},
                              {"pid", embedded_->pid()},
                              {"sync_interval", embedded.sync_always ? "always" : "default"}});
    server_timer_ = loop_.every(kServerCheck, [this] { watch_embedded(); });
  }
  nats::ConnectOptions connect;
  connect.nats = options.nats;
  connect.name = "cpp-cluster " + options.name + "/" + options.node;
  connection_ = std::make_unique<nats::Connection>(loop_, connect, exchange_);
  jetstream_ = std::make_unique<nats::JetStream>(*connection_, std::chrono::seconds(2));
  audit_ = std::make_unique<AuditLog>(
      loop_, *jetstream_,
      AuditLog::Options{options.name, options.node, options.audit, trail_->room()});
  trail_->write_to(*audit_);
  connection_->on_state([this](nats::ConnectionState state, const std::string& why) {
    if (state == nats::ConnectionState::connected) {
      log::info("nats_connected", {{"node", options.node}, {"server", connection_->server().url}});
      if (!driver_) loop_.post([this] { try_to_start(); });
    } else if (life_ == Life::starting && !driver_) {
      start_failed(Error(Errc::unavailable, why));
    } else if (state == nats::ConnectionState::reconnecting) {
      log::warn("nats_disconnected", {{"node", options.node}, {"why", why}});
    }
  });
  connection_->on_error([this](const Error& error) {
    last_trouble_ = error.what();
    log::error("nats_error", {{"node", options.node}, {"why", error.what()}});
    if (life_ == Life::starting && error.errc() == Errc::permission_denied)
      finish(std::make_exception_ptr(error));
  });
}

// The node's own NATS server is a part of a cluster: its death is mended, not passed on.
void Platform::Core::watch_embedded() {
  std::string why;
  if (life_ == Life::starting) return;
  if (embedded_->running(&why)) return mend_server();
  restart_server(why);
}

void Platform::Core::restart_server(const std::string& why) {
  // A server that has just begun is given all of the time again.
  server_trouble_since_ = {};
  try {
    embedded_->start_again();
    nodes_journal_.error("nats_server_restarted",
                         {{"url", embedded_->url()}, {"pid", embedded_->pid()}, {"why", why}});
  } catch (const Error& error) {
    last_trouble_ = error.what();
    log::error("nats_server_failed", {{"node", options.node}, {"why", error.what()}});
  }
}

// Once the patience is over since this was asked first, and so often at most. The nodes take turns:
// two servers that are restarted at once would take the majority away, and the next one too early
// would hide what the first one has mended.
bool Platform::Core::server_restart_due(Duration patience) {
  const Time now = BootClock::now();
  if (server_trouble_since_ == Time{}) server_trouble_since_ = now;
  // Once more only after all others have had their turn.
  const auto turns =
      server_restarts_ == 0 ? server_turn() : static_cast<int>(embedded_->options().routes.size());
  if (now < server_trouble_since_ + patience + turns * kRestartSpacing) return false;
  if (server_restarts_ >= kMostServerRestarts) return false;
  ++server_restarts_;
  server_trouble_since_ = {};
  return true;
}

// The own server's place among the routes; by chance when they name it otherwise.
int Platform::Core::server_turn() {
  if (server_turn_) return *server_turn_;
  const auto& own = embedded_->options();
  const auto end = ":" + std::to_string(own.cluster_port);
  std::vector<int> at;
  for (std::size_t i = 0; i < own.routes.size(); ++i)
    for (const auto& host : {own.cluster_host, own.host, short_host_name()})
      if (own.routes[i].find(host + end) != std::string::npos) {
        at.push_back(static_cast<int>(i));
        break;
      }
  server_turn_ =
      at.size() == 1 ? at.front() : static_cast<int>(std::random_device{}() % own.routes.size());
  return *server_turn_;
}

// A server may hang and keep its connections. When the machine of another one is lost, no stream
// has a majority then (seen with nats-server 2.10.27). Only the node that has started the server
// can help. So it kills the server when a majority of servers takes connections, and JetStream has
// refused for long what this node needs for its session. It waits longer each time, since the
// servers of other nodes begin anew as well.
void Platform::Core::mend_server() {
  if (embedded_->options().routes.empty() || life_ != Life::running) return;
  if (limit_ns_.load() != 0) {
    server_trouble_since_ = {};
    server_restarts_ = 0;
    return;
  }
  count_servers();
  const bool majority = servers_up_ > embedded_->options().routes.size() / 2;
  if (!majority || BootClock::now() > store_trouble_at_ + kTroubleLasts) {
    server_trouble_since_ = {};
    return;
  }
  const Duration patience =
      std::max<Duration>(kElectionPatience, options.timing.lease_ttl) * (1 << server_restarts_);
  if (!server_restart_due(patience)) return;
  nodes_journal_.error("nats_server_killed", {{"url", embedded_->url()},
                                              {"pid", embedded_->pid()},
                                              {"why",
                                               "this node has no session: JetStream has taken "
                                               "nothing for long, although a majority of its "
                                               "servers is there; this server may hang"}});
  embedded_->kill();
}

// A new NATS cluster may leave a server out for good, or find no leader for minutes though its
// servers are connected (see start_local_servers() in nats/embedded_server.cpp). The restart of one
// of them mends it, and none of them says of which: so each node restarts its own. But only once so
// many have been there for a while that it should have worked: a server that begins anew while
// others come may make them hang.
void Platform::Core::mend_cluster(const Error& error) {
  if (!embedded_ || embedded_->options().routes.empty()) return;
  const std::string text = error.what();
  const bool leaderless = text.find("(10008)") != std::string::npos;
  const bool known = leaderless || text.find("(10005)") != std::string::npos;
  // Others, such as a request without an answer, come in between while servers are restarted.
  if (!known) return;
  count_servers();
  const std::size_t all = embedded_->options().routes.size();
  const std::size_t wanted = leaderless ? all / 2 + 1 : std::min(all, kServersPlaced);
  if (servers_up_ < wanted) return;
  // Who gave up now would take its server away from a cluster that is being mended. It is mended
  // some times at most.
  if (start_limit_ && server_restarts_ < kMostServerRestarts) begin_start_limit();
  // With a leader it gets on: that one needs a while until it knows its peers.
  if (std::exchange(leaderless_, leaderless) != leaderless) server_trouble_since_ = {};
  if (!server_restart_due(leaderless ? kElectionPatience : kPlacementPatience)) return;
  restart_server(leaderless
                     ? "a majority of the NATS cluster's servers is there, and it has no leader"
                     : "the NATS cluster places no replicas; it may have left this server out");
}

// Begins again when more servers have come, and while the cluster that the own one belongs to is
// mended.
void Platform::Core::begin_start_limit() {
  if (options.nats.start_timeout.count() == 0) return;
  start_limit_ = loop_.after(options.nats.start_timeout, [this] {
    finish(std::make_exception_ptr(Error(
        Errc::unavailable, "node \"" + options.node + "\" could not join platform \"" +
                               options.name + "\" within nats.start_timeout (" +
                               std::to_string(options.nats.start_timeout.count() / 1000) +
                               " s): " + (waiting_for_.empty() ? "no answer" : waiting_for_))));
  });
}

void Platform::Core::count_servers() {
  if (counting_servers_ || BootClock::now() < servers_counted_at_ + kServerCount) return;
  counting_servers_ =
      servers_strand_->post([this, alive = alive_, routes = embedded_->options().routes] {
        loop_.post([this, alive, up = nats::servers_up(routes)] {
          if (!*alive) return;
          counting_servers_ = false;
          servers_counted_at_ = BootClock::now();
          // Patience begins anew: it may be all right with those that have come.
          if (std::exchange(servers_up_, up) != up) server_trouble_since_ = {};
          if (up > most_servers_up_) {
            most_servers_up_ = up;
            if (start_limit_) begin_start_limit();
          }
        });
      });
}

void Platform::Core::start_failed(const Error& error) {
  waiting_for_ = error.what();
  if (life_ != Life::starting) return;
  if (final_error(error)) return finish(std::make_exception_ptr(error));
  mend_cluster(error);
  std::string why_dead;
  if (embedded_ && !embedded_->running(&why_dead))
    return finish(std::make_exception_ptr(
        Error(Errc::backend_failed, "the embedded nats-server has ended: " + why_dead)));
  Time now = BootClock::now();
  if (told_at_ == Time{} || now >= told_at_ + kTellAgain) {
    told_at_ = now;
    log::warn("waiting_for_nats", {{"node", options.node}, {"why", waiting_for_}});
  }
}

void Platform::Core::try_to_start() {
  if (life_ != Life::starting || driver_ || starting_step_ ||
      connection_->state() != nats::ConnectionState::connected)
    return;
  starting_step_ = true;
  nats::check_server(*jetstream_, [this](Failure failure) {
    starting_step_ = false;
    if (life_ != Life::starting) return;
    if (failure) {
      start_failed(*failure);
      start_timer_ = loop_.after(kStartRetry, [this] { try_to_start(); });
      return;
    }
    // On a NATS cluster three replicas: an acknowledged record must survive the loss of a server.
    int replicas = options.nats.replicas;
    if (replicas == 0) replicas = connection_->server().cluster.empty() ? 1 : 3;
    start_coordination(replicas);
  });
}

// The user's callback may take its time, and must not take the loop's. What it says is in the next
// record.
void Platform::Core::ask_for_load() {
  if (load_asked_) return;
  auto work = [this, load = options.load] {
    std::optional<double> value;
    std::string failure = "not a std::exception";
    try {
      value = load();
    } catch (const std::exception& e) {
      failure = e.what();
    } catch (...) {
    }
    loop_.post([this, alive = alive_, value, failure] {
      if (!*alive) return;
      load_asked_ = false;
      if (value)
        load_ = value;
      else if (trouble_told_.tell("load " + failure, BootClock::now()))
        log::error("load_threw", {{"node", options.node}, {"why", failure}});
    });
  };
  load_asked_ = load_strand_->post(work);
}

std::shared_ptr<const coord::NodeFacts> Platform::Core::facts() {
  auto facts = std::make_shared<coord::NodeFacts>();
  facts->labels = options.labels;
  facts->host = short_host_name();
  facts->boot = boot_id();
  facts->folder = marker_;
  facts->version = CLUSTER_VERSION;
  for (const auto& [name, app] : cores_) facts->apps.push_back(name);
  if (options.load) ask_for_load();
  facts->load = options.load && load_ ? *load_ : machine_load();
  facts->started = started_;
  for (const auto& [name, app] : cores_)
    if (!app->options.sqlite.path.empty()) facts->databases[name] = held_by(*app);
  return facts;
}

// Before it was looked at, what this node's last process has said may still be so.
coord::HeldDatabase Platform::Core::held_by(const App::Core& app) const {
  coord::HeldDatabase held = app.held_database();
  if (held.what != coord::HeldDatabase::What::unknown || !driver_) return held;
  const auto* seen = driver_->coordination().view().find(options.node);
  if (!seen || !seen->record.facts) return held;
  const auto& said = seen->record.facts->databases;
  const auto last = said.find(app.options.name);
  if (last == said.end()) return held;
  held = last->second;
  held.stream = 0;
  return held;
}

// Whoever else is to be a node then is on this machine, and starts with it.
bool Platform::Core::alone() const {
  if (!embedded_) return false;
  const auto& own = embedded_->options();
  return own.routes.empty() && (own.host == "127.0.0.1" || own.host == "localhost");
}

std::vector<sqlite::FoundingNode> Platform::Core::others_with(const std::string& app) const {
  std::vector<sqlite::FoundingNode> others;
  if (!driver_) return others;
  for (const auto& [node, seen] : driver_->coordination().view().all()) {
    if (node == options.node) continue;
    sqlite::FoundingNode other{.node = node, .live = seen.record.live()};
    if (const auto& facts = seen.record.facts)
      if (const auto held = facts->databases.find(app); held != facts->databases.end())
        other.held = held->second;
    others.push_back(std::move(other));
  }
  return others;
}

void Platform::Core::start_coordination(int replicas) {
  coord::Driver::Options driver;
  driver.platform = options.name;
  driver.replicas = stream_replicas_ = replicas;
  audit_->open(replicas);
  auto& coordination = driver.coordination;
  auto& session = coordination.session;
  session.node = options.node;
  session.timing.session_timeout = options.timing.session_timeout;
  session.timing.lease_ttl = options.timing.lease_ttl;
  session.timing.stop_margin = options.timing.stop_margin;
  session.timing.drift = options.timing.drift;
  session.boot = boot_id();
  session.folder = marker_;
  session.new_id = [] { return random_id(); };
  session.facts = [this] { return facts(); };
  for (const auto& [name, app] : cores_)
    if (app->singleton()) coordination.apps.push_back(name);
  coordination.apps.push_back(kCoordinatorApp);
  coordination.random = [random = std::minstd_rand(std::random_device{}())]() mutable {
    return std::uniform_real_distribution<>()(random);
  };

  if (options.load) ask_for_load();  // so that the first record has it already, if it is quick

  coord::Guardian::Options guardian;
  guardian.program = options.guardian;
  guardian.platform = options.name;
  guardian.node = options.node;
  guardian.marker = marker_;
  guardian.nats = options.nats;
  guardian.lock_fd = folder_->lock_fd();
  guardian.give_up = 2 * options.timing.lease_ttl;
  if (!guardian_) {
    guardian_ = std::make_unique<coord::Guardian>(loop_, guardian);
    guardian_->start();
  }

  driver_ = std::make_unique<coord::Driver>(loop_, *jetstream_, driver, events());
  driver_->prepare([this](Failure failure) {
    if (life_ != Life::starting) return;
    if (failure) {
      start_failed(*failure);
      start_timer_ = loop_.after(kStartRetry, [this] {
        locks_->use(nullptr);
        driver_.reset();
        try_to_start();
      });
      return;
    }
    waiting_for_ =
        "its first session: JetStream does not store the node's record, or another session stands "
        "under its name";
    driver_->start();
    driver_->set_candidate(kCoordinatorApp, true);
    locks_->use(driver_.get());
  });
}

coord::DriverEvents Platform::Core::events() {
  coord::DriverEvents events;
  events.session_began = [this](const coord::SessionId& id, coord::Revision rev) {
    session_began(id, rev);
  };
  events.session_ended = [this](const std::string& why) { session_ended(why); };
  events.left = [this] {
    if (guardian_) guardian_->memory().state().left.store(true);
    finish(nullptr);
  };
  events.acquired = [this](const std::string& app, std::uint64_t epoch) {
    if (auto* core = find_app(app))
      core->acquired(epoch);
    else
      coordinates(epoch);
    lease_changed(app);
  };
  events.released = [this](const std::string& app) {
    if (auto* core = find_app(app)) core->lease_gone();
    if (app == kCoordinatorApp) sweeper_.reset();
    lease_changed(app);
  };
  events.lock_news = [this](const coord::LockNews& news) { locks_->news(news); };
  events.lease_changed = [this](const std::string& app) { lease_changed(app); };
  events.member_changed = [this](const std::string& node) { member_changed(node); };
  events.limit_changed = [this](Time limit) {
    limit_ns_.store(limit.time_since_epoch().count());
    locks_->set_limit(limit);
    if (guardian_) guardian_->set_limit(limit, options.timing.stop_margin);
  };
  events.blocked = [this](const coord::SessionRecord& other) { blocked_by(other); };
  events.trouble = [this](const Error& error) {
    last_trouble_ = error.what();
    if (error.errc() == Errc::unavailable || error.errc() == Errc::timeout)
      store_trouble_at_ = BootClock::now();
    if (life_ == Life::starting && final_error(error))
      return finish(std::make_exception_ptr(error));
    if (error.errc() == Errc::permission_denied) locks_->refused(error);
    // Writes are repeated several times a second.
    if (const auto kept_back = trouble_told_.tell(error.what(), BootClock::now()))
      log::warn("nats_trouble",
                {{"node", options.node}, {"why", error.what()}, {"repeated", *kept_back}});
  };
  return events;
}

void Platform::Core::coordinates(std::uint64_t epoch) {
  nodes_journal_.info("coordinator", {{"epoch", epoch}});
  coord::LockSweeper::Options sweeper;
  sweeper.platform = options.name;
  sweeper_ = std::make_unique<coord::LockSweeper>(*jetstream_, std::move(sweeper));
}

// Another session stands under this node's name: is somebody there?
void Platform::Core::blocked_by(const coord::SessionRecord& other) {
  nodes_journal_.warn("name_in_use", {{"session", other.session},
                                      {"host", other.facts ? other.facts->host : std::string()},
                                      {"do", "waiting until that session has ended"}});
  ask_for_node(
      *connection_, options.name, options.node, [this, alive = alive_](Result<std::string> who) {
        if (!*alive || !who || life_ == Life::stopping || life_ == Life::over) return;
        auto failure = std::make_exception_ptr(Error(
            Errc::node_already_present, "node \"" + options.node + "\" of platform \"" +
                                            options.name + "\" runs already: " + who.value() +
                                            "; stop that one, or give this node another name"));
        if (life_ == Life::starting) return finish(failure);
        // Hooks of a node that has worked before are still to be run in order.
        failure_ = failure;
        begin_stop();
      });
}

// ---- the session's life

void Platform::Core::session_began(const coord::SessionId& id, coord::Revision rev) {
  start_limit_.reset();
  waiting_for_.clear();
  log::info("session_began", {{"node", options.node}, {"session", id.session}, {"rev", rev}});
  members_journal_.enter(
      log::Level::info, "joined",
      std::array{log::Field{"member", options.node}, log::Field{"session", id.session},
                 log::Field{"version", CLUSTER_VERSION}});
  if (guardian_) guardian_->memory().set_session(id.session);
  if (life_ == Life::starting) life_ = Life::running;
  events_->open(*jetstream_, stream_replicas_);
  trail_->open(*jetstream_, stream_replicas_);
  if (!control_)
    control_ = std::make_unique<ControlService>(*connection_, options.name, options.node,
                                                control_answers());
  for (auto& [name, app] : cores_) app->session_began();
}

void Platform::Core::session_ended(const std::string& why) {
  if (!leaving_) members_journal_.error("session_ended", {{"why", why}});
  // Another node may have this one's name from now on. Who has asked this one still gets his
  // answer.
  if (control_) {
    control_->close();
    closed_control_ = std::move(control_);
  }
  sweeper_.reset();
  for (auto& [name, app] : cores_) app->session_ended(why);
}

void Platform::Core::lease_changed(const std::string& app) {
  auto* core = find_app(app);
  if (!core || !core->singleton() || !driver_) return;
  const auto& lease = driver_->coordination().lease(app);
  auto node = driver_->coordination().leader(app);
  std::optional<Leader> leader;
  if (node) leader = Leader{*node, lease.epoch()};
  core->leader_seen(leader, lease.epoch());
  if (lease.record() && !lease.record()->held && lease.record()->target == options.node)
    core->invited();
}

Member Platform::Core::member_of(const std::string& node, const coord::SessionRecord& record,
                                 coord::Revision rev) const {
  Member member;
  member.node = node;
  member.session = record.session;
  member.session_rev = rev;
  member.state = record.state == coord::SessionState::live   ? MemberState::live
                 : record.state == coord::SessionState::left ? MemberState::left
                                                             : MemberState::expired;
  member.ended_by = record.ended_by;
  if (record.facts) {
    member.labels = record.facts->labels;
    member.host = record.facts->host;
    member.version = record.facts->version;
    member.apps = record.facts->apps;
    member.load = record.facts->load;
    member.started = record.facts->started;
  }
  return member;
}

void Platform::Core::member_changed(const std::string& node) {
  const auto* seen = driver_->coordination().view().find(node);
  if (!seen) return;
  auto known = known_.find(node);
  const auto& record = seen->record;
  bool same = known != known_.end() && known->second.session == record.session;
  auto tell_all = [this](const Member& member, bool joined) {
    for (auto& [name, app] : cores_)
      if (std::find(member.apps.begin(), member.apps.end(), name) != member.apps.end())
        joined ? app->member_joined(member) : app->member_left(member);
    if (joined)
      tell(*strand_, "on_member_join", {}, join_hooks, member, hook_threw());
    else
      tell(*strand_, "on_member_leave", {}, leave_hooks, member, hook_threw());
  };
  bool life_changed = false;
  if (known != known_.end() && (!record.live() || !same)) {
    Member gone = known->second;
    gone.state = record.live() ? MemberState::left : member_of(node, record, 0).state;
    gone.ended_by = record.ended_by;
    known_.erase(known);
    log::info("member_left", {{"node", options.node},
                              {"member", node},
                              {"session", gone.session},
                              {"by", gone.ended_by}});
    tell_of_leaving(node, gone.session, gone.state == MemberState::expired ? "expired" : "left",
                    gone.ended_by);
    tell_all(gone, false);
    life_changed = true;
    same = false;
  }
  if (record.live()) {
    // The revision that began the session is that at which it was first seen, or earlier; it is
    // what a reader may rely on.
    Member member = member_of(node, record, same ? known_[node].session_rev : seen->rev);
    bool fresh = !same;
    known_[node] = member;
    if (fresh) {
      log::info("member_joined",
                {{"node", options.node}, {"member", node}, {"session", member.session}});
      tell_all(member, true);
      life_changed = true;
    }
  }
  {
    std::lock_guard lock(mutex_);
    members_.clear();
    for (const auto& [name, member] : known_) members_.push_back(member);
  }
  if (life_changed)
    for (auto& [name, app] : cores_) lease_changed(name);  // a leader's session may have ended
  for (auto& [name, app] : cores_) app->records_changed();
}

// All nodes see it, and one entry tells of it: JetStream keeps the first of an id. Nodes without a
// session were cut off, and may see it when the others have told of it long ago.
void Platform::Core::tell_of_leaving(const std::string& node, const std::string& session,
                                     const std::string& action, const std::string& by) {
  if (!audit_ || limit_ns_.load() < BootClock::now().time_since_epoch().count()) return;
  audit_->add({.category = "member",
               .action = action,
               .level = action == "left" ? "info" : "warn",
               .fields = {{"member", node}, {"session", session}, {"by", by}}},
              "member/" + node + "/" + session + "/ended");
}

HookThrew Platform::Core::hook_threw() {
  return [this, alive = alive_](const char* hook, const std::string& why) {
    loop_.post([this, alive, hook, why] {
      if (*alive)
        hooks_journal_.enter(log::Level::error, "hook_threw",
                             std::array{log::Field{"hook", hook}, log::Field{"why", why}});
    });
  };
}

// ---- the end

void Platform::Core::wait_until_over() {
  std::unique_lock lock(mutex_);
  CLUSTER_CHECK(runner_ != std::this_thread::get_id());
  run_ended_.wait(lock, [this] { return runner_ == std::thread::id{}; });
}

void Platform::Core::stop() {
  stop_asked_.store(true);
  loop_.post([this] { begin_stop(); });
}

void Platform::Core::begin_stop() {
  if (life_ == Life::stopping || life_ == Life::over || life_ == Life::idle) return;
  log::info("stopping", {{"node", options.node}});
  life_ = Life::stopping;
  stop_by_ = BootClock::now() + options.timing.shutdown_timeout;
  stop_limit_ = loop_.at(stop_by_, [this] { stop_is_late(); });
  start_timer_.reset();
  start_limit_.reset();
  if (driver_) driver_->set_candidate(kCoordinatorApp, false);
  for (auto& [name, app] : cores_) app->stop();
  leave_when_all_are_down();
}

void Platform::Core::leave_when_all_are_down() {
  if (life_ != Life::stopping || leaving_) return;
  for (auto& [name, app] : cores_)
    if (!app->down()) return;
  leaving_ = true;
  if (!driver_) return finish(nullptr);
  if (driver_->coordination().holds(kCoordinatorApp)) driver_->release(kCoordinatorApp);
  leave_limit_ = loop_.after(kLeaveLimit, [this] {
    log::warn("leave_not_settled",
              {{"node", options.node},
               {"means", "the guardian goes on with it, or the others end the session"}});
    finish(nullptr);
  });
  // With the words that are in its record then (coord/session_owner.cpp).
  tell_of_leaving(options.node, driver_->coordination().session().id().session, "left",
                  options.node + ": left");
  if (audit_) audit_->flush();
  driver_->leave();
}

// What is still there ends by force, as with a second signal.
void Platform::Core::stop_is_late() {
  std::string late;
  for (auto& [name, app] : cores_) {
    if (app->down()) continue;
    late += (late.empty() ? "" : "; ") + name + ": " + app->why_up();
    app->kill_now();
  }
  if (late.empty()) {
    // Where all nodes stop at once the last one's NATS servers are gone before it.
    log::warn("leave_not_settled",
              {{"node", options.node},
               {"means", "the guardian goes on with it, or the others end the session"}});
    return finish(nullptr);
  }
  const std::string why = "apps that were not down: " + late;
  log::error("stop_not_complete", {{"node", options.node}, {"why", why}});
  finish(std::make_exception_ptr(
      Error(Errc::timeout, "node \"" + options.node + "\" has not stopped in order within " +
                               std::to_string(options.timing.shutdown_timeout.count()) +
                               " ms (timing.shutdown_timeout), and has ended by force: " + why)));
}

std::exception_ptr Platform::Core::what_was_not_sent() const {
  std::string text;
  for (const auto& [name, app] : cores_) {
    const auto left = app->unsent_at_stop();
    if (left.transactions() == 0) continue;
    log::error("stopped_not_replicated", {{"app", name},
                                          {"node", options.node},
                                          {"epoch", left.epoch},
                                          {"first", left.first},
                                          {"last", left.last},
                                          {"bytes", left.bytes},
                                          {"why", left.why}});
    text += (text.empty() ? "" : "; ") + std::string("app \"") + name + "\": " + to_text(left) +
            (left.why.empty() ? "" : ": " + left.why);
  }
  if (text.empty()) return nullptr;
  return std::make_exception_ptr(Error(
      Errc::not_replicated,
      "node \"" + options.node +
          "\" has stopped, and JetStream does not have all that was "
          "committed here. When this node leads next and nobody has in between, it is sent; else "
          "it is quarantined. " +
          text));
}

void Platform::Core::finish(std::exception_ptr failure) {
  if (life_ == Life::over) return;
  if (life_ == Life::stopping)
    if (auto not_sent = what_was_not_sent(); not_sent && !failure_) failure_ = not_sent;
  if (failure && !failure_) failure_ = failure;
  life_ = Life::over;
  loop_.stop();
}

// ---- what it tells

Error Platform::Core::no_app(const std::string& app) const {
  return {Errc::app_not_found, "node \"" + options.node + "\" has no app \"" + app + "\""};
}

App::Core* Platform::Core::find_app(const std::string& name) {
  auto it = cores_.find(name);
  return it == cores_.end() ? nullptr : it->second;
}

std::vector<std::string> Platform::Core::nodes_with(const std::string& app) const {
  std::vector<std::string> nodes;
  const std::lock_guard lock(mutex_);
  for (const auto& member : members_)
    if (std::find(member.apps.begin(), member.apps.end(), app) != member.apps.end())
      nodes.push_back(member.node);
  return nodes;
}

NodeStatus Platform::Core::status() const {
  NodeStatus status;
  status.platform = options.name;
  status.node = options.node;
  status.state = life_ == Life::starting                           ? "starting"
                 : life_ == Life::running && limit_ns_.load() == 0 ? "waiting"
                 : life_ == Life::running                          ? "running"
                                                                   : "stopping";
  status.waiting_for = waiting_for_;
  status.trouble = last_trouble_;
  Time now = BootClock::now();
  status.uptime_s = std::chrono::duration_cast<std::chrono::seconds>(now - started_at_).count();
  if (driver_) {
    const auto& coordination = driver_->coordination();
    const auto& session = coordination.session();
    status.session = session.id().session;
    status.session_rev = session.session_rev();
    status.in_force = session.in_force(now);
    for (const auto& voter : session.voters()) status.voters.push_back(voter.text());
    if (session.live())
      status.left_ms =
          std::chrono::duration_cast<std::chrono::milliseconds>(session.limit() - now).count();
    status.coordinator = coordination.leader(kCoordinatorApp);
    for (const auto& [node, seen] : coordination.view().all()) {
      auto known = known_.find(node);
      status.members.push_back(
          member_of(node, seen.record, known == known_.end() ? 0 : known->second.session_rev));
    }
  }
  if (connection_) {
    auto server = connection_->server();
    status.nats_url = server.url;
    status.nats_server = server.server_name;
    status.nats_version = server.version;
    status.nats_connected = connection_->state() == nats::ConnectionState::connected;
  }
  status.nats_sync =
      embedded_ ? (embedded_->options().sync_always ? "always" : "default") : "unknown";
  if (audit_) status.audit = audit_->status();
  status.calls = calls_->counts();
  if (guardian_) status.guardian_pid = guardian_->pid();
  for (const auto& [name, app] : cores_) {
    AppStatus one;
    one.name = name;
    one.singleton = app->singleton();
    one.epoch = app->newest_epoch.load();
    if (driver_ && app->singleton())
      if (const auto& record = driver_->coordination().lease(name).record())
        one.target = record->target;
    auto seen = app->seen();
    one.active = seen.role == Role::active;
    one.phase = seen.phase;
    one.leader = seen.leader ? std::optional(seen.leader->node) : std::nullopt;
    one.last_error = seen.last_error;
    one.steps = std::move(seen.steps);
    one.calls = std::move(seen.calls);
    one.backend = seen.backend;
    one.database = seen.database;
    status.apps.push_back(std::move(one));
  }
  return status;
}

std::string Platform::Core::status_json() {
  auto answer = std::make_shared<std::promise<std::string>>();
  auto future = answer->get_future();
  loop_.post([this, alive = alive_, answer] {
    if (*alive) answer->set_value(to_json(status()));
  });
  if (future.wait_for(std::chrono::seconds(1)) != std::future_status::ready)
    throw Error(Errc::timeout, "status of node \"" + options.node +
                                   "\": the node's loop did not answer within a second");
  return future.get();
}

HttpReply Platform::Core::answer(const std::string& path) {
  auto answer = std::make_shared<std::promise<NodeStatus>>();
  auto future = answer->get_future();
  loop_.post([this, alive = alive_, answer] {
    if (*alive) answer->set_value(status());
  });
  if (future.wait_for(std::chrono::seconds(1)) != std::future_status::ready)
    return {503, "application/json",
            R"({"status":"critical","why":"the node's loop did not answer within a second"})"
            "\n"};
  NodeStatus status = future.get();
  if (path == "/metrics") return {200, kMetricsType, to_metrics(status)};
  if (path == "/status") return {200, "application/json", to_json(status) + "\n"};
  auto health = path == "/ready" ? ready_of(status) : health_of(status);
  return {health.ok ? 200 : 503, "application/json", health.json + "\n"};
}

// Headers take some of a message.
std::size_t Platform::Core::most_answer_bytes() const {
  constexpr std::int64_t kHeaders = 4096;
  return static_cast<std::size_t>(std::max(connection_->server().max_payload, 2 * kHeaders) -
                                  kHeaders);
}

ControlService::Answers Platform::Core::control_answers() {
  ControlService::Answers answers;
  answers.status = [this](const std::string& after, std::size_t most) {
    return to_json(status(), after, most);
  };
  answers.session = [this] {
    return driver_ ? driver_->coordination().session().id().session : std::string();
  };
  answers.started = started_;
  answers.lead = [this](const LeadQuery& query, Callback<LeadState> done) {
    auto* core = find_app(query.app);
    if (!core) return done(no_app(query.app));
    core->lead_state(query, std::move(done));
  };
  answers.step_down = [this](const std::string& app, const StepDown& how,
                             Callback<SteppedDown> done) {
    auto* core = find_app(app);
    if (!core) return done(no_app(app));
    core->step_down(how, std::move(done));
  };
  const auto database_of = [this](const std::string& app) -> Result<sqlite::ReplicatedDatabase*> {
    auto* core = find_app(app);
    if (!core) return no_app(app);
    if (core->options.sqlite.path.empty())
      return Error(Errc::invalid_argument, "app \"" + app + "\" has no database");
    return core->replicated();
  };
  answers.snapshot = [this, database_of](const std::string& app,
                                         const std::string& id) -> Result<SnapshotAnswer> {
    const auto database = database_of(app);
    if (!database) return database.error();
    return snapshot_requests_.ask(id, database.value());
  };
  answers.verify = [this, database_of](const std::string& app, const std::string& id,
                                       std::uint64_t at) -> Result<VerifyRequests::Answer> {
    const auto database = database_of(app);
    if (!database) return database.error();
    return verify_requests_.ask(id, at, database.value());
  };
  answers.scrub = [database_of](const std::string& app) -> Failure {
    const auto database = database_of(app);
    if (!database) return database.error();
    if (database.value() == nullptr)
      return Error(Errc::unavailable,
                   "scrub: this node has no database of the app before it has a session");
    database.value()->scrub();
    return std::nullopt;
  };
  answers.peer = [this, database_of](const std::string& app, PeerRequest request,
                                     const Callback<std::string>& done) {
    const auto database = database_of(app);
    if (!database) return done(database.error());
    if (database.value() == nullptr)
      return done(Error(Errc::unavailable, "peer: this node has no database of the app yet"));
    if (request.op == PeerRequest::Op::state)
      return done(text_of(peer_state_of(database.value()->status())));
    request.page.size =
        static_cast<std::uint32_t>(std::min<std::size_t>(request.page.size, most_answer_bytes()));
    database.value()->read_page(request.page, done);
  };
  answers.quarantine = [this, database_of](QuarantineRequest request, Callback<std::string> done) {
    const std::string app = request.app;
    const auto database = database_of(app);
    if (!database) return done(database.error());
    const Sqlite& sqlite = find_app(app)->options.sqlite;
    std::vector<std::string> paths{sqlite.path};
    if (!sqlite.replica.empty()) paths.push_back(sqlite.replica);
    const bool removes = request.op == QuarantineRequest::Op::remove;
    quarantine_requests_.ask(
        std::move(request), std::move(paths), most_answer_bytes(),
        [this, app, removes, done = std::move(done)](Result<std::string> answer) {
          auto* core = find_app(app);
          if (removes && core && core->replicated()) core->replicated()->look_at_quarantine();
          done(std::move(answer));
        });
  };
  return answers;
}

// ---- the public face

Platform::Platform(PlatformOptions options) {
  auto core = std::make_unique<Core>(std::move(options));
  auto faults = faults_of(core->options);
  if (!faults.empty()) throw Error(Errc::invalid_argument, faults_text(faults));
  core_ = std::move(core);
}

Platform::~Platform() {
  core_->stop();
  core_->wait_until_over();
  // It may never have run.
  core_->events_->close();
  core_->calls_->close();
  core_->trail_->close();
  *core_->alive_ = false;
}

App& Platform::add_app(AppOptions options) {
  if (core_->run_called_.load())
    throw Error(Errc::invalid_argument,
                "add_app(\"" + options.name + "\") after run(): add apps before");
  auto faults = faults_of(options);
  if (core_->cores_.contains(options.name))
    faults.push_back("apps." + options.name + ".name: an app of that name was added before");
  if (!faults.empty()) throw Error(Errc::invalid_argument, faults_text(faults));
  auto core = std::make_unique<App::Core>(*core_, options);
  core_->cores_[options.name] = core.get();
  core_->apps_.push_back(std::unique_ptr<App>(new App(std::move(core))));
  return *core_->apps_.back();
}

CallReply Platform::call(const std::string& app, const std::string& method, std::string payload,
                         CallOptions options) {
  return core_->calls_->call("_", app, method, std::move(payload), std::move(options));
}
std::vector<CallAnswer> Platform::call_all(const std::string& app, const std::string& method,
                                           std::string payload, const CallOptions& options) {
  return core_->calls_->call_all("_", app, method, std::move(payload), options);
}
void Platform::use(CallerMiddleware middleware) {
  if (core_->run_called_.load())
    throw Error(Errc::invalid_argument, "use() after run(): add middleware before");
  core_->calls_->use(std::move(middleware));
}
Events Platform::events() { return {core_->events_, "_"}; }
Audit Platform::audit() { return {core_->trail_, "_"}; }
Lock Platform::lock(const std::string& name) { return {core_->locks_, lock_key("_", name), name}; }
Lock Platform::lock_of(const std::string& app, const std::string& name) {
  if (const auto why = app_name_fault(app); !why.empty())
    throw Error(Errc::invalid_argument, "lock of app \"" + app + "\": " + why);
  return {core_->locks_, lock_key(app, name), name};
}
Semaphore Platform::semaphore(const std::string& name, int limit) {
  return {core_->locks_, lock_key("_", name), name, checked_limit(name, limit)};
}
Barrier Platform::barrier(const std::string& name) {
  return {core_->locks_, lock_key("_", name), name};
}

void Platform::run() { core_->run(); }
void Platform::stop() { core_->stop(); }
void Platform::on_member_join(std::function<void(const Member&)> fn) {
  core_->join_hooks.push_back(std::move(fn));
}
void Platform::on_member_leave(std::function<void(const Member&)> fn) {
  core_->leave_hooks.push_back(std::move(fn));
}
std::vector<Member> Platform::members() const {
  std::lock_guard lock(core_->mutex_);
  return core_->members_;
}
const std::string& Platform::name() const noexcept { return core_->options.name; }
const std::string& Platform::node() const noexcept { return core_->options.node; }
std::string Platform::status_json() const { return core_->status_json(); }
std::string Platform::http_address() const {
  std::lock_guard lock(core_->mutex_);
  return core_->http_address_;
}

}  // namespace cluster
