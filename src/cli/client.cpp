#include "cli/client.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <set>
#include <thread>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "coord/records_json.h"
#include "core/duration.h"
#include "core/ids.h"
#include "core/json_fields.h"
#include "core/names.h"
#include "ops/audit_entry.h"

namespace cluster::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStatusLimit{1'000};
constexpr milliseconds kMeanwhile{200};
using Json = nlohmann::json;

// A status with the apps of the pieces that came before; `last`: its last app, when others follow.
std::string joined_status(const std::string& before, const std::string& piece, std::string& last) {
  Json document = Json::parse(piece, nullptr, false);
  const bool usable = document.is_object() && document.contains("apps") &&
                      document["apps"].is_array() && !document["apps"].empty();
  if (!usable) return piece;
  Json& apps = document["apps"];
  if (document.contains("more")) last = text_in(apps.back(), "name");
  document.erase("more");
  if (!before.empty()) {
    Json all = Json::parse(before, nullptr, false)["apps"];
    for (auto& app : apps) all.push_back(std::move(app));
    apps = std::move(all);
  }
  return text_of(document);
}

constexpr const char* kClear = "\033[H\033[2J";

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += (all.empty() ? "" : ", ") + mask_url(part);
  return all;
}

// A node with a server of its own is asked through that one, when no other is named.
Nats servers_for_client(Nats nats) {
  for (const auto& embedded : nats.embedded) {
    if (!nats.servers.empty()) break;
    std::string host = embedded.host;
    if (host == "0.0.0.0") host = "127.0.0.1";
    if (host == "::") host = "::1";
    if (host.find(':') != std::string::npos) host = "[" + host + "]";
    if (embedded.port == 0)
      throw CommandError(Exit::usage,
                         "nats.embedded.port is 0, so nobody can know where that server is: give "
                         "--nats");
    nats.servers = {"nats://" + host + ":" + std::to_string(embedded.port)};
  }
  nats.embedded.clear();
  return nats;
}

[[noreturn]] void fail(const Error& error, const std::string& what) {
  throw CommandError(exit_for(error), what + ": " + error.what());
}

Exit exit_for_code(int code) {
  switch (code) {
    case 404:
    case 422: return Exit::not_found;
    case 408: return Exit::timeout;
    case 409: return Exit::unhealthy;
    case 424: return Exit::not_replicated;
    default: return Exit::failed;
  }
}

}  // namespace

Client::Client(const CommonFlags& flags)
    : config_(load_config(flags.request(true))), limit_(flags.timeout) {
  const Nats nats = servers_for_client(config_.platform.nats);
  connection_ = std::make_unique<nats::Connection>(
      loop_, nats::ConnectOptions{.nats = nats, .name = "cpp-cluster"});
  connection_->on_state([this](nats::ConnectionState, const std::string& why) {
    if (!why.empty()) trouble_ = why;
  });
  const auto connected = [this] {
    return connection_->state() == nats::ConnectionState::connected;
  };
  if (!loop_.run_until(connected, limit_))
    throw CommandError(Exit::unreachable,
                       "no NATS server at " + joined(nats.servers) + " within " +
                           format_duration(limit_) +
                           (trouble_.empty() ? "" : " (" + trouble_ + ")") +
                           ". Is it running? Name another with --nats or NATS_URL");
  jetstream_ = std::make_unique<nats::JetStream>(*connection_, limit_);
}

const std::string& Client::platform() {
  if (!config_.platform.name.empty()) return config_.platform.name;
  auto streams = nats::await<std::vector<std::string>>(
      loop_, limit_ + milliseconds(500),
      [&](Callback<std::vector<std::string>> done) { jetstream_->streams(std::move(done)); });
  if (!streams.ok()) fail(streams.error(), "looking for platforms");
  const std::string before = "KV_";
  const std::string after = "_members";
  std::vector<std::string> found;
  for (const auto& name : streams.value())
    if (name.size() > before.size() + after.size() && name.rfind(before, 0) == 0 &&
        name.compare(name.size() - after.size(), after.size(), after) == 0)
      found.push_back(name.substr(before.size(), name.size() - before.size() - after.size()));
  if (found.empty())
    throw CommandError(Exit::not_found, "there is no platform on " +
                                            mask_url(connection_->server().url) +
                                            " yet: start a node with cpp-cluster run");
  if (found.size() > 1)
    throw CommandError(Exit::usage, "there are several platforms (" + joined(found) +
                                        "): name one with --platform");
  config_.platform.name = found[0];
  return config_.platform.name;
}

std::optional<Client::Entries> Client::read_bucket(const std::string& bucket) {
  Entries entries;
  bool done = false;
  std::optional<Error> trouble;
  nats::KeyValue store(*jetstream_, bucket);
  nats::KvWatch::Handlers handlers;
  handlers.entry = [&](nats::KvEntry entry) {
    const std::string key = entry.key;
    if (entry.operation == nats::KvEntry::Operation::put)
      entries[key] = std::move(entry);
    else
      entries.erase(key);
  };
  handlers.caught_up = [&] { done = true; };
  handlers.trouble = [&](const Error& error) { trouble = error; };
  const auto watch = store.watch(">", std::move(handlers));
  const auto settled = [&] {
    return done || (trouble && (trouble->errc() == Errc::not_found ||
                                trouble->errc() == Errc::permission_denied));
  };
  if (!loop_.run_until(settled, limit_)) {
    if (trouble) fail(*trouble, "reading bucket " + bucket);
    if (connection_->state() != nats::ConnectionState::connected)
      throw CommandError(Exit::unreachable, "the connection to NATS is lost" +
                                                (trouble_.empty() ? "" : ": " + trouble_));
    throw CommandError(Exit::timeout, "reading bucket " + bucket + ": no answer within " +
                                          format_duration(limit_));
  }
  if (done) return entries;
  if (trouble->errc() == Errc::not_found) return std::nullopt;
  fail(*trouble, "reading bucket " + bucket);
}

Snapshot Client::read() {
  Snapshot snapshot{.platform = platform()};
  const nats::ServerInfo server = connection_->server();
  snapshot.nats_url = mask_url(server.url);
  snapshot.nats_server = server.server_name;
  snapshot.nats_version = server.version;
  snapshot.nats_cluster = server.cluster;
  const auto members = read_bucket(snapshot.platform + "_members");
  if (!members)
    throw CommandError(Exit::not_found, "there is no platform \"" + snapshot.platform + "\" on " +
                                            snapshot.nats_url +
                                            ": no node of it has ever run there");
  // After the members: a lease that is read refers to sessions that had begun by then, so it is the
  // members that may lag, and leader_of() knows that.
  const auto leases = read_bucket(snapshot.platform + "_leases");
  for (const auto& [node, entry] : *members)
    snapshot.members.push_back(read_member(node, entry.revision, entry.value));
  if (leases)
    for (const auto& [app, entry] : *leases)
      snapshot.leases.push_back(read_lease(app, entry.revision, entry.value));
  return snapshot;
}

std::string Client::subject(const std::string& node, const std::string& endpoint) {
  return platform() + "._.node." + node + "." + endpoint;
}

struct Client::Pending {
  Snapshot* snapshot;
  int open = 0;
};

void Client::ask(Snapshot& snapshot, const std::string& only) {
  // Shared, because an answer may come after this has returned.
  const auto pending = std::make_shared<Pending>(Pending{&snapshot});
  for (const auto& member : snapshot.members) {
    if (!member.record || !member.record->live()) continue;
    if (!only.empty() && member.node != only) continue;
    ++pending->open;
    snapshot.answers[member.node] = {"", "no answer"};
    ask_status(pending, member.node, {}, "");
  }
  loop_.run_until([&] { return pending->open == 0; }, kStatusLimit + milliseconds(500));
  pending->snapshot = nullptr;
}

// A node with many apps answers in pieces: `before` has the first ones, `after` is their last app.
void Client::ask_status(const std::shared_ptr<Pending>& pending, const std::string& node,
                        const std::string& before, const std::string& after) {
  nats::Message request{.subject = subject(node, "status")};
  if (!after.empty()) request.data = Json{{"v", 1}, {"after", after}}.dump();
  connection_->request(std::move(request), kStatusLimit,
                       [this, pending, node, before, after](Result<nats::Message> answer) {
                         if (pending->snapshot == nullptr) return;
                         NodeAnswer& place = pending->snapshot->answers[node];
                         --pending->open;
                         if (!answer.ok()) {
                           // Silence is told of already; a refusal is not the node's.
                           if (answer.error().errc() == Errc::permission_denied)
                             place = {"", answer.error().what()};
                           return;
                         }
                         const nats::Message& message = answer.value();
                         if (const auto refusal = message.header("Nats-Service-Error");
                             !refusal.empty()) {
                           place = {"", std::string(refusal)};
                           return;
                         }
                         std::string last;
                         const std::string all = joined_status(before, message.data, last);
                         // Names that come again would make this endless.
                         if (last.empty() || last <= after) {
                           place = {all, ""};
                           return;
                         }
                         ++pending->open;
                         ask_status(pending, node, all, last);
                       });
}

std::string Client::answer_of(const std::string& node, const Result<nats::Message>& answer) const {
  if (!answer.ok()) {
    const Error& error = answer.error();
    const bool silent = error.errc() == Errc::timeout || error.errc() == Errc::no_responders;
    throw CommandError(silent ? Exit::timeout : exit_for(error),
                       "node " + node + (silent ? " does not answer: " : ": ") + error.what());
  }
  const nats::Message& message = answer.value();
  if (const auto code = message.header("Nats-Service-Error-Code"); !code.empty())
    throw CommandError(
        exit_for_code(std::atoi(std::string(code).c_str())),
        "node " + node + " refuses: " + std::string(message.header("Nats-Service-Error")));
  return message.data;
}

std::string Client::request(const std::string& node, const std::string& endpoint,
                            const std::string& body, milliseconds limit) {
  return answer_of(node, nats::await<nats::Message>(
                             loop_, limit + milliseconds(500), [&](Callback<nats::Message> done) {
                               connection_->request(
                                   {.subject = subject(node, endpoint), .data = body}, limit,
                                   std::move(done));
                             }));
}

std::optional<std::string> Client::request(const std::string& node, const std::string& endpoint,
                                           const std::string& body, milliseconds limit,
                                           const std::function<bool()>& meanwhile) {
  // Shared, because an answer may come after this has returned.
  const auto answer = std::make_shared<std::optional<Result<nats::Message>>>();
  connection_->request({.subject = subject(node, endpoint), .data = body}, limit,
                       [answer](Result<nats::Message> result) { *answer = std::move(result); });
  while (!loop_.run_until([&] { return answer->has_value(); }, kMeanwhile))
    if (!meanwhile()) return std::nullopt;
  return answer_of(node, **answer);
}

Client::LeaseFollower::LeaseFollower(Client& client, const std::string& app,
                                     std::function<void(const coord::LeaseRecord&)> seen)
    : store_(*client.jetstream_, client.platform() + "_leases") {
  nats::KvWatch::Handlers handlers;
  handlers.entry = [seen = std::move(seen)](const nats::KvEntry& entry) {
    const auto record = coord::lease_record_from(entry.key, entry.value);
    if (record.ok()) seen(record.value());
  };
  watch_ = store_.watch(app, std::move(handlers));
}

void Client::work(const std::function<void()>& task, std::stop_source& stop) {
  std::atomic<bool> over{false};
  std::exception_ptr failure;
  const auto on_signal = [&stop] { stop.request_stop(); };
  const LoopSource interrupt = loop_.on_signal(SIGINT, on_signal);
  const LoopSource terminate = loop_.on_signal(SIGTERM, on_signal);
  std::thread thread([&] {
    try {
      task();
    } catch (...) {
      failure = std::current_exception();
    }
    over = true;
    loop_.post([] {});
  });
  while (!over) loop_.run_until([&] { return over.load(); }, std::chrono::hours(1));
  thread.join();
  if (failure) std::rethrow_exception(failure);
}

void Client::pause(milliseconds time) {
  loop_.run_until([] { return false; }, time);
}

void Client::audit(const std::string& category, const std::string& app, const std::string& action,
                   AuditFields fields, const char* level) {
  const char* user = std::getenv("USER");
  fields.emplace_back("by", (user != nullptr ? std::string(user) : std::to_string(::getuid())) +
                                "@" + short_host_name());
  AuditEntry entry{.category = category,
                   .action = action,
                   .app = app,
                   .level = level,
                   .fields = std::move(fields)};
  const auto stored = nats::await<nats::PubAck>(
      loop_, limit_ + milliseconds(500), [&](Callback<nats::PubAck> done) {
        jetstream_->publish(audit_message(platform(), std::move(entry)), {}, std::move(done));
      });
  if (!stored.ok()) complain(std::string("this is not in the audit log: ") + stored.error().what());
}

std::vector<std::string> Client::apps_with_databases() {
  auto streams = nats::await<std::vector<std::string>>(
      loop_, limit_ + milliseconds(500),
      [&](Callback<std::vector<std::string>> done) { jetstream_->streams(std::move(done)); });
  if (!streams.ok()) fail(streams.error(), "looking for databases");
  std::set<std::string> apps;
  for (const auto& name : streams.value())
    for (const auto& [before, after] :
         {std::pair<std::string, std::string>{"", "_wal"},
          std::pair<std::string, std::string>{"OBJ_", "_snapshots"}}) {
      const std::string start = before + platform() + "_";
      if (name.size() > start.size() + after.size() && name.starts_with(start) &&
          name.ends_with(after))
        apps.insert(name.substr(start.size(), name.size() - start.size() - after.size()));
    }
  return {apps.begin(), apps.end()};
}

Exit Client::show(const OutputFlags& output, const std::function<std::string()>& look) {
  if (!output.watch) {
    print(look());
    return Exit::ok;
  }
  const bool terminal = isatty(STDOUT_FILENO) == 1 && !output.json;
  while (true) {
    std::string text;
    try {
      text = look();
    } catch (const CommandError& error) {
      complain(error.what());
    }
    if (!text.empty()) print(terminal ? kClear + text : text + (output.json ? "" : "\n"));
    loop_.run_until([] { return false; }, output.interval);
  }
}

const SeenMember& member_or_fail(const Snapshot& snapshot, const std::string& node) {
  if (const SeenMember* member = find_member(snapshot, node)) return *member;
  std::vector<std::string> names;
  for (const auto& member : snapshot.members) names.push_back(member.node);
  const std::string near = nearest_name(node, names);
  throw CommandError(
      Exit::not_found,
      "platform " + snapshot.platform + " has no node \"" + node + "\"" +
          (near.empty() ? "; see cpp-cluster node list" : "; did you mean \"" + near + "\"?"));
}

}  // namespace cluster::cli
