// The URL of a NATS server, taken apart and checked. Pure.
#pragma once

#include <string>
#include <vector>

#include "core/result.h"

namespace cluster::nats {

struct ServerUrl {
  bool tls = false;    ///< tls://
  std::string host{};  ///< without the brackets of an IPv6 address
  int port = 4222;
  std::string user{};  ///< as in the URL (or, without password, a token)
  std::string password{};
  /// Expected in the certificate of a server that others told us about by its address.
  std::string tls_name{};

  bool host_is_address() const;  ///< an IPv4 or IPv6 address, not a name
  std::string text() const;  ///< scheme://host:port, without user and password: for people and logs
  std::string full_text() const;
  bool same_place(const ServerUrl& other) const { return host == other.host && port == other.port; }
};

/// Understands `nats://` and `tls://`, and a bare `host` or `host:port` as nats://.
Result<ServerUrl> parse_server_url(const std::string& text);
/// Each entry may itself be a list with commas. All faults at once.
Result<std::vector<ServerUrl>> parse_server_urls(const std::vector<std::string>& texts);

}  // namespace cluster::nats
