#include <optional>

#include "cluster/error.h"
#include "sqlite/ltx.h"

namespace cluster::sqlite {
namespace {

// A file and the page that it would give next.
struct Input {
  LtxDecoder* file = nullptr;
  PageNumber number = 0;  // 0: none is left
  std::string_view page{};

  void advance() {
    if (!file->next(number, page)) number = 0;
  }
};

std::string range(const LtxHeader& h) {
  return std::to_string(h.min_txid) + " to " + std::to_string(h.max_txid);
}

LtxHeader merged_header(const std::vector<LtxDecoder*>& files, bool checksums) {
  if (files.empty()) throw Error(Errc::invalid_argument, "merge of LTX files: none are given");
  const LtxHeader& first = files.front()->header();
  const LtxHeader& last = files.back()->header();
  LtxHeader header;
  header.page_size = first.page_size;
  header.commit = last.commit;
  header.min_txid = first.min_txid;
  header.max_txid = last.max_txid;
  header.timestamp_ms = last.timestamp_ms;
  header.checksums = checksums;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const LtxHeader& h = files[i]->header();
    if (h.page_size != first.page_size)
      throw Error(Errc::invalid_argument, "merge of LTX files: page sizes of " +
                                              std::to_string(first.page_size) + " and " +
                                              std::to_string(h.page_size) + " do not go together");
    if (i > 0 && h.min_txid != files[i - 1]->header().max_txid + 1)
      throw Error(Errc::invalid_argument, "merge of LTX files: transactions " + range(h) +
                                              " do not follow " + range(files[i - 1]->header()));
    header.checksums = header.checksums && h.checksums;
  }
  if (header.checksums) header.pre_apply = first.pre_apply;
  return header;
}

}  // namespace

LtxTrailer merge_ltx(const std::vector<LtxDecoder*>& files, const ByteSink& sink, bool checksums,
                     int acceleration) {
  const LtxHeader header = merged_header(files, checksums);
  LtxEncoder encoder(header, sink, acceleration);
  std::vector<Input> inputs;
  for (auto* file : files) inputs.push_back({file});
  for (auto& input : inputs) input.advance();
  PageNumber last = 0;
  auto check_no_gap = [&](PageNumber next) {
    if (header.snapshot() && next > page_after(last, header.page_size))
      throw Error(Errc::corrupt, "merge of LTX files " + range(header) +
                                     ": none of them has page " +
                                     std::to_string(page_after(last, header.page_size)) +
                                     ", which the database has afterwards");
  };
  while (true) {
    PageNumber lowest = 0;
    for (const auto& input : inputs)
      if (input.number != 0 && (lowest == 0 || input.number < lowest)) lowest = input.number;
    if (lowest == 0) break;
    Input* newest = nullptr;
    for (auto& input : inputs)
      if (input.number == lowest) newest = &input;
    // Pages that a later file has cut off are still read, for their file's checksum.
    if (lowest <= header.commit) {
      check_no_gap(lowest);
      encoder.add(lowest, newest->page);
      last = lowest;
    }
    for (auto& input : inputs)
      if (input.number == lowest) input.advance();
  }
  check_no_gap(header.commit + 1);
  return encoder.finish(header.checksums ? files.back()->trailer().post_apply : 0);
}

}  // namespace cluster::sqlite
