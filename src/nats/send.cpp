#include "nats/send.h"

#include <algorithm>
#include <cstdlib>

#include "nats/spent_messages.h"

namespace cluster::nats {

bool subject_fits(const std::string& subject) {
  return !subject.empty() && std::none_of(subject.begin(), subject.end(), [](char c) {
    return static_cast<unsigned char>(c) <= ' ' || c == 0x7f;
  });
}

// Why the message can't be sent at all; empty when it can.
std::string message_fault(const Message& message, std::int64_t max_payload) {
  if (!subject_fits(message.subject)) return "\"" + message.subject + "\" is no subject";
  if (!message.reply.empty() && !subject_fits(message.reply))
    return "the reply subject \"" + message.reply + "\" is no subject";
  std::size_t size = message.payload().size();
  if (!message.headers.empty()) size += sizeof "NATS/1.0\r\n\r\n" - 1;
  for (const auto& [key, value] : message.headers) {
    size += key.size() + value.size() + 4;
    auto bad = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; };
    if (key.empty() || key.find_first_of(": ") != std::string::npos ||
        std::any_of(key.begin(), key.end(), bad) || std::any_of(value.begin(), value.end(), bad))
      return "header \"" + key + "\" has characters that a header can't have";
  }
  if (max_payload > 0 && size > static_cast<std::size_t>(max_payload))
    return "a message of " + std::to_string(size) + " bytes to \"" + message.subject +
           "\" is over the server's max_payload of " + std::to_string(max_payload) +
           ": raise max_payload in nats-server's configuration";
  return {};
}

natsStatus send(natsConnection* nc, const Message& message) {
  const char* reply = message.reply.empty() ? nullptr : message.reply.c_str();
  const std::string& data = message.payload();
  const int size = static_cast<int>(data.size());
  if (message.headers.empty()) {
    if (!reply) return natsConnection_Publish(nc, message.subject.c_str(), data.data(), size);
    return natsConnection_PublishRequest(nc, message.subject.c_str(), reply, data.data(), size);
  }
  natsMsg* m = nullptr;
  natsStatus s = natsMsg_Create(&m, message.subject.c_str(), reply, data.data(), size);
  for (const auto& [key, value] : message.headers)
    if (s == NATS_OK) s = natsMsgHeader_Add(m, key.c_str(), value.c_str());
  if (s == NATS_OK) s = natsConnection_PublishMsg(nc, m);
  let_go(m);
  return s;
}

std::string token_of(std::uint64_t id) {
  std::string token;
  for (; id != 0; id /= 36) token += "0123456789abcdefghijklmnopqrstuvwxyz"[id % 36];
  std::reverse(token.begin(), token.end());
  return token;
}

std::uint64_t id_from_subject(const std::string& subject) {
  return std::strtoull(subject.c_str() + subject.rfind('.') + 1, nullptr, 36);
}

}  // namespace cluster::nats
