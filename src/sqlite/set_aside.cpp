#include "sqlite/set_aside.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <regex>

#include "core/log.h"
#include "core/wall_time.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"

namespace cluster::sqlite {
namespace {

namespace fs = std::filesystem;

// What SQLite keeps beside a database.
constexpr const char* kBeside[] = {"-wal", "-shm", "-journal"};
// A database whose WAL may still have its old name. Such a one is in no list yet.
constexpr const char* kMoving = "-moving";

// Names are given and taken back by nodes' strands and by commands.
std::mutex& names() {
  static std::mutex mutex;
  return mutex;
}

bool taken(const std::string& name) {
  const auto there = [&](const char* suffix) {
    return fs::exists(fs::symlink_status(name + suffix));
  };
  return there("") || there(".json") || there(kMoving) ||
         std::any_of(std::begin(kBeside), std::end(kBeside), there);
}

std::string free_name(const std::string& path, QuarantineKind kind, std::uint64_t epoch) {
  const std::string first = path + "." + to_text(kind) + "-" + std::to_string(epoch);
  std::string name = first;
  for (int n = 2; taken(name); ++n) name = first + "." + std::to_string(n);
  return name;
}

void rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw file_error("renaming to " + to + " of", from);
}

// The database first, under a name that says that it is not complete: whoever finds that knows
// whose the WAL is that still has its old name. Each step is on the disk before the next one.
void finish_moving(const std::string& path, const std::string& name) {
  // With a database at the path the WAL there is that one's.
  if (!fs::exists(path))
    for (const char* suffix : kBeside)
      if (fs::exists(path + suffix) && !fs::exists(name + suffix))
        rename_file(path + suffix, name + suffix);
  sync_folder_of(path);
  rename_file(name + kMoving, name);
  sync_folder_of(path);
}

void settle_if_possible(const std::string& path, const std::string& name) {
  try {
    settle_database(path);
  } catch (const Error& error) {
    log::warn("database_not_settled",
              {{"path", path},
               {"why", error.what()},
               {"means", "its WAL is kept beside it, as " + name + "-wal"}});
  }
}

// Its time says since when it is there: later than the others whatever the clock says, since the
// newest of them are kept.
void set_time(const std::string& path, const std::string& name, const std::string& newest) {
  std::error_code failed;
  auto time = fs::file_time_type::clock::now();
  if (!newest.empty())
    if (const auto before = fs::last_write_time(newest, failed); !failed && before >= time)
      time = before + std::chrono::milliseconds(1);
  fs::last_write_time(name, time, failed);
  if (failed)
    log::warn("quarantine_time_not_set",
              {{"path", path}, {"kept", name}, {"why", failed.message()}});
}

void write_down(const std::string& name, QuarantineKind kind, QuarantineNote note) {
  std::error_code none;
  note.since_ms = wall_ms();
  for (const char* suffix : {"", "-wal"})
    if (const auto size = fs::file_size(name + suffix, none); !none) note.bytes += size;
  try {
    write_note(name, note, kind);
  } catch (const Error& error) {
    log::warn("quarantine_not_noted",
              {{"kept", name},
               {"why", error.what()},
               {"means", "the database is kept all the same; what is known of it is in this log"}});
  }
}

void remove_files(const std::string& kept) {
  // The database first: cut short here, a WAL is left that nobody lists. The other way round it
  // would be a database that lacks its WAL, and seems to be whole.
  remove_file(kept);
  for (const char* suffix : kBeside) remove_file(kept + suffix);
  remove_file(note_path(kept));
}

// A disk that damages one copy after the other, or somebody who writes to it again and again, must
// not cost those with transactions that are nowhere else.
void remove_older(const std::string& path, QuarantineKind kind) {
  if (kind == QuarantineKind::diverged) return;
  try {
    auto alike = those_set_aside(path);
    std::erase_if(alike, [&](const std::string& one) { return kind_of(one) != kind; });
    for (std::size_t i = kMostSetAside; i < alike.size(); ++i) {
      remove_files(alike[i]);
      log::info("quarantine_removed", {{"kept", alike[i]}, {"means", "there are newer ones"}});
    }
  } catch (const std::exception& error) {
    // With the next one it is tried again.
    log::warn("quarantine_not_removed", {{"path", path}, {"why", error.what()}});
  }
}

}  // namespace

void settle_database(const std::string& path) {
  Handle handle(path, Handle::Access::read_write);
  if (handle.text("PRAGMA journal_mode") == "wal" &&
      handle.number("PRAGMA wal_checkpoint(TRUNCATE)") != 0)
    throw Error(Errc::unavailable,
                "database " + path + ": its WAL can't be moved into it, a program has it open");
}

std::string set_aside(const std::string& path, QuarantineKind kind, QuarantineNote known,
                      bool settle) {
  const std::lock_guard lock(names());
  if (!fs::exists(path)) return {};
  const std::string name = free_name(path, kind, known.epoch);
  if (settle) settle_if_possible(path, name);
  const auto others = those_set_aside(path);
  rename_file(path, name + kMoving);
  sync_folder_of(path);
  finish_moving(path, name);
  set_time(path, name, others.empty() ? std::string() : others.front());
  write_down(name, kind, std::move(known));
  remove_older(path, kind);
  return name;
}

std::vector<std::string> finish_set_aside(const std::string& path, const QuarantineNote& known) {
  const std::lock_guard lock(names());
  const fs::path file = fs::absolute(path);
  if (!fs::exists(file.parent_path())) return {};
  const std::string prefix = file.filename().string() + ".";
  const std::regex pattern("((diverged|foreign|damaged)-[0-9]+(\\.[0-9]+)?)-moving");
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(file.parent_path())) {
    const std::string name = entry.path().filename();
    std::smatch parts;
    const std::string rest = name.starts_with(prefix) ? name.substr(prefix.size()) : std::string();
    if (std::regex_match(rest, parts, pattern))
      found.push_back(file.parent_path() / (prefix + parts[1].str()));
  }
  for (const auto& name : found) {
    const auto others = those_set_aside(path);
    finish_moving(file, name);
    set_time(path, name, others.empty() ? std::string() : others.front());
    write_down(name, kind_of(name), known);
    remove_older(path, kind_of(name));
  }
  return found;
}

std::vector<std::string> those_set_aside(const std::string& path) {
  const fs::path file = fs::absolute(path);
  const std::string prefix = file.filename().string() + ".";
  const std::regex pattern("(diverged|foreign|damaged)-[0-9]+(\\.[0-9]+)?");
  std::vector<std::pair<fs::file_time_type, std::string>> found;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(file.parent_path())) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(prefix) || !std::regex_match(name.substr(prefix.size()), pattern))
      continue;
    // A link may lead to what is none of the database's. It may also be removed just now.
    if (entry.symlink_status(gone).type() != fs::file_type::regular) continue;
    if (const auto time = entry.last_write_time(gone); !gone)
      found.emplace_back(time, entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> names;
  for (const auto& [time, name] : found) names.push_back(name);
  return names;
}

QuarantineKind kind_of(const std::string& kept) {
  const auto dash = kept.rfind('-');
  const std::string_view before = std::string_view(kept).substr(0, dash);
  for (const auto kind : kQuarantineKinds)
    if (before.ends_with(std::string(".") + to_text(kind))) return kind;
  return QuarantineKind::diverged;
}

void remove_set_aside(const std::string& kept) {
  const std::lock_guard lock(names());
  remove_files(kept);
}

}  // namespace cluster::sqlite
