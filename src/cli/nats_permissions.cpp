#include "cli/nats_permissions.h"

#include <algorithm>
#include <utility>

#include "core/names.h"

namespace cluster::cli {
namespace {

constexpr std::size_t kLongestUser = 64;

bool alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// What of a stream's API is needed beside its description.
struct StreamUse {
  std::string name;
  std::string why;
  bool reads = false;    ///< messages one by one, and consumers that push
  bool pulls = false;    ///< consumers that are pulled from
  bool durable = false;  ///< consumers that are looked at and acknowledged to
  bool direct = false;   ///< reading without the stream's leader
  bool purges = false;
  bool deletes = false;  ///< single messages
  bool updates = false;  ///< its configuration
};

Grant grant_of(const StreamUse& use, Streams streams) {
  const std::string& name = use.name;
  Grant grant{use.why, {}};
  const auto allow = [&grant](const std::string& subject) { grant.subjects.push_back(subject); };
  const auto api = [&](const std::string& what, const std::string& more = {}) {
    allow("$JS.API." + what + "." + name + more);
  };
  api("STREAM.INFO");
  if (streams == Streams::made_by_user) api("STREAM.CREATE");
  if (use.reads) {
    api("STREAM.MSG.GET");
    api("CONSUMER.CREATE", ".>");
    api("CONSUMER.DELETE", ".*");
    allow("$JS.FC." + name + ".>");
  }
  if (use.pulls) api("CONSUMER.MSG.NEXT", ".*");
  if (use.durable) {
    api("CONSUMER.INFO", ".*");
    allow("$JS.ACK." + name + ".>");
  }
  if (use.direct) api("DIRECT.GET", ".>");
  if (use.purges) api("STREAM.PURGE");
  if (use.deletes) api("STREAM.MSG.DELETE");
  if (use.updates) api("STREAM.UPDATE");
  return grant;
}

std::vector<Grant> stream_grants(const std::string& platform, const std::string& app,
                                 Streams streams) {
  const std::string own = platform + "_" + app;
  // Locks are read one by one, never followed.
  Grant locks = grant_of({.name = "KV_" + platform + "_locks", .why = "read locks"}, streams);
  locks.subjects.push_back("$JS.API.STREAM.MSG.GET.KV_" + platform + "_locks");
  return {
      {"is JetStream there?", {"$JS.API.INFO"}},
      grant_of({.name = "KV_" + platform + "_members",
                .why = "follow the sessions of all nodes",
                .reads = true},
               streams),
      grant_of(
          {.name = "KV_" + platform + "_leases", .why = "follow who leads what", .reads = true},
          streams),
      std::move(locks),
      grant_of({.name = platform + "_events",
                .why = "follow events, of all apps, also durably",
                .reads = true,
                .pulls = true,
                .durable = true},
               streams),
      grant_of({.name = platform + "_audit", .why = "the audit log, which is only written"},
               streams),
      grant_of({.name = "KV_" + own,
                .why = "the app's keys and values: read, mark that some have a ttl",
                .reads = true,
                .direct = true,
                .updates = true},
               streams),
      grant_of({.name = own + "_wal",
                .why = "the app's database: follow it, drop what snapshots have",
                .reads = true,
                .purges = true},
               streams),
      grant_of({.name = "OBJ_" + own + "_snapshots",
                .why = "the app's snapshots: read, remove",
                .reads = true,
                .pulls = true,
                .purges = true,
                .deletes = true},
               streams),
  };
}

std::string list_of(const std::vector<Grant>& grants) {
  std::string text = " {\n          allow: [\n";
  for (const auto& grant : grants) {
    text += "            # " + grant.why + "\n";
    for (const auto& subject : grant.subjects) text += "            \"" + subject + "\"\n";
  }
  return text + "          ]\n        }\n";
}

std::string block_of(const std::string& platform, const NatsUser& user) {
  const std::string who = user.app.empty() ? "an operator of platform " + platform
                                           : "nodes of app " + user.app + ", and nothing else";
  return "    # " + who + "\n    {\n      user: \"" + user.name + "\"\n      password: $" +
         password_variable(user.name) +
         "\n      permissions: {\n        publish:" + list_of(user.publish) +
         "        subscribe:" + list_of(user.subscribe) + "      }\n    }\n";
}

}  // namespace

std::string user_name_fault(std::string_view name) {
  if (name.size() <= kLongestUser && is_plain_token(name)) return {};
  return "a user's name has 1 to " + std::to_string(kLongestUser) + " of A-Z, a-z, 0-9, - and _";
}

NatsUser confined_user(const std::string& platform, const std::string& app, std::string name,
                       Streams streams) {
  const std::string own = platform + "_" + app;
  const std::string shared = platform + "._.";
  const std::vector<Grant> writes{
      {"the app's keys and values: write", {"$KV." + own + ".>"}},
      {"the app's database and its snapshots: write",
       {platform + "." + app + ".wal", "$O." + own + "_snapshots.>"}},
      {"the app's events, and no others'", {platform + "." + app + ".events.>"}},
      {"calls of all apps, as this app and no other",
       {platform + ".*.calls.*.*." + app, platform + ".*.calls.node.*.*." + app,
        platform + ".*.calls.cancel"}},
      {"tell the app's nodes that keys have a ttl now", {platform + "." + app + ".kv.expiry"}},
      {"sessions: the own one, and those of nodes that are dead",
       {"$KV." + platform + "_members.*"}},
      {"leases: the app's, and who coordinates the platform",
       {"$KV." + platform + "_leases." + app, "$KV." + platform + "_leases._coordinator"}},
      {"locks: the app's, and the platform's",
       {"$KV." + platform + "_locks." + app + ".>", "$KV." + platform + "_locks._.>"}},
      {"heartbeats, and what is known of dead nodes", {shared + "session.>"}},
      {"tell a node that it has got a lock", {shared + "locks.*"}},
      {"is there another node of my name? ask a leader for a snapshot, and who can lead next",
       {shared + "node.*.ping", shared + "node.*.snapshot", shared + "node.*.lead"}},
      {"ask the app's nodes for pages of its database", {shared + "node.*.peer." + app}},
      {"the audit log: write", {shared + "audit.>"}},
      {"answers to whoever asks", {"_INBOX.>"}},
  };
  NatsUser user{.name = std::move(name), .app = app};
  user.publish = stream_grants(platform, app, streams);
  user.publish.insert(user.publish.end(), writes.begin(), writes.end());
  user.subscribe = {
      {"answers to what it has asked, and to nobody else", {"_INBOX." + user.name + ".>"}},
      {"heartbeats of other nodes", {shared + "session.>"}},
      {"locks that a node has got", {shared + "locks.*"}},
      {"what an operator asks of a node", {shared + "node.>"}},
      {"calls of the app", {platform + "." + app + ".calls.>"}},
      {"keys have a ttl now", {platform + "." + app + ".kv.expiry"}},
  };
  Grant discovery{"nodes as micro-services: nats micro ls", {}};
  for (const char* verb : {"PING", "INFO", "STATS"}) {
    const std::string all = std::string("$SRV.") + verb;
    discovery.subjects.insert(discovery.subjects.end(),
                              {all, all + "." + platform, all + "." + platform + ".*",
                               all + "." + own, all + "." + own + ".*"});
  }
  user.subscribe.push_back(std::move(discovery));
  return user;
}

NatsUser operator_user(const std::string& platform, std::string name) {
  return {.name = std::move(name),
          .publish = {{"all that is the platform's", {platform + ".>"}},
                      {"all of JetStream in this account: subjects can't say \"streams that begin "
                       "with " +
                           platform + "_\"",
                       {"$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>", "$O.>"}},
                      {"micro-services: find them", {"$SRV.>"}},
                      {"answers to whoever asks", {"_INBOX.>"}}},
          .subscribe = {{"all that is the platform's", {platform + ".>"}},
                        {"micro-services: be found", {"$SRV.>"}},
                        {"answers, also with other programs' inboxes", {"_INBOX.>"}}}};
}

std::string password_variable(const std::string& user) {
  std::string variable;
  for (const char c : user)
    variable += alphanumeric(c) ? static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c) : '_';
  return variable + "_PASSWORD";
}

std::string authorization_block(const std::string& platform, const std::vector<NatsUser>& users) {
  std::string text =
      "# Users of the platform " + platform +
      " on cpp-cluster. In nats-server's configuration: include \"FILE\"\n"
      "# Passwords are variables: of nats-server's environment, or set them above this block, as "
      "in\n"
      "# SOME_PASSWORD: \"secret\". One of digits only needs quotes in the environment too. Better "
      "than\n"
      "# a plain password is its bcrypt hash, which `nats server passwd` prints.\n"
      "authorization {\n  users: [\n";
  for (const auto& user : users) text += block_of(platform, user);
  return text + "  ]\n}\n";
}

}  // namespace cluster::cli
