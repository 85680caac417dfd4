#include "nats/credentials.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

#include <openssl/evp.h>

namespace cluster::nats {
namespace {

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
constexpr std::uint8_t kSeedPrefix = 18 << 3;  // "S"
constexpr std::uint8_t kUserPrefix = 20 << 3;  // "U"

std::uint16_t crc16(const std::vector<std::uint8_t>& bytes, std::size_t size) {
  unsigned crc = 0;
  for (std::size_t i = 0; i < size; ++i) {
    crc ^= static_cast<unsigned>(bytes[i]) << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1;
  }
  return static_cast<std::uint16_t>(crc);
}

std::vector<std::uint8_t> from_base32(const std::string& text) {
  std::vector<std::uint8_t> bytes;
  unsigned buffer = 0;
  int bits = 0;
  for (char c : text) {
    const char* at = c ? std::strchr(kAlphabet, c) : nullptr;
    if (!at) return {};
    buffer = (buffer << 5) | static_cast<unsigned>(at - kAlphabet);
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<std::uint8_t>(buffer >> bits));
      buffer &= (1u << bits) - 1;
    }
  }
  return bytes;
}

std::string to_base32(const std::vector<std::uint8_t>& bytes) {
  std::string text;
  unsigned buffer = 0;
  int bits = 0;
  for (auto byte : bytes) {
    buffer = (buffer << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += kAlphabet[(buffer >> bits) & 31];
    }
    buffer &= (1u << bits) - 1;
  }
  if (bits > 0) text += kAlphabet[(buffer << (5 - bits)) & 31];
  return text;
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file)
    return Error(Errc::invalid_argument, "\"" + path + "\" can't be read: " + std::strerror(errno));
  return text.str();
}

}  // namespace

Result<std::string> public_nkey_of_seed(const std::string& seed) {
  const Error no_seed(Errc::invalid_argument,
                      "this is no NKey seed of a user (58 characters that begin with SU)");
  auto bytes = from_base32(seed);
  if (bytes.size() != 36) return no_seed;
  auto sum = static_cast<std::uint16_t>(bytes[34] | bytes[35] << 8);
  if (sum != crc16(bytes, 34))
    return Error(Errc::invalid_argument, "the NKey seed is damaged: its checksum is wrong");
  if ((bytes[0] & 0xf8) != kSeedPrefix) return no_seed;
  auto kind = static_cast<std::uint8_t>((bytes[0] & 7) << 5 | (bytes[1] & 0xf8) >> 3);
  if (kind != kUserPrefix) return no_seed;

  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, bytes.data() + 2, 32), EVP_PKEY_free);
  std::vector<std::uint8_t> out(33);
  out[0] = kUserPrefix;
  std::size_t size = 32;
  if (!key || EVP_PKEY_get_raw_public_key(key.get(), out.data() + 1, &size) != 1 || size != 32)
    return Error(Errc::invalid_argument, "OpenSSL can't use the NKey seed");
  auto crc = crc16(out, out.size());
  out.push_back(static_cast<std::uint8_t>(crc & 0xff));
  out.push_back(static_cast<std::uint8_t>(crc >> 8));
  return to_base32(out);
}

Result<std::string> public_nkey_of_seed_file(const std::string& path) {
  auto text = read_file(path);
  if (!text)
    return Error(Errc::invalid_argument,
                 "nats.nkey_seed_file: " + std::string(text.error().what()));
  std::istringstream lines(text.value());
  std::string line;
  while (std::getline(lines, line)) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
    if (line.rfind("SU", 0) != 0) continue;
    auto key = public_nkey_of_seed(line);
    if (!key)
      return Error(Errc::invalid_argument,
                   "nats.nkey_seed_file: \"" + path + "\": " + key.error().what());
    return key;
  }
  return Error(Errc::invalid_argument,
               "nats.nkey_seed_file: \"" + path + "\" holds no NKey seed of a user (SU…)");
}

Failure check_credentials(const Nats& nats) {
  std::string faults;
  auto fault = [&](const std::string& text) { faults += (faults.empty() ? "" : "; ") + text; };
  auto readable = [&](const std::string& what, const std::string& path) {
    if (path.empty()) return;
    if (auto text = read_file(path); !text) fault(what + ": " + text.error().what());
  };
  int ways = !nats.creds_file.empty() + !nats.nkey_seed_file.empty() + !nats.user.empty() +
             !nats.token.empty();
  if (ways > 1) fault("nats: give at most one of creds_file, nkey_seed_file, user and token");
  if (nats.user.empty() && !nats.password.empty()) fault("nats.password: is given without a user");
  if (!nats.creds_file.empty()) {
    auto text = read_file(nats.creds_file);
    if (!text) {
      fault("nats.creds_file: " + std::string(text.error().what()));
    } else if (text.value().find("BEGIN NATS USER JWT") == std::string::npos ||
               text.value().find("BEGIN USER NKEY SEED") == std::string::npos) {
      fault("nats.creds_file: \"" + nats.creds_file +
            "\" holds no user JWT and NKey seed, as `nsc generate creds` writes them");
    }
  }
  if (!nats.nkey_seed_file.empty()) {
    if (auto key = public_nkey_of_seed_file(nats.nkey_seed_file); !key) fault(key.error().what());
  }
  readable("nats.tls.ca_file", nats.tls.ca_file);
  readable("nats.tls.cert_file", nats.tls.cert_file);
  readable("nats.tls.key_file", nats.tls.key_file);
  if (nats.tls.cert_file.empty() != nats.tls.key_file.empty())
    fault("nats.tls: cert_file and key_file belong together");
  if (faults.empty()) return std::nullopt;
  return Error(Errc::invalid_argument, faults);
}

}  // namespace cluster::nats
