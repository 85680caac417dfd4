#include "sqlite/quarantine_note.h"

#include <cerrno>
#include <cstdio>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "core/number_text.h"
#include "core/unique_fd.h"
#include "nats/stored_message.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kLongestNote = 16 * 1024;
constexpr std::size_t kLongestText = 2'000;  // of one field

Json or_null(std::uint64_t value) { return value == 0 ? Json() : Json(value); }

std::string short_text(const Json& json, const char* key) {
  return text_in(json, key).substr(0, kLongestText);
}

// Of a folder that belongs to whoever the program runs as: what stands there may be a link to
// somewhere else, or a pipe.
std::optional<std::string> read_small_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info{};
  if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  std::string text(kLongestNote + 1, '\0');
  text.resize(read_up_to(file.get(), text.data(), text.size(), 0, path));
  if (text.size() > kLongestNote) return std::nullopt;
  return text;
}

}  // namespace

const char* to_text(QuarantineKind kind) {
  switch (kind) {
    case QuarantineKind::diverged: return "diverged";
    case QuarantineKind::foreign: return "foreign";
    case QuarantineKind::damaged: return "damaged";
  }
  return "unknown";
}

std::string note_text(const QuarantineNote& note, QuarantineKind kind) {
  Json json{{"v", kVersion},
            {"kind", to_text(kind)},
            {"app", note.app},
            {"node", note.node},
            {"history", note.history == 0 ? Json() : Json(hex(note.history))},
            {"epoch", or_null(note.epoch)},
            {"first", or_null(note.first)},
            {"last", or_null(note.last)},
            {"transactions", note.held ? Json(note.held->transactions) : Json()},
            {"counted", !note.held            ? "unknown"
                        : note.held->at_least ? "at least"
                                              : "exact"},
            {"since", nats::rfc3339_from(note.since_ms * 1'000'000)},
            {"bytes", note.bytes},
            {"why", note.why.substr(0, kLongestText)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::optional<QuarantineNote> note_from(std::string_view text) {
  if (text.size() > kLongestNote) return std::nullopt;
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || number_in(json, "v") != kVersion) return std::nullopt;
  QuarantineNote note;
  note.app = short_text(json, "app");
  note.node = short_text(json, "node");
  note.history = number_from(text_in(json, "history"), 16).value_or(0);
  note.epoch = number_in(json, "epoch");
  note.first = number_in(json, "first");
  note.last = number_in(json, "last");
  const std::string counted = text_in(json, "counted");
  if (const auto held = number_in(json, "transactions");
      held > 0 && (counted == "exact" || counted == "at least"))
    note.held = LeftOver{held, counted == "at least"};
  if (const auto since = nats::time_ns_from(text_in(json, "since")))
    note.since_ms = *since / 1'000'000;
  note.bytes = number_in(json, "bytes");
  note.why = short_text(json, "why");
  return note;
}

void write_note(const std::string& database, const QuarantineNote& note, QuarantineKind kind) {
  const std::string path = note_path(database), fresh = path + "-new";
  struct stat like{};
  if (::lstat(database.c_str(), &like) != 0) throw file_error("state of", database);
  // One that a crash has left, or that somebody has put there: it is never written through.
  remove_file(fresh);
  const UniqueFd file(
      ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) throw file_error("creation of", fresh);
  try {
    write_all(file.get(), note_text(note, kind), 0, fresh);
    if (::fchmod(file.get(), like.st_mode & 0666) != 0) throw file_error("mode of", fresh);
    if (::geteuid() == 0 && ::fchown(file.get(), like.st_uid, like.st_gid) != 0)
      throw file_error("owner of", fresh);
    if (::fsync(file.get()) != 0) throw file_error("sync of", fresh);
    if (::rename(fresh.c_str(), path.c_str()) != 0) throw file_error("renaming of", fresh);
  } catch (...) {
    ::unlink(fresh.c_str());
    throw;
  }
}

std::optional<QuarantineNote> read_note(const std::string& database) {
  try {
    const auto text = read_small_file(note_path(database));
    return text ? note_from(*text) : std::nullopt;
  } catch (const Error&) {
    return std::nullopt;  // a disk that can't read it: it is only for people
  }
}

}  // namespace cluster::sqlite
