// What an object store says of an object, and how it stands on the wire: names, subjects, digests,
// metadata as JSON (ADR-20 of nats-architecture-and-design). Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "nats/message.h"

namespace cluster::nats {

constexpr std::uint32_t kDefaultChunkSize = 128 * 1024;
constexpr std::size_t kLongestObjectName = 1024;  // bytes: its subject must fit a control line

struct ObjectInfo {
  std::string name{};
  std::string description{};
  std::vector<Header> headers{};
  std::string nuid{};      ///< names the chunks; another one for each put
  std::uint64_t size = 0;  ///< bytes
  std::uint32_t chunks = 0;
  std::uint32_t chunk_size = 0;  ///< bytes of the largest one; 0: not told
  std::string digest{};          ///< `SHA-256=` and base64url; empty of a deleted object
  bool deleted = false;
  /// `bucket` or `bucket/name`: this is no object but a link to that. Made by other clients only.
  std::string link{};
  std::int64_t mtime_ns = 0;  ///< wall time of the put, since 1970; never part of the JSON
};

/// Throws Error{invalid_argument} when the name or a text of `info` can't be one: an empty or too
/// long name, or no UTF-8.
std::string to_json(const std::string& bucket, const ObjectInfo& info);
/// Error{corrupt} for what describes no object.
Result<ObjectInfo> object_info_from(const std::string& json, std::int64_t mtime_ns);

std::string object_stream(const std::string& bucket);
/// Of the metadata; `name` empty: the pattern for all objects'.
std::string object_meta_subject(const std::string& bucket, const std::string& name = {});
/// Of the chunks; `nuid` empty: the pattern for all objects'.
std::string object_chunk_subject(const std::string& bucket, const std::string& nuid = {});

/// Base64 with - and _, padded.
std::string to_base64url(std::string_view bytes);

/// SHA-256 of bytes that come in pieces.
class ObjectDigest {
 public:
  ObjectDigest();
  ~ObjectDigest();
  ObjectDigest(const ObjectDigest&) = delete;
  ObjectDigest& operator=(const ObjectDigest&) = delete;

  void add(std::string_view bytes);
  /// As ObjectInfo::digest; once, and nothing may be added afterwards.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The same digest, however it is padded?
bool same_digest(std::string_view a, std::string_view b);

}  // namespace cluster::nats
