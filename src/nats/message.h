// A NATS message as a value.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cluster::nats {

using Header = std::pair<std::string, std::string>;

struct Message {
  std::string subject{};
  std::string data{};
  std::string reply{};  ///< where an answer goes; empty: none is wanted
  std::vector<Header> headers{};
  /// To be sent instead of `data`: bytes that their owner keeps too, and that are many.
  std::shared_ptr<const std::string> shared{};
  /// Of a message the server made itself (100, 404, 408, 503, …); else 0
  int status = 0;

  /// What is sent.
  const std::string& payload() const noexcept { return shared ? *shared : data; }
  /// The first value of that header, compared as written; empty when there is none.
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers)
      if (key == name) return value;
    return {};
  }
};

}  // namespace cluster::nats
