#include "sqlite/quarantine.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "core/check.h"
#include "core/unique_fd.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"
#include "sqlite/set_aside.h"

namespace cluster::sqlite {
namespace {

namespace fs = std::filesystem;

std::int64_t ns_of(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Nothing when it has just been removed.
std::optional<Quarantined> look_at(const std::string& path) {
  struct stat file{};
  if (::lstat(path.c_str(), &file) != 0 || !S_ISREG(file.st_mode)) return std::nullopt;
  Quarantined one{.path = path,
                  .kind = kind_of(path),
                  .bytes = static_cast<std::uint64_t>(file.st_size),
                  .changed_ns = ns_of(file.st_mtim),
                  .since_ms = ns_of(file.st_mtim) / 1'000'000,
                  .mode = file.st_mode & 0777,
                  .uid = file.st_uid,
                  .gid = file.st_gid};
  const auto add = [&](const char* suffix, std::uint64_t& bytes) {
    struct stat beside{};
    if (::lstat((path + suffix).c_str(), &beside) != 0 || !S_ISREG(beside.st_mode)) return;
    bytes = static_cast<std::uint64_t>(beside.st_size);
    one.changed_ns = std::max(one.changed_ns, ns_of(beside.st_mtim));
  };
  add("-wal", one.wal_bytes);
  add("-journal", one.journal_bytes);
  return one;
}

}  // namespace

std::string Quarantined::name() const { return fs::path(path).filename(); }

std::vector<Quarantined> in_quarantine(const std::vector<std::string>& databases) {
  std::vector<Quarantined> all;
  std::set<std::string> seen;
  for (const auto& database : databases) {
    if (!fs::exists(fs::absolute(database).parent_path())) continue;
    for (const auto& path : those_set_aside(database))
      if (seen.insert(path).second)
        if (auto one = look_at(path)) all.push_back(std::move(*one));
  }
  std::stable_sort(all.begin(), all.end(), [](const Quarantined& a, const Quarantined& b) {
    return a.since_ms > b.since_ms;
  });
  return all;
}

Quarantined find_quarantined(const std::vector<std::string>& databases, const std::string& name) {
  std::vector<Quarantined> found;
  for (auto& one : in_quarantine(databases))
    if (one.name() == name) found.push_back(std::move(one));
  if (found.empty())
    throw Error(Errc::not_found, "there is no quarantined database of that name here");
  if (found.size() > 1)
    throw Error(Errc::invalid_argument, "two quarantined databases have that name, " +
                                            found[0].path + " and " + found[1].path +
                                            ": rename one of them");
  found[0].note = read_note(found[0].path);
  return std::move(found[0]);
}

QuarantineSummary summary_of(const std::vector<Quarantined>& all) {
  QuarantineSummary summary;
  for (const auto& one : all) {
    auto& total = summary.totals[static_cast<std::size_t>(one.kind)];
    ++total.count;
    total.bytes += one.all_bytes();
    if (summary.newest.size() < QuarantineSummary::kMostNamed) summary.newest.push_back(one.path);
  }
  return summary;
}

std::string read_quarantined(const Quarantined& one, const std::string& suffix,
                             std::uint64_t offset, std::size_t size) {
  CLUSTER_CHECK(suffix.empty() || suffix == "-wal" || suffix == "-journal");
  const std::string path = one.path + suffix;
  // What stands there now may be a link to elsewhere.
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file && errno == ENOENT) throw Error(Errc::not_found, "there is no file " + path);
  struct stat info{};
  if (!file || ::fstat(file.get(), &info) != 0) throw file_error("open of", path);
  if (!S_ISREG(info.st_mode)) throw Error(Errc::not_found, path + " is no file");
  std::string bytes;
  if (offset >= static_cast<std::uint64_t>(info.st_size)) return bytes;
  bytes.resize(std::min<std::uint64_t>(size, static_cast<std::uint64_t>(info.st_size) - offset));
  bytes.resize(
      read_up_to(file.get(), bytes.data(), bytes.size(), static_cast<std::int64_t>(offset), path));
  return bytes;
}

void make_single_file(const std::string& path) {
  {
    Handle db(path, Handle::Access::read_write);
    // Its first look at the file opens the WAL.
    db.exec("PRAGMA writable_schema=ON; PRAGMA user_version");
    int frames = -1, done = -1;
    const int rc =
        sqlite3_wal_checkpoint_v2(db.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, &frames, &done);
    if (rc != SQLITE_OK) throw db.error("moving its WAL into it", rc);
  }
  for (const char* suffix : {"-wal", "-shm", "-journal"}) remove_file(path + suffix);
  // The header's versions (sqlite.org/fileformat2.html): 2 is WAL mode.
  constexpr std::int64_t kVersionsAt = 18;
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) throw file_error("open of", path);
  char versions[2] = {};
  if (read_up_to(file.get(), versions, sizeof versions, kVersionsAt, path) == sizeof versions &&
      versions[0] == 2 && versions[1] == 2)
    write_all(file.get(), std::string_view("\1\1", 2), kVersionsAt, path);
  if (::fsync(file.get()) != 0) throw file_error("sync of", path);
}

}  // namespace cluster::sqlite
