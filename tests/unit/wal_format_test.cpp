// The WAL's format against one that SQLite itself has written, and against damage.
#include "sqlite/wal_format.h"

#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "cluster/error.h"
#include "sqlite/handle.h"
#include "temporary_folder.h"

namespace cluster::sqlite {
namespace {

// The bytes of a WAL with some transactions in it.
std::string real_wal(std::uint32_t page_size) {
  const testing::TemporaryFolder folder;
  std::stringstream bytes;
  {
    Handle db(folder / "a.db", Handle::Access::create);
    db.exec("PRAGMA page_size=" + std::to_string(page_size) +
            "; PRAGMA journal_mode=WAL; CREATE TABLE t(v); INSERT INTO t VALUES(randomblob(5000));"
            "INSERT INTO t VALUES(1)");
    bytes << std::ifstream(folder / "a.db-wal", std::ios::binary).rdbuf();
  }
  return bytes.str();
}

// How many frames follow one another from the start.
std::size_t frames_that_follow(std::string_view wal, int* transactions = nullptr) {
  const auto header = wal_header_from(wal.substr(0, kWalHeaderSize));
  auto checksum = header.checksum;
  std::size_t frames = 0;
  const std::size_t size = kWalFrameHeaderSize + header.page_size;
  for (auto rest = wal.substr(kWalHeaderSize); rest.size() >= size; rest.remove_prefix(size)) {
    const auto head = rest.substr(0, kWalFrameHeaderSize);
    const auto frame = wal_frame_header_from(head);
    if (!wal_frame_follows(frame, head, rest.substr(kWalFrameHeaderSize, header.page_size),
                           header.salts, header.big_endian_words, checksum))
      break;
    ++frames;
    if (transactions != nullptr && frame.commit != 0) ++*transactions;
  }
  return frames;
}

TEST(WalFormat, FollowsAWalThatSqliteHasWritten) {
  for (std::uint32_t page_size : {512U, 4096U, 65536U}) {
    const auto wal = real_wal(page_size);
    int transactions = 0;
    EXPECT_EQ(frames_that_follow(wal, &transactions),
              (wal.size() - kWalHeaderSize) / (kWalFrameHeaderSize + page_size));
    EXPECT_EQ(transactions, 3);
    EXPECT_EQ(wal_header_from(std::string_view(wal).substr(0, kWalHeaderSize)).page_size,
              page_size);
  }
}

TEST(WalFormat, StopsAtAnyChange) {
  const auto wal = real_wal(512);
  const std::size_t size = kWalFrameHeaderSize + 512;
  for (std::size_t i = kWalHeaderSize; i < wal.size(); i += 7) {
    auto changed = wal;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    ASSERT_EQ(frames_that_follow(changed), (i - kWalHeaderSize) / size) << "byte " << i;
  }
}

TEST(WalFormat, WritesWhatItReads) {
  const auto wal = real_wal(512);
  const auto header = wal_header_from(std::string_view(wal).substr(0, kWalHeaderSize));
  char bytes[kWalHeaderSize];
  EXPECT_EQ(put_wal_header(bytes, header), header.checksum);
  EXPECT_EQ(std::string_view(bytes, sizeof bytes), std::string_view(wal).substr(0, kWalHeaderSize));
  auto checksum = header.checksum;
  for (std::uint32_t n = 1; wal_frame_offset(n, 512) < static_cast<std::int64_t>(wal.size()); ++n) {
    const auto at = static_cast<std::size_t>(wal_frame_offset(n, 512));
    const auto frame = wal_frame_header_from(std::string_view(wal).substr(at, kWalFrameHeaderSize));
    char head[kWalFrameHeaderSize];
    put_wal_frame_header(head, frame.page, frame.commit, header.salts,
                         std::string_view(wal).substr(at + kWalFrameHeaderSize, 512),
                         header.big_endian_words, checksum);
    ASSERT_EQ(std::string_view(head, sizeof head), std::string_view(wal).substr(at, sizeof head));
  }
}

TEST(WalFormat, RefusesWhatIsNoHeader) {
  const auto wal = real_wal(512);
  for (std::size_t i = 0; i < kWalHeaderSize; ++i) {
    auto header = wal.substr(0, kWalHeaderSize);
    header[i] = static_cast<char>(header[i] ^ 4);
    EXPECT_THROW(wal_header_from(header), Error) << "byte " << i;
  }
}

}  // namespace
}  // namespace cluster::sqlite
