#include "nats/object_info.h"

#include <array>
#include <limits>

#include <openssl/evp.h>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;

std::string text(const Json& object, const char* name) {
  auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// 0 when it is absent; nothing when it is no number of this type.
template <typename T>
std::optional<T> number(const Json& object, const char* name) {
  auto it = object.find(name);
  if (it == object.end()) return 0;
  if (!it->is_number_unsigned()) return std::nullopt;
  auto value = it->get<std::uint64_t>();
  if (value > std::numeric_limits<T>::max()) return std::nullopt;
  return static_cast<T>(value);
}

std::vector<Header> headers_from(const Json& object) {
  std::vector<Header> headers;
  auto it = object.find("headers");
  if (it == object.end() || !it->is_object()) return headers;
  for (const auto& [key, values] : it->items()) {
    if (!values.is_array()) continue;
    for (const auto& value : values)
      if (value.is_string()) headers.emplace_back(key, value.get<std::string>());
  }
  return headers;
}

// Only these become part of a subject.
bool can_be_nuid(const std::string& nuid) {
  return !nuid.empty() && nuid.size() <= 256 &&
         nuid.find_first_of(" .*>\t\r\n") == std::string::npos &&
         nuid.find('\0') == std::string::npos;
}

}  // namespace

std::string to_json(const std::string& bucket, const ObjectInfo& info) {
  if (info.name.empty()) throw Error(Errc::invalid_argument, "an object's name can't be empty");
  if (info.name.size() > kLongestObjectName)
    throw Error(Errc::invalid_argument,
                "an object's name of " + std::to_string(info.name.size()) +
                    " bytes is too long: " + std::to_string(kLongestObjectName) + " are allowed");
  Json json = {{"name", info.name},
               {"bucket", bucket},
               {"nuid", info.nuid},
               {"size", info.size},
               {"chunks", info.chunks}};
  if (!info.description.empty()) json["description"] = info.description;
  for (const auto& [key, value] : info.headers) json["headers"][key].push_back(value);
  if (info.chunk_size != 0) json["options"] = {{"max_chunk_size", info.chunk_size}};
  if (!info.digest.empty()) json["digest"] = info.digest;
  if (info.deleted) json["deleted"] = true;
  try {
    return json.dump();
  } catch (const Json::exception&) {
    throw Error(Errc::invalid_argument,
                "the name, the description or a header of an object is not UTF-8");
  }
}

Result<ObjectInfo> object_info_from(const std::string& json, std::int64_t mtime_ns) {
  auto broken = [](const char* what) {
    return Error(Errc::corrupt, std::string("an object's metadata ") + what);
  };
  auto object = Json::parse(json, nullptr, false);
  if (!object.is_object()) return broken("is no JSON object");
  ObjectInfo info;
  info.name = text(object, "name");
  info.description = text(object, "description");
  info.headers = headers_from(object);
  info.nuid = text(object, "nuid");
  info.digest = text(object, "digest");
  info.mtime_ns = mtime_ns;
  auto deleted = object.find("deleted");
  info.deleted = deleted != object.end() && deleted->is_boolean() && deleted->get<bool>();
  auto size = number<std::uint64_t>(object, "size");
  auto chunks = number<std::uint32_t>(object, "chunks");
  if (info.name.empty()) return broken("has no name");
  if (!can_be_nuid(info.nuid)) return broken("has no nuid");
  if (!size || !chunks) return broken("has a size or a number of chunks that can't be");
  info.size = *size;
  info.chunks = *chunks;
  if (auto options = object.find("options"); options != object.end() && options->is_object()) {
    info.chunk_size = number<std::uint32_t>(*options, "max_chunk_size").value_or(0);
    if (auto link = options->find("link"); link != options->end() && link->is_object()) {
      info.link = text(*link, "bucket");
      if (auto to = text(*link, "name"); !to.empty()) info.link += "/" + to;
    }
  }
  return info;
}

std::string object_stream(const std::string& bucket) { return "OBJ_" + bucket; }

std::string object_meta_subject(const std::string& bucket, const std::string& name) {
  return "$O." + bucket + ".M." + (name.empty() ? ">" : to_base64url(name));
}

std::string object_chunk_subject(const std::string& bucket, const std::string& nuid) {
  return "$O." + bucket + ".C." + (nuid.empty() ? ">" : nuid);
}

std::string to_base64url(std::string_view bytes) {
  static constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    auto rest = std::min<std::size_t>(3, bytes.size() - i);
    unsigned group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < rest ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j)
      out += j <= rest ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

struct ObjectDigest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

ObjectDigest::ObjectDigest() : state_(std::make_unique<State>()) {
  if (!state_->context || EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1)
    throw Error(Errc::system, "libcrypto gives no SHA-256");
}

ObjectDigest::~ObjectDigest() = default;

void ObjectDigest::add(std::string_view bytes) {
  CLUSTER_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string ObjectDigest::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
  unsigned size = 0;
  CLUSTER_CHECK(EVP_DigestFinal_ex(state_->context, sum.data(), &size) == 1);
  return "SHA-256=" + to_base64url({reinterpret_cast<const char*>(sum.data()), size});
}

bool same_digest(std::string_view a, std::string_view b) {
  auto bare = [](std::string_view digest) {
    while (!digest.empty() && digest.back() == '=') digest.remove_suffix(1);
    return digest;
  };
  return bare(a) == bare(b);
}

}  // namespace cluster::nats
