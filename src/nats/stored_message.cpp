#include "nats/stored_message.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <vector>

#include <nlohmann/json.hpp>

namespace cluster::nats {
namespace {

template <typename T>
bool number_from(std::string_view text, T& value) {
  auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  return fault == std::errc{} && end == text.data() + text.size();
}

// "NATS/1.0\r\nKey: value\r\n…\r\n\r\n"
std::vector<Header> headers_in(std::string_view block) {
  std::vector<Header> headers;
  std::size_t begin = block.find("\r\n");
  while (begin != std::string_view::npos) {
    begin += 2;
    auto end = block.find("\r\n", begin);
    auto line = block.substr(begin, end == std::string_view::npos ? end : end - begin);
    if (auto colon = line.find(':'); colon != std::string_view::npos) {
      auto value = line.substr(colon + 1);
      while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
      headers.emplace_back(line.substr(0, colon), value);
    }
    begin = end;
  }
  return headers;
}

}  // namespace

std::optional<DeliveryPlace> delivery_place_from(std::string_view reply) {
  std::vector<std::string_view> tokens;
  std::size_t begin = 0;
  while (true) {
    auto dot = reply.find('.', begin);
    tokens.push_back(reply.substr(begin, dot == std::string_view::npos ? dot : dot - begin));
    if (dot == std::string_view::npos) break;
    begin = dot + 1;
  }
  // $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>, or with
  // domain and account before the stream, and possibly more behind.
  if (tokens.size() < 9 || tokens.size() == 10 || tokens[0] != "$JS" || tokens[1] != "ACK")
    return std::nullopt;
  const std::size_t first = tokens.size() == 9 ? 5 : 7;
  DeliveryPlace place;
  if (!number_from(tokens[first], place.stream_sequence) ||
      !number_from(tokens[first + 1], place.consumer_sequence) ||
      !number_from(tokens[first + 2], place.time_ns) ||
      !number_from(tokens[first + 3], place.pending) ||
      !number_from(tokens[first - 1], place.deliveries))
    return std::nullopt;
  return place;
}

Result<StoredMessage> stored_message_from(const std::string& json) {
  const Error broken(Errc::corrupt, "JetStream's answer holds no message");
  auto m = nlohmann::json::parse(json, nullptr, false);
  if (!m.is_object()) return broken;
  auto text = [&](const char* name) {
    auto it = m.find(name);
    return it != m.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  StoredMessage message;
  message.subject = text("subject");
  auto sequence = m.find("seq");
  if (message.subject.empty() || sequence == m.end() || !sequence->is_number_unsigned())
    return broken;
  message.sequence = sequence->get<std::uint64_t>();
  auto data = from_base64(text("data"));
  auto headers = from_base64(text("hdrs"));
  if (!data || !headers) return broken;
  message.data = std::move(*data);
  message.headers = headers_in(*headers);
  message.time_ns = time_ns_from(text("time")).value_or(0);
  return message;
}

std::optional<std::int64_t> time_ns_from(std::string_view t) {
  // 2024-05-01T12:34:56[.123456789]Z
  int year = 0;
  unsigned month = 0, day = 0;
  int hour = 0, minute = 0, second = 0;
  if (t.size() < 20 || t[4] != '-' || t[7] != '-' || t[10] != 'T' || t[13] != ':' || t[16] != ':' ||
      t.back() != 'Z')
    return std::nullopt;
  if (!number_from(t.substr(0, 4), year) || !number_from(t.substr(5, 2), month) ||
      !number_from(t.substr(8, 2), day) || !number_from(t.substr(11, 2), hour) ||
      !number_from(t.substr(14, 2), minute) || !number_from(t.substr(17, 2), second))
    return std::nullopt;
  std::int64_t fraction = 0;
  auto rest = t.substr(19, t.size() - 20);
  if (!rest.empty()) {
    if (rest.front() != '.' || rest.size() < 2 || rest.size() > 10) return std::nullopt;
    rest.remove_prefix(1);
    if (!number_from(rest, fraction) || fraction < 0) return std::nullopt;
    for (auto digits = rest.size(); digits < 9; ++digits) fraction *= 10;
  }
  using namespace std::chrono;
  year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
  if (!date.ok() || hour > 23 || minute > 59 || second > 60) return std::nullopt;
  auto seconds = duration_cast<std::chrono::seconds>(sys_days(date).time_since_epoch()).count() +
                 hour * 3600 + minute * 60 + second;
  constexpr std::int64_t kGiga = 1'000'000'000;
  if (seconds > INT64_MAX / kGiga - 1 || seconds < INT64_MIN / kGiga + 1) return std::nullopt;
  return seconds * kGiga + fraction;
}

std::string rfc3339_from(std::int64_t time_ns) {
  constexpr std::int64_t kGiga = 1'000'000'000;
  std::time_t seconds = time_ns / kGiga;
  auto fraction = time_ns % kGiga;
  if (fraction < 0) {
    fraction += kGiga;
    --seconds;
  }
  std::tm tm{};
  gmtime_r(&seconds, &tm);
  std::array<char, 32> buffer{};
  std::string text(buffer.data(),
                   std::strftime(buffer.data(), buffer.size(), "%Y-%m-%dT%H:%M:%S", &tm));
  if (fraction != 0) {
    std::string digits = std::to_string(fraction);
    digits.insert(0, 9 - digits.size(), '0');
    digits.erase(digits.find_last_not_of('0') + 1);
    text += "." + digits;
  }
  return text + "Z";
}

std::optional<std::string> from_base64(std::string_view text) {
  static constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const auto kValues = [] {
    std::array<signed char, 256> values{};
    values.fill(-1);
    for (std::size_t i = 0; i < kAlphabet.size(); ++i)
      values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<signed char>(i);
    return values;
  }();
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  if (text.size() % 4 == 1) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  unsigned buffer = 0;
  int bits = 0;
  for (char c : text) {
    int value = kValues[static_cast<unsigned char>(c)];
    if (value < 0) return std::nullopt;
    buffer = (buffer << 6 | static_cast<unsigned>(value)) & 0xffffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>(buffer >> bits & 0xff);
    }
  }
  return bytes;
}

}  // namespace cluster::nats
