#include "sqlite/scrub_record.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include <fcntl.h>

#include "core/unique_fd.h"
#include "sqlite/bytes.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kScrubMagic{"CCLSCR\0\1", 8};  // the last byte: version
constexpr std::size_t kScrubRecordSize = 8 + 4 + 6 * 8 + 8;
constexpr std::size_t kMostStepBytes = std::size_t{1024} * 1024;
constexpr std::size_t kLeastStepBytes = std::size_t{64} * 1024;
constexpr std::uint64_t kStepsPerSecond = 8;
constexpr std::uint64_t kNodeParts = 1'000;

milliseconds in_ms(Duration time) { return std::chrono::duration_cast<milliseconds>(time); }

// When the last one was complete; a time that is still to come was a wrong clock's.
std::int64_t last_ms(const ScrubRecord& record, std::int64_t now_ms) {
  const std::int64_t last = record.ended_ms != 0 ? record.ended_ms : record.since_ms;
  return last > now_ms ? 0 : last;
}

}  // namespace

std::string bytes_of(const ScrubRecord& record) {
  std::string out(kScrubMagic);
  append_be(out, record.next);
  for (const std::int64_t time : {record.since_ms, record.begun_ms, record.ended_ms})
    append_be(out, static_cast<std::uint64_t>(time));
  for (const std::uint64_t count : {record.wrong, record.repaired, record.last_pages})
    append_be(out, count);
  Crc64 crc;
  crc.add(out);
  append_be(out, crc.value());
  return out;
}

std::optional<ScrubRecord> scrub_record_from(std::string_view bytes) {
  if (bytes.size() != kScrubRecordSize || !bytes.starts_with(kScrubMagic)) return std::nullopt;
  Crc64 crc;
  crc.add(bytes.substr(0, kScrubRecordSize - 8));
  if (crc.value() != get_be<std::uint64_t>(bytes.data() + kScrubRecordSize - 8))
    return std::nullopt;
  const char* at = bytes.data() + kScrubMagic.size();
  ScrubRecord record;
  record.next = get_be<PageNumber>(at);
  at += sizeof(PageNumber);
  for (auto* time : {&record.since_ms, &record.begun_ms, &record.ended_ms}) {
    const auto value = get_be<std::uint64_t>(at);
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return std::nullopt;
    *time = static_cast<std::int64_t>(value);
    at += 8;
  }
  for (auto* count : {&record.wrong, &record.repaired, &record.last_pages}) {
    *count = get_be<std::uint64_t>(at);
    at += 8;
  }
  if (record.next == 0 || (record.next != 1 && !record.under_way())) return std::nullopt;
  return record;
}

std::optional<ScrubRecord> read_scrub_record(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file && errno == ENOENT) return std::nullopt;
  if (!file) throw file_error("open of", path);
  std::string bytes(kScrubRecordSize, '\0');
  bytes.resize(read_up_to(file.get(), bytes.data(), bytes.size(), 0, path));
  return scrub_record_from(bytes);
}

void write_scrub_record(const std::string& path, const ScrubRecord& record) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) throw file_error("open of", path);
  write_all(file.get(), bytes_of(record), 0, path);
}

Duration until_scrub(const ScrubRecord& record, const ScrubOptions& options, std::uint64_t node,
                     std::int64_t now_ms) {
  if (record.under_way()) return Duration(0);
  const std::int64_t interval = in_ms(options.interval).count();
  const auto earlier = static_cast<std::int64_t>(static_cast<double>(interval) / 10 *
                                                 static_cast<double>(node % kNodeParts) /
                                                 static_cast<double>(kNodeParts));
  const std::int64_t due = last_ms(record, now_ms) + interval - earlier;
  return due <= now_ms ? Duration(0) : Duration(milliseconds(due - now_ms));
}

bool scrub_overdue(const ScrubRecord& record, const ScrubOptions& options, std::int64_t now_ms) {
  const std::int64_t interval = in_ms(options.interval).count();
  if (interval == 0 || record.since_ms == 0) return false;
  return now_ms - last_ms(record, now_ms) > 2 * interval;
}

std::size_t scrub_step_bytes(const ScrubOptions& options) {
  return std::clamp<std::size_t>(options.rate / kStepsPerSecond, kLeastStepBytes, kMostStepBytes);
}

Duration pause_after(std::uint64_t bytes, Duration took, const ScrubOptions& options) {
  const std::chrono::duration<double> wanted(static_cast<double>(bytes) /
                                             static_cast<double>(options.rate));
  return std::max(Duration(0), std::chrono::duration_cast<Duration>(wanted) - took);
}

}  // namespace cluster::sqlite
