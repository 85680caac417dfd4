#include "data/call_message.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "core/names.h"

namespace cluster {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kLongestMethod = 64;
constexpr std::size_t kLongestKey = 1'024;
constexpr std::size_t kLongestText = 4'096;  // of an error
constexpr milliseconds kLongestCall = std::chrono::hours(1);
/// Of a client that does not say how long it waits.
constexpr milliseconds kUsualLimit = std::chrono::seconds(60);

constexpr char kEnvelope[] = "Cluster-Call";
constexpr char kKey[] = "Cluster-Key";
constexpr char kReply[] = "Cluster-Reply";
constexpr char kError[] = "Cluster-Error";
constexpr char kServiceCode[] = "Nats-Service-Error-Code";
constexpr char kServiceText[] = "Nats-Service-Error";

bool ours(std::string_view header) {
  return header.starts_with("Nats-") || header.starts_with("Cluster-");
}

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto at = text.find(by);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <typename Number>
bool read(std::string_view text, Number& number) {
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
  return fault == std::errc() && end == text.data() + text.size();
}

std::optional<std::string> unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned byte = 0;
    if (i + 2 >= text.size()) return std::nullopt;
    const auto [end, fault] = std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16);
    if (fault != std::errc() || end != text.data() + i + 3) return std::nullopt;
    out += static_cast<char>(byte);
    i += 2;
  }
  return out;
}

// What `nats` and other clients of micro-services show.
int service_code(Errc code) {
  switch (code) {
    case Errc::invalid_argument: return 400;
    case Errc::permission_denied: return 403;
    case Errc::not_found: return 404;
    case Errc::not_leader: return 421;
    case Errc::overloaded: return 429;
    case Errc::shutting_down:
    case Errc::unavailable: return 503;
    default: return 500;
  }
}

std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kLongestText));
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return line;
}

CallHeaders without_ours(CallHeaders headers) {
  std::erase_if(headers, [](const auto& header) { return ours(header.first); });
  return headers;
}

Error unreadable(const std::string& why) {
  return {Errc::invalid_argument, "the call can't be read: " + why};
}

}  // namespace

std::string method_fault(std::string_view method) {
  if (method.size() > kLongestMethod || !is_plain_token(method))
    return "a method's name has 1 to 64 of A-Z a-z 0-9 _ -";
  return {};
}

std::string call_options_fault(const CallOptions& o) {
  if (o.timeout < milliseconds(1) || o.timeout > kLongestCall)
    return "timeout is not from 1 ms to 1 h";
  if (o.try_timeout < milliseconds(0)) return "try_timeout is negative";
  if (o.retries < 0 || o.retries > 1'000) return "retries is not from 0 to 1000";
  if (o.key.size() > kLongestKey) return "its key is longer than 1024 bytes";
  if (o.route == Route::node && o.node.empty()) return "route node names no node";
  if (!o.node.empty()) {
    if (o.route != Route::node && o.route != Route::automatic)
      return "it names a node, and its route is " + route_name(o.route);
    if (auto fault = node_name_fault(o.node); !fault.empty())
      return "node \"" + o.node + "\": " + fault;
  }
  for (const auto& [name, value] : o.headers)
    if (ours(name))
      return "header \"" + name + "\": names that begin so are kept for NATS and cpp-cluster";
  return {};
}

std::string route_name(Route route) {
  switch (route) {
    case Route::automatic: return "automatic";
    case Route::leader: return "leader";
    case Route::any: return "any";
    case Route::node: return "node";
    case Route::key: return "key";
  }
  return "?";
}

std::string call_subject(const std::string& platform, const std::string& app,
                         const std::string& route, const std::string& node,
                         const std::string& method, const std::string& caller) {
  std::string subject = platform + "." + app + ".calls." + route + ".";
  if (!node.empty()) subject += node + ".";
  return subject + method + "." + caller;
}

std::string cancel_subject(const std::string& platform, const std::string& app) {
  return platform + "." + app + ".calls.cancel";
}

std::string text_of(const CallEnvelope& e) {
  return e.id + " " + std::to_string(e.attempt) + " " + std::to_string(e.limit.count()) + " " +
         (e.node.empty() ? "-" : e.node);
}

Result<CallEnvelope> call_envelope(std::string_view text) {
  const auto parts = split(text, ' ');
  CallEnvelope e;
  std::int64_t ms = 0;
  if (parts.size() < 4 || parts[0].size() > 64 || !is_plain_token(parts[0]) ||
      !read(parts[1], e.attempt) || e.attempt < 1 || !read(parts[2], ms) || ms < 1 ||
      ms > kLongestCall.count())
    return unreadable(std::string("header ") + kEnvelope + " is \"" + one_line(text) +
                      "\", not \"<id> <attempt> <ms> <node>\"");
  e.id = parts[0];
  e.limit = milliseconds(ms);
  if (parts[3] != "-") e.node = parts[3];
  return e;
}

Result<CallRequest> call_request(const nats::Message& message, const std::string& platform,
                                 Time now) {
  CallRequest r;
  const auto tokens = split(message.subject, '.');
  const bool to_node = tokens.size() == 7 && tokens[3] == "node";
  if (!(to_node || tokens.size() == 6) || tokens[0] != platform || tokens[2] != "calls")
    return unreadable("its subject is \"" + message.subject + "\"");
  r.app = tokens[1];
  r.method = tokens[tokens.size() - 2];
  r.caller_app = tokens.back();
  r.route = to_node                 ? Route::node
            : tokens[3] == "leader" ? Route::leader
            : tokens[3] == "key"    ? Route::key
                                    : Route::any;
  r.payload = message.payload();
  milliseconds limit = kUsualLimit;
  if (const auto text = message.header(kEnvelope); !text.empty()) {
    auto envelope = call_envelope(text);
    if (!envelope) return envelope.error();
    r.id = std::move(envelope.value().id);
    r.attempt = envelope.value().attempt;
    r.caller_node = std::move(envelope.value().node);
    limit = envelope.value().limit;
  }
  if (const auto key = message.header(kKey); !key.empty()) {
    auto plain = unescaped(key);
    if (!plain) return unreadable(std::string("header ") + kKey + " is \"" + one_line(key) + "\"");
    r.key = std::move(*plain);
  }
  r.deadline = now + limit;
  if (message.headers.size() > (message.header(kEnvelope).empty() ? 0U : 1U))
    r.headers = without_ours(message.headers);
  return r;
}

nats::Message call_answer(std::string payload, CallHeaders headers, const std::string& node,
                          std::uint64_t epoch) {
  nats::Message message;
  message.data = std::move(payload);
  message.headers = std::move(headers);
  message.headers.emplace_back(kReply, epoch == 0 ? node : node + " " + std::to_string(epoch));
  return message;
}

nats::Message call_failure(const std::string& name, const std::string& text, bool ran,
                           const std::string& node, std::uint64_t epoch) {
  nats::Message message = call_answer({}, {}, node, epoch);
  message.headers.emplace_back(kError, name + (ran ? " ran" : " not-run"));
  message.headers.emplace_back(kServiceCode, std::to_string(service_code(errc_from(name))));
  message.headers.emplace_back(kServiceText, one_line(text));
  return message;
}

ReadAnswer read_answer(nats::Message message, const std::string& what) {
  ReadAnswer answer;
  const auto from = split(message.header(kReply), ' ');
  answer.reply.node = from[0];
  if (from.size() > 1 && !read(from[1], answer.reply.epoch)) answer.reply.epoch = 0;
  const auto error = split(message.header(kError), ' ');
  const auto code = message.header(kServiceCode);
  if (!error[0].empty() || !code.empty()) {
    std::string name = error[0].empty() ? "handler_failed" : std::string(error[0]);
    answer.ran = error.size() < 2 || error[1] != "not-run";
    std::string text = what;
    if (!answer.reply.node.empty()) text += ": node \"" + answer.reply.node + "\" answers";
    text += ": " + std::string(message.header(kServiceText)) + " (" + name + ")";
    const Errc errc = errc_from(name);
    answer.error.emplace(errc, std::move(name), text, answer.reply.node);
    return answer;
  }
  answer.reply.payload = std::move(message.data);
  if (message.headers.size() > 1) answer.reply.headers = without_ours(std::move(message.headers));
  return answer;
}

std::string escaped_header(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > ' ' && byte < 0x7f && c != '%') {
      out += c;
    } else {
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

Errc errc_from(std::string_view name) {
  for (int value = 1; value <= static_cast<int>(Errc::call_failed); ++value)
    if (make_error_code(static_cast<Errc>(value)).message() == name)
      return static_cast<Errc>(value);
  return Errc::call_failed;
}

}  // namespace cluster
