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

std::string merged_txids(const LtxHeader& h) {
  return std::to_string(h.min_txid) + " to " + std::to_string(h.max_txid);
}

void check_adjacent(const std::vector<LtxDecoder*>& files) {
  if (files.empty()) throw Error(Errc::invalid_argument, "merge of LTX files: none are given");
  for (std::size_t i = 1; i < files.size(); ++i) {
    const LtxHeader& before = files[i - 1]->header();
    const LtxHeader& h = files[i]->header();
    if (h.page_size != before.page_size)
      throw Error(Errc::invalid_argument, "merge of LTX files: page sizes of " +
                                              std::to_string(before.page_size) + " and " +
                                              std::to_string(h.page_size) + " do not go together");
    if (h.min_txid != before.max_txid + 1)
      throw Error(Errc::invalid_argument, "merge of LTX files: transactions " + merged_txids(h) +
                                              " do not follow " + merged_txids(before));
  }
}

}  // namespace

void merge_pages(const std::vector<LtxDecoder*>& files,
                 const std::function<void(PageNumber, std::string_view)>& page) {
  check_adjacent(files);
  const LtxHeader& first = files.front()->header();
  const PageNumber commit = files.back()->header().commit;
  PageNumber last = 0;
  auto check_no_gap = [&](PageNumber next) {
    const PageNumber wanted = page_after(last, first.page_size);
    if (first.snapshot() && next > wanted)
      throw Error(Errc::corrupt, "merge of LTX files: none of them has page " +
                                     std::to_string(wanted) + " of " + std::to_string(commit));
  };
  std::vector<Input> inputs;
  for (auto* file : files) inputs.push_back({file});
  for (auto& input : inputs) input.advance();
  while (true) {
    PageNumber lowest = 0;
    for (const auto& input : inputs)
      if (input.number != 0 && (lowest == 0 || input.number < lowest)) lowest = input.number;
    if (lowest == 0) break;
    Input* newest = nullptr;
    for (auto& input : inputs)
      if (input.number == lowest) newest = &input;
    // Pages that a later file has cut off are still read, for their file's checksum.
    if (lowest <= commit) {
      check_no_gap(lowest);
      page(lowest, newest->page);
      last = lowest;
    }
    for (auto& input : inputs)
      if (input.number == lowest) input.advance();
  }
  check_no_gap(commit + 1);
}

std::uint64_t merge_ltx(const std::vector<LtxDecoder*>& files, const ByteSink& sink,
                        int acceleration) {
  check_adjacent(files);
  const LtxHeader& first = files.front()->header();
  const LtxHeader& last = files.back()->header();
  LtxHeader header;
  header.page_size = first.page_size;
  header.commit = last.commit;
  header.min_txid = first.min_txid;
  header.max_txid = last.max_txid;
  header.timestamp_ms = last.timestamp_ms;
  LtxEncoder encoder(header, sink, acceleration);
  merge_pages(files, [&](PageNumber number, std::string_view page) { encoder.add(number, page); });
  return encoder.finish();
}

}  // namespace cluster::sqlite
