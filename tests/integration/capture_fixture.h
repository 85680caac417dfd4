// Databases and what captures write down of them, shipped to a mirror.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <unistd.h>

#include "integration/sqlite_fixture.h"
#include "sqlite/capture.h"

namespace cluster::sqlite {

class CaptureTest : public SqliteTest {
 protected:
  std::unique_ptr<Capture> capture(const std::string& name, DatabaseState known = {},
                                   bool trusted = false, std::size_t wal_limit = 256 * 1024) {
    return std::make_unique<Capture>(CaptureOptions{.path = path(name), .wal_limit = wal_limit},
                                     std::move(known), trusted);
  }

  // Everything there is now, as one file, into the mirror; returns the file, if there was anything.
  static CapturedFile ship(Capture& capture, Mirror& mirror) {
    capture.follow();
    CapturedFile file;
    if (auto captured = capture.write([&](std::string_view bytes) { file.bytes += bytes; })) {
      file.hashes = captured->hashes;
      EXPECT_EQ(captured->size, file.bytes.size());
      mirror.apply(file);
      EXPECT_EQ(mirror.txid(), captured->header.max_txid);
    }
    return file;
  }

  // A copy that is complete is what the mirror is just then.
  static bool check_copy(Capture& capture, const Mirror& mirror) {
    auto copy = capture.take_copy();
    if (!copy) return false;
    EXPECT_EQ(copy->state.txid, mirror.txid());
    const std::string content = mirror.bytes();
    std::string copied(content.size() + 1, '?');
    const ssize_t size = ::pread(copy->file.get(), copied.data(), copied.size(), 0);
    copied.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    EXPECT_EQ(copied.size(), content.size());
    EXPECT_TRUE(copied == content) << "at transaction " << copy->state.txid;
    return true;
  }
};

}  // namespace cluster::sqlite
