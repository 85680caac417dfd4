// A folder with SQLite databases, and what tests do to them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>

#include <stdlib.h>

#include <gtest/gtest.h>

#include "sqlite/handle.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {

class SqliteTest : public ::testing::Test {
 protected:
  SqliteTest() {
    std::string name =
        (std::filesystem::temp_directory_path() / "cpp-cluster-test-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~SqliteTest() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

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

  std::filesystem::path folder_;
};

/// A database rebuilt from LTX files: what a replica is to be.
class Mirror {
 public:
  void apply(std::string_view file) {
    LtxDecoder decoder(source_of(file));
    const auto& h = decoder.header();
    ASSERT_EQ(h.min_txid, txid_ + 1);
    ASSERT_EQ(h.pre_apply, h.snapshot() ? 0 : sums_.database());
    if (page_size_ != h.page_size) {
      pages_.clear();
      sums_ = PageChecksums(h.page_size);
      page_size_ = h.page_size;
    }
    pages_.erase(pages_.upper_bound(h.commit), pages_.end());
    sums_.resize(h.commit);
    PageNumber number = 0;
    std::string_view page;
    while (decoder.next(number, page)) {
      pages_[number] = std::string(page);
      sums_.set(number, page);
    }
    commit_ = h.commit;
    txid_ = h.max_txid;
    ASSERT_EQ(decoder.trailer().post_apply, sums_.database());
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
  PageChecksums sums_;
  std::uint32_t page_size_ = 0;
  PageNumber commit_ = 0;
  Txid txid_ = 0;
};

}  // namespace cluster::sqlite
