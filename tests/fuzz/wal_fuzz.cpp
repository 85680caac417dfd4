// WAL files, by their first byte, position logs and scrub files: what is on a disk may be anything.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

#include "cluster/error.h"
#include "fuzz/expect.h"
#include "sqlite/position_log.h"
#include "sqlite/scrub_record.h"
#include "sqlite/wal_format.h"

using namespace cluster;
using namespace cluster::sqlite;

namespace {

// What is accepted is written again the same.
void read_wal(std::string_view bytes) {
  if (bytes.size() < kWalHeaderSize) return;
  WalHeader header;
  try {
    header = wal_header_from(bytes.substr(0, kWalHeaderSize));
  } catch (const Error& error) {
    expect(error.errc() == Errc::corrupt || error.errc() == Errc::incompatible);
    return;
  }
  expect(is_page_size(header.page_size));
  char again[kWalHeaderSize];
  expect(put_wal_header(again, header) == header.checksum);
  expect(std::string_view(again, sizeof again) == bytes.substr(0, kWalHeaderSize));
  WalChecksum checksum = header.checksum;
  const std::size_t size = kWalFrameHeaderSize + header.page_size;
  for (std::size_t at = kWalHeaderSize; at + size <= bytes.size(); at += size) {
    const auto head = bytes.substr(at, kWalFrameHeaderSize);
    const auto page = bytes.substr(at + kWalFrameHeaderSize, header.page_size);
    WalChecksum before = checksum;
    const auto frame = wal_frame_header_from(head);
    if (!wal_frame_follows(frame, head, page, header.salts, header.big_endian_words, checksum))
      return;
    char frame_again[kWalFrameHeaderSize];
    put_wal_frame_header(frame_again, frame.page, frame.commit, header.salts, page,
                         header.big_endian_words, before);
    expect(before == checksum);
    expect(std::string_view(frame_again, sizeof frame_again) == head);
  }
}

// Whatever it held, records can be added and are there again.
void read_log(std::string_view bytes) {
  if (const auto scrub = scrub_record_from(bytes)) expect(bytes_of(*scrub) == bytes);
  static const std::string path =
      std::filesystem::temp_directory_path() / ("wal_fuzz-" + std::to_string(::getpid()));
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  const PositionRecord record{3, 5, 7, 11, 4096, {{13, 17}, 19, {23, 29}}, true};
  try {
    PositionLog log(path);
    log.append(record);
  } catch (const Error& error) {
    expect(error.errc() == Errc::incompatible);
    return;
  }
  expect(PositionLog(path).records().back() == record);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0)
    read_wal(bytes);
  else
    read_log(bytes);
  return 0;
}
