#include "sqlite/stored_file.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>

#include "core/number_text.h"
#include "nats/stored_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::string_view kTime = "Litestream-Timestamp";
constexpr std::string_view kHistory = "Cpp-Cluster-History";
constexpr std::string_view kEpoch = "Cpp-Cluster-Epoch";
constexpr std::string_view kSequence = "Cpp-Cluster-Sequence";
constexpr std::string_view kHash = "Cpp-Cluster-Hash";
constexpr std::string_view kLed = "Cpp-Cluster-Led";

constexpr std::int64_t kLongestLed =
    1'000'000'000'000'000;  // ms: 30,000 years; sums don't overflow

// No database has so many transactions, records or leads; nothing here overflows below that.
constexpr std::uint64_t kMostNumber = std::uint64_t{1} << 62;
constexpr std::uint64_t kLeastSize = 131;  // bytes of an LTX file without a page
// The clocks of the node that has written an object and of JetStream may differ.
constexpr std::int64_t kClocksDiffer_ns = std::int64_t{24} * 3'600 * 1'000'000'000;

// 16 lower-case digits, as stored_name() writes them.
std::optional<std::uint64_t> sixteen_digits(std::string_view text) {
  const auto value = text.size() == 16 ? number_from(text, 16) : std::nullopt;
  return value && hex(*value) == text ? value : std::nullopt;
}

std::optional<std::int64_t> led_from(std::string_view text) {
  const auto ms = number_from(text, 10);
  if (!ms || *ms > kLongestLed) return std::nullopt;
  return static_cast<std::int64_t>(*ms);
}

struct Place {
  int level = 0;
  Txid min = 0, max = 0;
};

std::optional<Place> place_of(std::string_view name) {
  constexpr std::string_view kFolder = "ltx/", kSuffix = ".ltx";
  if (name.size() != kFolder.size() + 2 + 16 + 1 + 16 + kSuffix.size() ||
      !name.starts_with(kFolder) || !name.ends_with(kSuffix) || name[5] != '/' || name[22] != '-')
    return std::nullopt;
  const char level = name[4];
  const auto min = sixteen_digits(name.substr(6, 16)), max = sixteen_digits(name.substr(23, 16));
  if (level < '1' || level > '9' || !min || !max || *min == 0 || *min > *max) return std::nullopt;
  const Place place{level - '0', *min, *max};
  if (place.level == kSnapshotLevel && place.min != 1) return std::nullopt;
  return place;
}

std::string_view find(const nats::ObjectInfo& object, std::string_view name) {
  for (const auto& [key, value] : object.headers)
    if (key == name) return value;
  return {};
}

// Nobody has led since before 1970.
bool may_have_led(const nats::ObjectInfo& object, std::int64_t led_ms) {
  return object.mtime_ns <= 0 || led_ms <= object.mtime_ns / 1'000'000;
}

// Sizes and times that can't be; or nothing.
std::string impossible(const nats::ObjectInfo& object, std::int64_t time_ns, std::int64_t led_ms,
                       std::uint64_t bucket_bytes) {
  const std::string bytes = "what it claims can't be: " + std::to_string(object.size) + " bytes";
  if (object.size < kLeastSize) return bytes + " are too few for an LTX file";
  if (object.size > bucket_bytes) return bytes + " in a bucket of " + std::to_string(bucket_bytes);
  const std::uint64_t most = std::uint64_t{object.chunks} * object.chunk_size;
  if (object.chunks > object.size || (object.chunk_size > 0 && object.size > most))
    return bytes + " in " + std::to_string(object.chunks) + " chunks";
  if (time_ns < 0) return "what it claims can't be: a time before 1970";
  if (object.mtime_ns > 0 && time_ns - kClocksDiffer_ns > object.mtime_ns)
    return "what it claims can't be: a time after it was stored";
  if (!may_have_led(object, led_ms))
    return "what it claims can't be: led for " + std::to_string(led_ms) + " ms";
  return {};
}

// Why it is no file of ours, or nothing.
std::string read(const nats::ObjectInfo& object, std::uint64_t bucket_bytes, StoredFile& file) {
  if (!object.link.empty()) return "a link";
  const auto place = place_of(object.name);
  if (!place) return "its name is not that of a snapshot or merged file";
  const auto history = find(object, kHistory);
  if (history.empty()) return "not written by cpp-cluster";
  const auto led = find(object, kLed);
  if (led.empty())
    return "written by an earlier build, by its own machine's clock: remove it when newer "
           "snapshots "
           "are there";
  const auto malformed = [](std::string_view header, std::string_view value) {
    return "header " + std::string(header) + " is \"" + std::string(value) + "\"";
  };
  const auto time = find(object, kTime), epoch = find(object, kEpoch);
  const auto sequence = find(object, kSequence), content = find(object, kHash);
  const auto t = nats::time_ns_from(time);
  const auto h = sixteen_digits(history), c = sixteen_digits(content);
  const auto e = number_from(epoch, 10), s = number_from(sequence, 10);
  if (!t) return malformed(kTime, time);
  if (!h || *h == 0) return malformed(kHistory, history);
  if (!e || *e == 0 || *e > kMostNumber) return malformed(kEpoch, epoch);
  if (!s || *s == 0 || *s > kMostNumber) return malformed(kSequence, sequence);
  if (!c || *c == 0) return malformed(kHash, content);
  const auto l = led_from(led);
  if (!l) return malformed(kLed, led);
  if (place->max > kMostNumber)
    return "what it claims can't be: transaction " + std::to_string(place->max);
  if (auto why = impossible(object, *t, *l, bucket_bytes); !why.empty()) return why;
  file = {place->level, place->min, place->max, *t, {*h, *e, *s, *c}, object.size, *l};
  return {};
}

}  // namespace

std::string stored_name(int level, Txid min, Txid max) {
  return "ltx/" + std::to_string(level) + "/" + hex(min) + "-" + hex(max) + ".ltx";
}

std::string StoredFile::name() const { return stored_name(level, min, max); }

std::vector<nats::Header> headers_of_led(std::int64_t led_ms) {
  return {{std::string(kLed), std::to_string(std::min(led_ms, kLongestLed))}};
}

std::vector<nats::Header> headers_of(const StoredFile& file) {
  return {{std::string(kTime), nats::rfc3339_from(file.time_ns)},
          {std::string(kHistory), hex(file.end.history)},
          {std::string(kEpoch), std::to_string(file.end.epoch)},
          {std::string(kSequence), std::to_string(file.end.sequence)},
          {std::string(kHash), hex(file.end.hash)},
          headers_of_led(file.led_ms).front()};
}

std::int64_t longest_led(const StoreListing& listing) {
  std::int64_t longest = listing.led_noted;
  for (const auto& file : listing.files) longest = std::max(longest, file.led_ms);
  return longest;
}

StoreListing listing_of(const std::vector<nats::ObjectInfo>& objects, std::uint64_t bucket_bytes) {
  StoreListing listing;
  for (const auto& object : objects) {
    if (object.deleted) continue;
    if (object.name == kLedObject) {
      const auto noted = led_from(find(object, kLed)).value_or(0);
      if (may_have_led(object, noted)) listing.led_noted = noted;
      continue;
    }
    StoredFile file;
    const std::string why = read(object, bucket_bytes, file);
    if (why.empty())
      listing.files.push_back(file);
    else
      listing.foreign.push_back({object.name, why, object.size});
  }
  listing.led_ms = longest_led(listing);
  std::sort(listing.files.begin(), listing.files.end(), [](const auto& a, const auto& b) {
    return std::tie(a.level, a.min, a.max) < std::tie(b.level, b.min, b.max);
  });
  return listing;
}

}  // namespace cluster::sqlite
