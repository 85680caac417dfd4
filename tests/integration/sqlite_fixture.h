// A folder with SQLite databases, and what tests do to them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "sqlite/capture.h"
#include "sqlite/handle.h"
#include "sqlite/ltx.h"
#include "temporary_folder.h"

namespace cluster::sqlite {

class SqliteTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }

  /// A database in WAL mode with a table t(id, v), which nobody but tests and captures checkpoints.
  Handle create(const std::string& name, const std::string& pragmas = "") const {
    Handle db(path(name), Handle::Access::create);
    db.exec(pragmas +
            ";PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA busy_timeout=10000;" +
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    return db;
  }

  static std::string bytes_of(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream bytes;
    bytes << in.rdbuf();
    return bytes.str();
  }

  /// The bytes of a database that nobody else has open, with all that its WAL had in its file.
  std::string settled(const std::string& name) const {
    Handle db(path(name), Handle::Access::read_write);
    EXPECT_EQ(db.number("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    EXPECT_EQ(db.text("PRAGMA integrity_check"), "ok");
    return bytes_of(path(name));
  }

 private:
  testing::TemporaryFolder folder_;
};

/// What a capture has written.
struct CapturedFile {
  std::string bytes{};  ///< empty: there was nothing to write
  Hashes hashes{};

  static CapturedFile of(Capture& capture) {
    CapturedFile file;
    const auto captured = capture.write([&](std::string_view bytes) { file.bytes += bytes; });
    if (captured) file.hashes = captured->hashes;
    return file;
  }
};

/// A database rebuilt from LTX files: what a replica is to be.
class Mirror {
 public:
  void apply(const CapturedFile& file) {
    LtxDecoder decoder(source_of(file.bytes));
    const auto& h = decoder.header();
    ASSERT_EQ(h.min_txid, txid_ + 1);
    ASSERT_EQ(file.hashes.before, h.snapshot() ? 0 : hashes_.database());
    if (page_size_ != h.page_size) {
      pages_.clear();
      hashes_ = PageHashes(h.page_size);
      page_size_ = h.page_size;
    }
    pages_.erase(pages_.upper_bound(h.commit), pages_.end());
    hashes_.resize(h.commit);
    PageNumber number = 0;
    std::string_view page;
    while (decoder.next(number, page)) {
      pages_[number] = std::string(page);
      hashes_.set(number, page);
    }
    commit_ = h.commit;
    txid_ = h.max_txid;
    ASSERT_EQ(file.hashes.after, hashes_.database());
  }

  std::string bytes() const {
    std::string all;
    for (PageNumber n = 1; n <= commit_; ++n) {
      auto it = pages_.find(n);
      all += it == pages_.end() ? std::string(page_size_, '\0') : it->second;
    }
    return all;
  }
  Txid txid() const { return txid_; }

 private:
  std::map<PageNumber, std::string> pages_;
  PageHashes hashes_;
  std::uint32_t page_size_ = 0;
  PageNumber commit_ = 0;
  Txid txid_ = 0;
};

}  // namespace cluster::sqlite
