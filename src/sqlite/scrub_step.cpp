#include "sqlite/scrub_step.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "cluster/error.h"
#include "sqlite/disk_pages.h"
#include "sqlite/page_hash.h"

namespace cluster::sqlite {
namespace {

// A page that changes under so many looks in a row is on its way to be written anew.
constexpr int kMostLooks = 5;

class Comparer {
 public:
  Comparer(const std::string& path, const ExpectPages& expect, const std::stop_token& stop)
      : path_(path), expect_(expect), stop_(stop) {}

  ExpectedPages expected(PageNumber first, PageNumber count) const {
    if (stop_.stop_requested())
      throw Error(Errc::shutting_down, "scrubbing " + path_ + " was broken off");
    auto pages = expect_(first, count);
    if (!pages)
      throw Error(Errc::unavailable,
                  "scrubbing " + path_ + ": what its pages must be is not known now");
    return std::move(*pages);
  }

  /// Of these pages; those that may have changed meanwhile stay in `undecided`.
  void compare(PageNumber first, PageNumber count, ScrubStep& step,
               std::vector<PageNumber>& undecided) const {
    const ExpectedPages before = expected(first, count);
    const DiskPages disk = read_from_disk(path_, first, count, before.page_size);
    if (disk.inode != before.inode)
      throw Error(Errc::unavailable,
                  "scrubbing " + path_ + ": the file that is open is not at its place any more");
    std::optional<ExpectedPages> after;
    for (PageNumber i = 0; i < count; ++i) {
      const PageNumber number = first + i;
      const std::uint64_t hash = before.hashes[i];
      if (hash != 0 && disk.error(number) == 0 && page_hash(number, disk.page(number)) == hash) {
        ++step.compared;
        continue;
      }
      if (hash != 0 && !after) after = expected(first, count);
      if (hash == 0 || after->hashes[i] == 0) {
        ++step.skipped;
      } else if (after->generation == before.generation && after->hashes[i] == hash) {
        ++step.compared;
        step.wrong.push_back({number, hash, disk.error(number)});
      } else {
        undecided.push_back(number);
      }
    }
  }

 private:
  const std::string& path_;
  const ExpectPages& expect_;
  const std::stop_token& stop_;
};

}  // namespace

ScrubStep scrub_some(const std::string& path, PageNumber first, std::size_t bytes,
                     const ExpectPages& expect, const std::stop_token& stop) {
  const Comparer comparer(path, expect, stop);
  const ExpectedPages database = comparer.expected(first, 0);
  ScrubStep step;
  step.page_size = database.page_size;
  step.pages = database.pages;
  step.next = first;
  if (first == 0 || first > database.pages) return step;
  const auto most = std::max<std::size_t>(1, bytes / database.page_size);
  const auto count =
      static_cast<PageNumber>(std::min<std::size_t>(most, database.pages - first + 1));
  std::vector<PageNumber> undecided;
  comparer.compare(first, count, step, undecided);
  for (int look = 1; look < kMostLooks && !undecided.empty(); ++look)
    for (const PageNumber number : std::exchange(undecided, {}))
      comparer.compare(number, 1, step, undecided);
  step.skipped += undecided.size();
  step.next = first + count;
  return step;
}

std::string to_text(const WrongPage& page) {
  if (page.error == kBehindTheEnd) return "the file ends before it";
  if (page.error != 0) return "reading it fails: " + std::generic_category().message(page.error);
  return "its content is not what was written";
}

}  // namespace cluster::sqlite
