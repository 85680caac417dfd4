// What a standby can take: LTX files, applied one after the other, with its checkpoints.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include <unistd.h>

#include "bench/figures.h"
#include "sqlite/capture.h"
#include "sqlite/replica.h"

namespace bench {
namespace {

using cluster::BootClock;
namespace sqlite = cluster::sqlite;

constexpr int kMibPerFile = 4;
constexpr double kLeastMbPerSecond = 300;
constexpr int kRounds = 3;
constexpr std::size_t kWalLimit = std::size_t{16} * 1024 * 1024;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.0f", value);
  return text;
}

struct Files {
  std::vector<std::string> files{};
  std::vector<sqlite::Hashes> hashes{};
  std::uint64_t page_bytes = 0;
};

// Transactions that each write some MiB of pages, as their LTX files.
Files make_files(Waiting& waiting, const std::string& folder, int mib) {
  Files made;
  const std::string path = folder + "/primary.db";
  sqlite::Handle db(path, sqlite::Handle::Access::create);
  db.exec(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, "
      "v TEXT)");
  sqlite::Capture capture({.path = path, .wal_limit = kWalLimit}, {}, false);
  for (int done = 0; done < mib; done += kMibPerFile) {
    waiting.check();
    // Half of it never repeats, half always does: a compressor makes it about half as long.
    db.exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " +
            std::to_string(kMibPerFile * 1024) +
            ") INSERT INTO t(v) SELECT hex(randomblob(240)) || hex(zeroblob(240)) FROM n");
    capture.follow();
    std::string file;
    const auto written = capture.write([&](std::string_view bytes) { file += bytes; });
    if (!written) throw Failed{"nothing was captured"};
    made.page_bytes += std::uint64_t{written->pages} * capture.page_size();
    made.files.push_back(std::move(file));
    made.hashes.push_back(written->hashes);
    capture.checkpoint();
  }
  return made;
}

double apply_files(Waiting& waiting, const std::string& folder, const Files& files) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const std::string path = folder + "/replica.db";
  sqlite::PositionLog log(sqlite::position_log_path(path));
  sqlite::HashFile hash_file(sqlite::hash_file_path(path));
  sqlite::Replica replica(path, log, hash_file, kWalLimit);
  std::atomic<bool> over{false};
  std::thread checkpoints;
  const auto begin = BootClock::now();
  std::uint64_t sequence = 0;
  for (const auto& bytes : files.files) {
    waiting.check();
    sqlite::LtxDecoder file(sqlite::source_of(bytes));
    const auto& hashes = files.hashes[sequence];
    if (const auto why = replica.apply(file, {1, ++sequence}, hashes)) throw Failed{*why};
    if (sequence > 1) continue;
    checkpoints = std::thread([&] {
      while (!over)
        if (replica.wants_checkpoint())
          replica.checkpoint();
        else
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }
  const auto took = BootClock::now() - begin;
  over = true;
  checkpoints.join();
  return static_cast<double>(files.page_bytes) / 1e3 / milliseconds(took);
}

// The same pages twice, as into a WAL and from there into the database, with nothing else.
double write_twice(const std::string& path, std::uint64_t bytes) {
  const std::string block(std::size_t{kMibPerFile} * 1024 * 1024, 'x');
  const auto begin = BootClock::now();
  for (int copy = 0; copy < 2; ++copy) {
    std::filesystem::remove(path);
    std::ofstream file(path, std::ios::binary);
    for (std::uint64_t done = 0; done < bytes; done += block.size())
      file.write(block.data(), static_cast<std::streamsize>(block.size()));
    if (!file.flush()) throw Failed{"can't write " + path};
  }
  const double rate = static_cast<double>(bytes) / 1e3 / milliseconds(BootClock::now() - begin);
  std::filesystem::remove(path);
  return rate;
}

}  // namespace

void apply(Surroundings& around) {
  const Files files = make_files(around.waiting, around.folder, around.amounts.apply_mib);
  std::uint64_t file_bytes = 0;
  for (const auto& file : files.files) file_bytes += file.size();
  std::vector<double> rates, references;
  for (int i = 0; i < kRounds; ++i) {
    rates.push_back(apply_files(around.waiting, around.folder + "/replica", files));
    references.push_back(write_twice(around.folder + "/reference", files.page_bytes));
    around.report.line(number(static_cast<double>(files.page_bytes) / 1e6) + " MB of pages, " +
                       number(static_cast<double>(file_bytes) / 1e6) + " MB as files of " +
                       std::to_string(kMibPerFile) + " MiB of pages: " + number(rates.back()) +
                       " MB/s; reference: the same bytes written twice to a file: " +
                       number(references.back()) + " MB/s");
  }
  std::sort(rates.begin(), rates.end());
  std::sort(references.begin(), references.end());
  around.report.verdict("pages that a standby applies",
                        number(rates[rates.size() / 2]) + " MB/s (written twice to a file: " +
                            number(references[references.size() / 2]) + " MB/s)",
                        "≥ 300 MB/s", rates[rates.size() / 2] >= kLeastMbPerSecond);
}

}  // namespace bench
