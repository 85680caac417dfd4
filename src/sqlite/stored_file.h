// What an object of a snapshot bucket is, by its name and headers (docs/formats.md, "The snapshot
// bucket"): an LTX file, named and laid out as Litestream 0.5 does it. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nats/object_info.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

constexpr int kSnapshotLevel = 9;
constexpr int kHighestMergedLevel = 8;

/// Where a file ends in the WAL stream, so that a reader can go on there.
struct StreamEnd {
  std::uint64_t history = 0;   ///< which stream it is (position_log.h)
  std::uint64_t epoch = 0;     ///< under which its last transaction was committed
  std::uint64_t sequence = 0;  ///< of the record that ends with it
  std::uint64_t hash = 0;      ///< of the database then
  bool operator==(const StreamEnd&) const = default;
};

struct StoredFile {
  int level = 0;  ///< 1 to 8: merged; 9: a snapshot
  Txid min = 0, max = 0;
  std::int64_t time_ns = 0;  ///< effective time of the record at `end` (record_time.h), since 1970
  StreamEnd end{};
  std::uint64_t size = 0;   ///< bytes of the object
  std::int64_t led_ms = 0;  ///< for how long the database had been led then (plan_clocks.h)

  bool snapshot() const noexcept { return level == kSnapshotLevel; }
  std::string name() const;
  bool operator==(const StoredFile&) const = default;
};

/// An object that is no file of ours: left alone.
struct ForeignObject {
  std::string name{};
  std::string why{};
  std::uint64_t size = 0;
};

/// The object that says for how long the database was led while nothing else was written.
constexpr const char* kLedObject = "cpp-cluster/led";
/// Its header.
std::vector<nats::Header> headers_of_led(std::int64_t led_ms);

/// `ltx/<level>/<min>-<max>.ltx`
std::string stored_name(int level, Txid min, Txid max);
/// Litestream's header and ours.
std::vector<nats::Header> headers_of(const StoredFile& file);

struct StoreListing {
  std::vector<StoredFile> files{};  ///< by level, then by min and max
  std::vector<ForeignObject> foreign{};
  std::int64_t led_ms = 0;     ///< the longest time led that an object of ours says
  std::int64_t led_noted = 0;  ///< what the object says that has nothing else
};
/// By the files and that object, as they are now.
std::int64_t longest_led(const StoreListing& listing);
/// `bucket_bytes`: what the bucket takes, all in all; nothing in it is larger.
StoreListing listing_of(const std::vector<nats::ObjectInfo>& objects,
                        std::uint64_t bucket_bytes = UINT64_MAX);

}  // namespace cluster::sqlite
