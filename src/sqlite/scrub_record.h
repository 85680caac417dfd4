// How far the scrub of a database has come, in a small file beside it, so that a node that is
// restarted goes on where it was: <database>-cluster-scrub (docs/formats.md, "The scrub file").
// When it is due and how fast it goes. Pure, but for reading and writing the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/clock.h"
#include "sqlite/checksum.h"

namespace cluster::sqlite {

/// Times are of the wall clock, milliseconds since 1970. They only say when something is due.
struct ScrubRecord {
  PageNumber next = 1;           ///< page; 1: none is under way
  std::int64_t since_ms = 0;     ///< this is kept
  std::int64_t begun_ms = 0;     ///< the scrub that is under way; 0: none is
  std::int64_t ended_ms = 0;     ///< the last one was complete; 0: none was
  std::uint64_t wrong = 0;       ///< pages that the scrub under way, else the last one, has found
  std::uint64_t repaired = 0;    ///< and of these, repaired
  std::uint64_t last_pages = 0;  ///< that the last one has looked at
  bool operator==(const ScrubRecord&) const = default;

  bool under_way() const noexcept { return begun_ms != 0; }
};

/// What the file holds.
std::string bytes_of(const ScrubRecord& record);
/// Nothing for anything else.
std::optional<ScrubRecord> scrub_record_from(std::string_view bytes);

/// Nothing when there is no such file, or it is damaged. Throws Error{system}. Blocks.
std::optional<ScrubRecord> read_scrub_record(const std::string& path);
/// Without sync: what a power cut takes is looked at once more. Throws Error{system}. Blocks.
void write_scrub_record(const std::string& path, const ScrubRecord& record);

/// The file that goes with a database.
inline std::string scrub_record_path(const std::string& database) {
  return database + "-cluster-scrub";
}

struct ScrubOptions {
  Duration interval = std::chrono::hours(168);  ///< 0: no scrub but those that are asked for
  std::uint64_t rate = std::uint64_t{16} * 1024 * 1024;  ///< bytes a second
};

/// How long until a scrub is to begin; 0: now, or one is under way. `node`: any number of the
/// node's own: by up to a tenth of the interval nodes begin earlier, each at another time.
Duration until_scrub(const ScrubRecord& record, const ScrubOptions& options, std::uint64_t node,
                     std::int64_t now_ms);
/// The last complete scrub is twice the interval ago.
bool scrub_overdue(const ScrubRecord& record, const ScrubOptions& options, std::int64_t now_ms);
/// So much is read at a time.
std::size_t scrub_step_bytes(const ScrubOptions& options);
/// And so long is waited after that, when it took so long.
Duration pause_after(std::uint64_t bytes, Duration took, const ScrubOptions& options);

}  // namespace cluster::sqlite
