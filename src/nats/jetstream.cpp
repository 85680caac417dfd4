#include "nats/jetstream.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "core/log.h"
#include "nats/api_errors.h"
#include "nats/jetstream_messages.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;

template <typename T>
T field(const Json& object, const char* name, T otherwise = {}) {
  auto it = object.find(name);
  if (it == object.end()) return otherwise;
  if constexpr (std::is_same_v<T, std::string>) {
    return it->is_string() ? it->template get<T>() : otherwise;
  } else if constexpr (std::is_same_v<T, bool>) {
    return it->is_boolean() ? it->template get<T>() : otherwise;
  } else {
    return it->is_number_integer() ? it->template get<T>() : otherwise;
  }
}

std::vector<std::string> strings(const Json& object, const char* name) {
  std::vector<std::string> all;
  auto it = object.find(name);
  if (it == object.end() || !it->is_array()) return all;
  for (const auto& s : *it)
    if (s.is_string()) all.push_back(s.get<std::string>());
  return all;
}

Json to_json(const StreamConfig& c) {
  Json json = {{"name", c.name},
               {"subjects", c.subjects},
               {"retention", "limits"},
               {"max_consumers", -1},
               {"max_msgs", -1},
               {"max_bytes", c.max_bytes},
               {"max_age", c.max_age.count()},
               {"max_msgs_per_subject", c.max_msgs_per_subject},
               {"max_msg_size", c.max_msg_size},
               {"discard", c.discard_new ? "new" : "old"},
               {"storage", c.file_storage ? "file" : "memory"},
               {"num_replicas", c.replicas},
               {"allow_rollup_hdrs", c.allow_rollup},
               {"allow_direct", c.allow_direct},
               {"deny_delete", c.deny_delete},
               {"deny_purge", c.deny_purge}};
  if (!c.description.empty()) json["description"] = c.description;
  if (c.duplicate_window.count() > 0) json["duplicate_window"] = c.duplicate_window.count();
  if (!c.metadata.empty()) json["metadata"] = c.metadata;
  return json;
}

StreamState stream_state_from(const Json& json) {
  StreamState state;
  const Json empty = Json::object();
  auto part = [&](const char* name) -> const Json& {
    auto it = json.find(name);
    return it != json.end() && it->is_object() ? *it : empty;
  };
  const Json& c = part("config");
  state.config.name = field<std::string>(c, "name");
  state.config.description = field<std::string>(c, "description");
  state.config.subjects = strings(c, "subjects");
  state.config.replicas = field<int>(c, "num_replicas", 1);
  state.config.file_storage = field<std::string>(c, "storage") != "memory";
  state.config.max_msgs_per_subject = field<std::int64_t>(c, "max_msgs_per_subject", -1);
  state.config.max_bytes = field<std::int64_t>(c, "max_bytes", -1);
  state.config.max_msg_size = field<std::int32_t>(c, "max_msg_size", -1);
  state.config.max_age = std::chrono::nanoseconds(field<std::int64_t>(c, "max_age"));
  state.config.duplicate_window =
      std::chrono::nanoseconds(field<std::int64_t>(c, "duplicate_window"));
  state.config.allow_rollup = field<bool>(c, "allow_rollup_hdrs");
  state.config.allow_direct = field<bool>(c, "allow_direct");
  state.config.allow_direct = field<bool>(c, "allow_direct");
  state.config.deny_delete = field<bool>(c, "deny_delete");
  state.config.deny_purge = field<bool>(c, "deny_purge");
  state.config.discard_new = field<std::string>(c, "discard") == "new";
  if (auto metadata = c.find("metadata"); metadata != c.end() && metadata->is_object())
    for (const auto& [key, value] : metadata->items())
      if (value.is_string()) state.config.metadata[key] = value.get<std::string>();
  const Json& s = part("state");
  state.messages = field<std::uint64_t>(s, "messages");
  state.bytes = field<std::uint64_t>(s, "bytes");
  state.first_seq = field<std::uint64_t>(s, "first_seq");
  state.last_seq = field<std::uint64_t>(s, "last_seq");
  // A stream without messages has the year 1.
  const auto time = [](const Json& in, const char* name) {
    return std::max<std::int64_t>(0, time_ns_from(field<std::string>(in, name)).value_or(0));
  };
  state.last_time_ns = time(s, "last_ts");
  state.server_time_ns = time(json, "ts");
  state.created = field<std::string>(json, "created");
  const Json& cluster = part("cluster");
  state.leader = field<std::string>(cluster, "leader");
  if (auto replicas = cluster.find("replicas"); replicas != cluster.end() && replicas->is_array())
    for (const auto& r : *replicas)
      if (r.is_object()) state.peers.push_back(field<std::string>(r, "name"));
  return state;
}

// The answer as JSON, or the error that it carries.
Result<Json> answer_from(const std::string& what, const std::string& text) {
  auto json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    return Error(Errc::incompatible, what + ": JetStream's answer can't be read");
  auto error = json.find("error");
  if (error == json.end() || !error->is_object()) return json;
  return error_from_api(what, field<int>(*error, "code"), field<int>(*error, "err_code"),
                        field<std::string>(*error, "description", "an error without a text"));
}

// Names become part of a subject: whatever would change that is refused.
Failure stream_name_fault(const std::string& name) {
  if (!name.empty() && name.find_first_of(". \t\r\n*>/\\") == std::string::npos)
    return std::nullopt;
  return Error(Errc::invalid_argument, "\"" + name + "\" can't be a stream's name");
}

Callback<std::string> to_stream_state(const std::string& what, Callback<StreamState> done) {
  return [what, done = std::move(done)](Result<std::string> text) {
    if (!text) return done(text.error());
    done(stream_state_from_answer(what, text.value()));
  };
}

void get_message(JetStream& jetstream, const std::string& stream, const MessageWanted& wanted,
                 Callback<StoredMessage> done) {
  const std::string what = "STREAM.MSG.GET." + stream;
  jetstream.api(what, message_request(wanted),
                [what, done = std::move(done)](Result<std::string> text) {
                  if (!text) return done(text.error());
                  done(message_answer_from(what, text.value()));
                });
}

void list_streams(JetStream& jetstream, std::vector<std::string> names,
                  Callback<std::vector<std::string>> done) {
  jetstream.api("STREAM.NAMES", text_of({{"offset", names.size()}}),
                [&jetstream, names, done = std::move(done)](Result<std::string> text) mutable {
                  if (!text) return done(text.error());
                  auto json = answer_from("STREAM.NAMES", text.value());
                  if (!json) return done(json.error());
                  auto page = strings(json.value(), "streams");
                  names.insert(names.end(), page.begin(), page.end());
                  if (page.empty() || names.size() >= field<std::uint64_t>(json.value(), "total"))
                    return done(std::move(names));
                  list_streams(jetstream, std::move(names), std::move(done));
                });
}

}  // namespace

std::string stream_request(const StreamConfig& config) { return text_of(to_json(config)); }

Result<StreamState> stream_state_from_answer(const std::string& what, const std::string& text) {
  auto json = answer_from(what, text);
  if (!json) return json.error();
  return stream_state_from(json.value());
}

Message api_request(const std::string& what, const std::string& body) {
  Message message;
  message.subject = "$JS.API." + what;
  message.data = body;
  return message;
}

Result<std::string> api_answer_from(const std::string& what, Result<Message> answer) {
  if (answer) {
    auto json = answer_from(what, answer.value().data);
    if (!json) return json.error();
    return std::move(answer.value().data);
  }
  const Error& error = answer.error();
  if (error.errc() == Errc::no_responders)
    return Error(Errc::unavailable, "$JS.API." + what +
                                        ": nobody answers: JetStream is not enabled; start "
                                        "nats-server with -js, or write jetstream {} into its "
                                        "configuration");
  if (error.errc() == Errc::timeout)
    return Error(Errc::timeout, what +
                                    ": JetStream has not answered within the time limit; the "
                                    "stream may have no leader now");
  return error;
}

void add_expectation(Message& message, const Expect& expect) {
  if (expect.last_sequence)
    message.headers.emplace_back("Nats-Expected-Last-Sequence",
                                 std::to_string(*expect.last_sequence));
  if (expect.last_subject_sequence)
    message.headers.emplace_back("Nats-Expected-Last-Subject-Sequence",
                                 std::to_string(*expect.last_subject_sequence));
  if (!expect.last_message_id.empty())
    message.headers.emplace_back("Nats-Expected-Last-Msg-Id", expect.last_message_id);
}

Result<PubAck> pub_ack_from(const std::string& subject, Result<Message> answer) {
  const std::string what = "publish to \"" + subject + "\"";
  if (!answer) {
    if (answer.error().errc() == Errc::no_responders)
      return Error(Errc::unavailable,
                   what +
                       ": no stream takes it now: there is none for this subject, or it has no "
                       "leader at the moment");
    return answer.error();
  }
  auto json = answer_from(what, answer.value().data);
  if (!json) return json.error();
  PubAck ack;
  ack.stream = field<std::string>(json.value(), "stream");
  ack.sequence = field<std::uint64_t>(json.value(), "seq");
  ack.duplicate = field<bool>(json.value(), "duplicate");
  if (ack.sequence == 0) return Error(Errc::incompatible, what + ": what answered is no stream");
  return ack;
}

std::string message_request(const MessageWanted& wanted) {
  Json body = Json::object();
  if (wanted.sequence != 0) body["seq"] = wanted.sequence;
  if (!wanted.last_of_subject.empty()) body["last_by_subj"] = wanted.last_of_subject;
  if (!wanted.next_of_subject.empty()) body["next_by_subj"] = wanted.next_of_subject;
  return text_of(body);
}

Result<StoredMessage> message_answer_from(const std::string& what, const std::string& text) {
  auto json = answer_from(what, text);
  if (!json) return json.error();
  auto it = json.value().find("message");
  return stored_message_from(it == json.value().end() ? "" : text_of(*it));
}

Result<StoredMessage> direct_answer_from(const std::string& what, Result<Message> answer) {
  if (!answer) {
    if (answer.error().errc() == Errc::no_responders)
      return Error(Errc::unavailable,
                   what + ": no server has the stream now, or it allows no direct reading");
    return answer.error();
  }
  Message& m = answer.value();
  if (m.status == 404) return Error(Errc::not_found, what + ": there is no such message");
  if (m.status != 0)
    return Error(Errc::incompatible, what + ": JetStream answers with status " +
                                         std::to_string(m.status) + " (" +
                                         std::string(m.header("Description")) + ")");
  StoredMessage message;
  message.subject = m.header("Nats-Subject");
  message.sequence = std::strtoull(std::string(m.header("Nats-Sequence")).c_str(), nullptr, 10);
  message.time_ns = time_ns_from(m.header("Nats-Time-Stamp")).value_or(0);
  if (message.subject.empty() || message.sequence == 0)
    return Error(Errc::incompatible, what + ": what answered is no stream");
  message.data = std::move(m.data);
  message.headers = std::move(m.headers);
  return message;
}

JetStream::JetStream(Connection& connection, Duration timeout)
    : connection_(connection), timeout_(timeout) {}

void JetStream::api(const std::string& what, const std::string& body, Callback<std::string> done) {
  api(what, body, timeout_, std::move(done));
}

void JetStream::api(const std::string& what, const std::string& body, Duration timeout,
                    Callback<std::string> done) {
  connection_.request(api_request(what, body), timeout,
                      [what, done = std::move(done)](Result<Message> answer) {
                        done(api_answer_from(what, std::move(answer)));
                      });
}

void JetStream::account(Callback<AccountInfo> done) {
  api("INFO", "", [done = std::move(done)](Result<std::string> text) {
    if (!text) return done(text.error());
    auto json = answer_from("INFO", text.value());
    if (!json) return done(json.error());
    AccountInfo info;
    info.streams = field<int>(json.value(), "streams");
    if (auto limits = json.value().find("limits");
        limits != json.value().end() && limits->is_object()) {
      info.max_memory = field<std::int64_t>(*limits, "max_memory");
      info.max_storage = field<std::int64_t>(*limits, "max_storage");
    }
    done(info);
  });
}

void JetStream::set_metadata(const std::string& name, const std::string& key,
                             const std::string& value, Completion done) {
  const std::string update = "STREAM.UPDATE." + name;
  api("STREAM.INFO." + name, "",
      [this, update, key, value, done = std::move(done)](const Result<std::string>& text) {
        auto json = text ? answer_from(update, text.value()) : Result<Json>(text.error());
        if (!json) return done(json.error());
        Json config = json.value().value("config", Json::object());
        config["metadata"][key] = value;
        api(update, config.dump(),
            to_stream_state(update, [done](const Result<StreamState>& state) {
              done(state ? Failure() : Failure(state.error()));
            }));
      });
}

void JetStream::create_stream(const StreamConfig& config, Callback<StreamState> done) {
  const std::string what = "STREAM.CREATE." + config.name;
  if (auto fault = stream_name_fault(config.name))
    return connection_.defer([done = std::move(done), fault] { done(*fault); });
  api(what, stream_request(config), to_stream_state(what, std::move(done)));
}

void JetStream::update_stream(const StreamConfig& config, Callback<StreamState> done) {
  const std::string what = "STREAM.UPDATE." + config.name;
  if (auto fault = stream_name_fault(config.name))
    return connection_.defer([done = std::move(done), fault] { done(*fault); });
  api(what, stream_request(config), to_stream_state(what, std::move(done)));
}

void JetStream::stream(const std::string& name, Callback<StreamState> done) {
  const std::string what = "STREAM.INFO." + name;
  if (auto fault = stream_name_fault(name))
    return connection_.defer([done = std::move(done), fault] { done(*fault); });
  api(what, "", to_stream_state(what, std::move(done)));
}

void JetStream::delete_stream(const std::string& name, Completion done) {
  if (auto fault = stream_name_fault(name))
    return connection_.defer([done = std::move(done), fault] { done(fault); });
  api("STREAM.DELETE." + name, "", [done = std::move(done)](Result<std::string> text) {
    done(text ? Failure() : Failure(text.error()));
  });
}

void JetStream::streams(Callback<std::vector<std::string>> done) {
  list_streams(*this, {}, std::move(done));
}

void JetStream::ensure_stream(const StreamConfig& config, Completion done) {
  stream(config.name, [this, config, done = std::move(done)](Result<StreamState> there) {
    if (there) return done(std::nullopt);
    if (there.error().errc() != Errc::not_found) return done(there.error());
    create_stream(config, [this, name = config.name, done](Result<StreamState> made) {
      if (made) return done(std::nullopt);
      if (made.error().errc() != Errc::invalid_argument) return done(made.error());
      // Somebody else may have made it meanwhile, not quite like this.
      stream(name, [done, why = made.error()](Result<StreamState> now) {
        done(now ? Failure() : Failure(why));
      });
    });
  });
}

void JetStream::purge(const std::string& stream, const std::string& filter, std::uint64_t before,
                      Callback<std::uint64_t> done) {
  const std::string what = "STREAM.PURGE." + stream;
  if (auto fault = stream_name_fault(stream))
    return connection_.defer([done = std::move(done), fault] { done(*fault); });
  Json body = Json::object();
  if (!filter.empty()) body["filter"] = filter;
  if (before != 0) body["seq"] = before;
  api(what, text_of(body), [what, done = std::move(done)](Result<std::string> text) {
    if (!text) return done(text.error());
    auto json = answer_from(what, text.value());
    if (!json) return done(json.error());
    done(field<std::uint64_t>(json.value(), "purged"));
  });
}

void JetStream::publish(Message message, Expect expect, Callback<PubAck> done) {
  publish(std::move(message), expect, timeout_, std::move(done));
}

void JetStream::publish(Message message, Expect expect, Duration timeout, Callback<PubAck> done) {
  add_expectation(message, expect);
  const std::string subject = message.subject;
  connection_.request(std::move(message), timeout,
                      [subject, done = std::move(done)](Result<Message> answer) {
                        done(pub_ack_from(subject, std::move(answer)));
                      });
}

void JetStream::last_message(const std::string& stream, const std::string& subject,
                             Callback<StoredMessage> done) {
  get_message(*this, stream, {.last_of_subject = subject}, std::move(done));
}

void JetStream::message(const std::string& stream, std::uint64_t sequence,
                        Callback<StoredMessage> done) {
  get_message(*this, stream, {.sequence = sequence}, std::move(done));
}

void JetStream::next_message(const std::string& stream, const std::string& subject,
                             std::uint64_t from, Callback<StoredMessage> done) {
  get_message(*this, stream,
              {.sequence = std::max<std::uint64_t>(1, from), .next_of_subject = subject},
              std::move(done));
}

void JetStream::delete_message(const std::string& stream, std::uint64_t sequence, Completion done) {
  api("STREAM.MSG.DELETE." + stream, text_of({{"seq", sequence}, {"no_erase", true}}),
      [done = std::move(done)](Result<std::string> text) {
        done(text ? Failure() : Failure(text.error()));
      });
}

void JetStream::count_messages(const std::string& stream, const std::string& subject,
                               Callback<std::uint64_t> done) {
  const std::string what = "STREAM.INFO." + stream;
  api(what, text_of({{"subjects_filter", subject}}),
      [what, subject, done = std::move(done)](Result<std::string> text) {
        if (!text) return done(text.error());
        auto json = answer_from(what, text.value());
        if (!json) return done(json.error());
        const auto place = Json::json_pointer("/state/subjects");
        done(json.value().contains(place) && json.value()[place].is_object()
                 ? field<std::uint64_t>(json.value()[place], subject.c_str())
                 : 0);
      });
}

void check_server(JetStream& jetstream, Completion done) {
  auto& connection = jetstream.connection();
  if (connection.state() != ConnectionState::connected)
    return connection.defer(
        [done = std::move(done)] { done(Error(Errc::unavailable, "not connected to NATS now")); });
  const ServerInfo server = connection.server();
  std::array<int, 3> version{};
  int parsed =
      std::sscanf(server.version.c_str(), "%d.%d.%d", &version[0], &version[1], &version[2]);
  if (parsed == 3 && version < std::array<int, 3>{2, 10, 0})
    return connection.defer([done = std::move(done), server] {
      done(Error(Errc::incompatible,
                 "NATS server " + server.url + " is version " + server.version +
                     "; 2.10.0 or newer is needed, 2.10.23 or newer advised: upgrade nats-server"));
    });
  if (parsed == 3 && version < std::array<int, 3>{2, 10, 23})
    log::warn("nats_server_old",
              {{"url", server.url},
               {"version", server.version},
               {"advised", "2.10.23"},
               {"means", "some versions before it could lose a stream when servers crash"}});
  if (parsed != 3)
    log::warn("nats_server_version_unknown", {{"url", server.url}, {"version", server.version}});
  jetstream.account([done = std::move(done)](Result<AccountInfo> info) {
    done(info ? Failure() : Failure(info.error()));
  });
}

}  // namespace cluster::nats
