#include "sqlite/file_merge.h"

#include <cerrno>

#include <unistd.h>

#include "cluster/error.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr const char* kName = "the nameless file that pages are merged in";

void read_all(int fd, std::string& into, std::int64_t offset) {
  if (read_up_to(fd, into.data(), into.size(), offset, kName) < into.size())
    throw Error(Errc::system, std::string("read of ") + kName + ": it has been cut");
}

}  // namespace

std::uint32_t& FileMerge::slot(PageNumber number) {
  auto& block = blocks_[number / kBlock];
  if (!block) block = std::make_unique<Block>();
  return (*block)[number % kBlock];
}

// Pages behind `commit` are gone, and come again only with new content.
void FileMerge::cut(PageNumber commit) {
  blocks_.erase(blocks_.upper_bound(commit / kBlock), blocks_.end());
  const auto last = blocks_.find(commit / kBlock);
  if (last == blocks_.end()) return;
  for (PageNumber i = commit % kBlock + 1; i < kBlock; ++i) (*last->second)[i] = 0;
}

void FileMerge::add(LtxDecoder& file) {
  const LtxHeader& h = file.header();
  if (!empty() && (h.page_size != header_.page_size || h.min_txid > header_.max_txid + 1 ||
                   h.max_txid <= header_.max_txid))
    throw Error(Errc::invalid_argument,
                "merge of LTX files: transactions " + std::to_string(h.min_txid) + " to " +
                    std::to_string(h.max_txid) + " with pages of " + std::to_string(h.page_size) +
                    " bytes do not follow " + std::to_string(header_.max_txid) + " with " +
                    std::to_string(header_.page_size));
  if (empty()) {
    header_.page_size = h.page_size;
    header_.min_txid = h.min_txid;
    file_ = temporary_file(folder_);
  }
  PageNumber number = 0;
  std::string_view page;
  while (file.next(number, page)) {
    auto& place = slot(number);
    if (place == 0) place = ++slots_;
    write_all(file_.get(), page, std::int64_t{place - 1} * header_.page_size, kName);
  }
  header_.commit = h.commit;
  header_.max_txid = h.max_txid;
  header_.timestamp_ms = h.timestamp_ms;
  cut(h.commit);
}

void FileMerge::write(const ByteSink& sink, int acceleration) {
  LtxEncoder encoder(header_, sink, acceleration);
  std::string page(header_.page_size, '\0');
  for (const auto& [index, block] : blocks_)
    for (PageNumber i = 0; i < kBlock; ++i) {
      const std::uint32_t place = (*block)[i];
      if (place == 0) continue;
      read_all(file_.get(), page, std::int64_t{place - 1} * header_.page_size);
      encoder.add(index * kBlock + i, page);
    }
  encoder.finish();
}

}  // namespace cluster::sqlite
