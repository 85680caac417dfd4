#include "nats/server_url.h"

#include <charconv>

#include <arpa/inet.h>

namespace cluster::nats {
namespace {

Error bad_url(const std::string& url, const std::string& why) {
  return Error(Errc::invalid_argument, "\"" + url + "\" is no NATS URL (" + why +
                                           "); write nats://host:4222 or tls://host:4222");
}

std::string trimmed(const std::string& text) {
  auto first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// What may be shown of a URL that might hold a password.
std::string without_user(const std::string& url) {
  auto at = url.rfind('@');
  if (at == std::string::npos) return url;
  auto scheme = url.find("://");
  return (scheme == std::string::npos ? "" : url.substr(0, scheme + 3)) + "***" + url.substr(at);
}

}  // namespace

bool ServerUrl::host_is_address() const {
  unsigned char buffer[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), buffer) == 1 ||
         inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

std::string ServerUrl::text() const {
  std::string place = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return (tls ? "tls://" : "nats://") + place + ":" + std::to_string(port);
}

std::string ServerUrl::full_text() const {
  if (user.empty()) return text();
  std::string place = text();
  std::string who = password.empty() ? user : user + ":" + password;
  return place.insert(place.find("://") + 3, who + "@");
}

Result<ServerUrl> parse_server_url(const std::string& given) {
  std::string text = trimmed(given);
  std::string shown = without_user(text);
  ServerUrl url;
  if (auto scheme = text.find("://"); scheme != std::string::npos) {
    std::string name = text.substr(0, scheme);
    if (name != "nats" && name != "tls") return bad_url(shown, "its scheme is \"" + name + "\"");
    url.tls = name == "tls";
    text.erase(0, scheme + 3);
  }
  if (auto at = text.rfind('@'); at != std::string::npos) {
    std::string who = text.substr(0, at);
    auto colon = who.find(':');
    url.user = who.substr(0, colon);
    if (colon != std::string::npos) url.password = who.substr(colon + 1);
    text.erase(0, at + 1);
  }
  while (!text.empty() && text.back() == '/') text.pop_back();
  std::string port;
  if (!text.empty() && text.front() == '[') {
    auto end = text.find(']');
    if (end == std::string::npos) return bad_url(shown, "the bracket is not closed");
    url.host = text.substr(1, end - 1);
    if (end + 1 < text.size()) {
      if (text[end + 1] != ':') return bad_url(shown, "behind the bracket comes no port");
      port = text.substr(end + 2);
      if (port.empty()) return bad_url(shown, "the port is missing");
    }
    if (!url.host_is_address()) return bad_url(shown, "in the brackets is no IPv6 address");
  } else {
    auto colon = text.find(':');
    url.host = text.substr(0, colon);
    if (colon != std::string::npos) {
      port = text.substr(colon + 1);
      if (port.empty()) return bad_url(shown, "the port is missing");
      if (port.find(':') != std::string::npos)
        return bad_url(shown, "an IPv6 address needs brackets");
    }
  }
  if (url.host.empty()) return bad_url(shown, "the host is missing");
  if (url.host.find_first_of("/?# \t") != std::string::npos)
    return bad_url(shown, "no path can follow the host");
  if (!port.empty()) {
    auto [end, fault] = std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (fault != std::errc{} || end != port.data() + port.size() || url.port < 1 ||
        url.port > 65'535)
      return bad_url(shown, "its port is not 1 to 65535");
  }
  return url;
}

Result<std::vector<ServerUrl>> parse_server_urls(const std::vector<std::string>& texts) {
  std::vector<ServerUrl> urls;
  std::string faults;
  auto add = [&](const std::string& text) {
    auto url = parse_server_url(text);
    if (url) {
      urls.push_back(std::move(url.value()));
    } else {
      faults += (faults.empty() ? "" : "; ") + std::string(url.error().what());
    }
  };
  for (const auto& text : texts) {
    std::size_t begin = 0;
    while (true) {
      auto comma = text.find(',', begin);
      add(text.substr(begin, comma - begin));
      if (comma == std::string::npos) break;
      begin = comma + 1;
    }
  }
  if (urls.empty() && faults.empty())
    faults = "no NATS server is given; set nats.servers, for example to nats://localhost:4222";
  if (!faults.empty()) return Error(Errc::invalid_argument, faults);
  return urls;
}

}  // namespace cluster::nats
