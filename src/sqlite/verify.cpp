#include "sqlite/verify.h"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include <unistd.h>

#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr PageNumber kVerifyAtOnce = 64;  // pages of an image

// Takes the pages one by one and adds up what is found.
class Comparison {
 public:
  Comparison(const PageHashes& noted, std::uint32_t page_size, VerifyProgress& progress,
             const std::stop_token& stop)
      : noted_(noted), progress_(progress), stop_(stop) {
    result.page_size = page_size;
    result.noted = noted.database();
    progress.all = noted.size();
  }

  void add(PageNumber number, std::string_view page) {
    if (stop_.stop_requested())
      throw Error(Errc::shutting_down,
                  "verifying was broken off: this node's part in the database changes");
    const auto found = page_hash(number, page);
    found_ += found;
    if (found != noted_.at(number)) wrong(number);
    progress_.done = number;
  }

  Verified finish(PageNumber pages) {
    result.pages = pages;
    result.found = PageHashes::not_zero(found_);
    // Pages that were noted and are not there.
    for (PageNumber n = pages + 1; n <= noted_.size(); ++n)
      if (noted_.at(n) != 0) wrong(n);
    return std::move(result);
  }

  Verified result;

 private:
  void wrong(PageNumber number) {
    ++result.wrong;
    if (result.named.size() < Verified::kMostNamed) result.named.push_back(number);
  }

  const PageHashes& noted_;
  VerifyProgress& progress_;
  const std::stop_token& stop_;
  std::uint64_t found_ = 0;
};

PositionRecord position_of(const Replica& replica) {
  if (!replica.position())
    throw Error(Errc::unavailable,
                "database " + replica.path() + ": its content is at no known transaction");
  return *replica.position();
}

}  // namespace

void tell_damage(const Journal& journal, const Verified& found) {
  journal.error(
      "database_damage_found",
      {{"epoch", found.epoch},
       {"txid", found.txid},
       {"wrong_pages", found.wrong},
       {"first", found.named.empty() ? 0 : found.named.front()},
       {"why", found.damage.empty() ? "pages are not as they were written" : found.damage}});
}

Verified verify_image(const DatabaseImage& image, VerifyProgress& progress,
                      const std::stop_token& stop) {
  const auto& state = image.state;
  Comparison comparison(state.pages, state.page_size, progress, stop);
  comparison.result.epoch = image.epoch;
  comparison.result.txid = state.txid;
  comparison.result.sequence = image.sequence;
  std::string buffer;
  const PageNumber all = state.pages.size();
  PageNumber there = all;
  for (PageNumber first = 1; first <= there; first += kVerifyAtOnce) {
    const PageNumber count = std::min(kVerifyAtOnce, all - first + 1);
    buffer.resize(std::size_t{count} * state.page_size);
    const std::size_t read =
        read_up_to(image.file.get(), buffer.data(), buffer.size(),
                   std::int64_t{first - 1} * state.page_size, "the image of the database");
    const auto whole = static_cast<PageNumber>(read / state.page_size);
    for (PageNumber i = 0; i < whole; ++i)
      if (first + i != lock_page(state.page_size))
        comparison.add(first + i, std::string_view(buffer).substr(std::size_t{i} * state.page_size,
                                                                  state.page_size));
    if (whole < count) there = first + whole - 1;
  }
  return comparison.finish(there);
}

ReplicaScan::ReplicaScan(const Replica& replica)
    : file_(FileState::of(replica.path()).value_or(FileState{})),
      position_(position_of(replica)),
      noted_(replica.state().pages),
      reader_({.path = replica.path()}, {}, true) {}

Verified ReplicaScan::run(VerifyProgress& progress, const std::stop_token& stop) {
  Comparison comparison(noted_, reader_.page_size(), progress, stop);
  comparison.result.epoch = position_.epoch;
  comparison.result.txid = position_.txid;
  comparison.result.sequence = position_.sequence;
  comparison.result.file = file_;
  return comparison.finish(reader_.each_page(
      [&](PageNumber number, std::string_view page) { comparison.add(number, page); }));
}

}  // namespace cluster::sqlite
