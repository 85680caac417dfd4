#include "sqlite/set_aside.h"

#include <algorithm>
#include <filesystem>
#include <regex>

#include "core/log.h"
#include "sqlite/file.h"
#include "sqlite/handle.h"

namespace cluster::sqlite {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffixes[] = {"", "-wal", "-shm"};

}  // namespace

void settle_database(const std::string& path) {
  Handle handle(path, Handle::Access::read_write);
  if (handle.text("PRAGMA journal_mode") == "wal" &&
      handle.number("PRAGMA wal_checkpoint(TRUNCATE)") != 0)
    throw Error(Errc::unavailable,
                "database " + path + ": its WAL can't be moved into it, a program has it open");
}

std::string set_aside(const std::string& path, const std::string& word, std::uint64_t epoch) {
  if (!fs::exists(path)) return {};
  std::string name = path + "." + word + "-" + std::to_string(epoch);
  for (int n = 2; fs::exists(name); ++n)
    name = path + "." + word + "-" + std::to_string(epoch) + "." + std::to_string(n);
  try {
    settle_database(path);
  } catch (const Error& error) {
    log::warn("database_not_settled",
              {{"path", path},
               {"why", error.what()},
               {"means", "its WAL is kept beside it, as " + name + "-wal"}});
  }
  for (const char* suffix : kSuffixes) {
    if (!fs::exists(path + suffix)) continue;
    std::error_code code;
    fs::rename(path + suffix, name + suffix, code);
    if (code)
      throw Error(Errc::system,
                  "renaming " + path + suffix + " to " + name + suffix + ": " + code.message());
  }
  // What it says of itself is when it was set aside.
  fs::last_write_time(name, fs::file_time_type::clock::now());
  // A disk that damages one copy after the other must not cost those that have diverged.
  auto all = those_set_aside(path);
  const std::string alike = fs::absolute(path).string() + "." + word + "-";
  std::erase_if(all, [&](const std::string& one) { return !one.starts_with(alike); });
  for (std::size_t i = kMostSetAside; i < all.size(); ++i)
    for (const char* suffix : kSuffixes) fs::remove(all[i] + suffix);
  return name;
}

std::vector<std::string> those_set_aside(const std::string& path) {
  const fs::path file = fs::absolute(path);
  const std::string prefix = file.filename().string() + ".";
  const std::regex pattern("(diverged|damaged)-[0-9]+(\\.[0-9]+)?");
  std::vector<std::pair<fs::file_time_type, std::string>> found;
  for (const auto& entry : fs::directory_iterator(file.parent_path())) {
    const std::string name = entry.path().filename();
    if (name.starts_with(prefix) && std::regex_match(name.substr(prefix.size()), pattern))
      found.emplace_back(entry.last_write_time(), entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> names;
  for (const auto& [time, name] : found) names.push_back(name);
  return names;
}

}  // namespace cluster::sqlite
