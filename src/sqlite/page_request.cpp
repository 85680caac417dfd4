#include "sqlite/page_request.h"

#include <memory>
#include <utility>

#include "sqlite/page_hash.h"

namespace cluster::sqlite {
namespace {

constexpr int kMostPageParts = 64;

struct PageFetch {
  AskForPage ask;
  PageRequest request;
  std::uint32_t page_size = 0;
  Callback<std::string> done;
  std::string bytes{};
  int parts = 0;
};

Error no_such_page(const PageFetch& fetch, const std::string& why) {
  return Error(Errc::corrupt, "page " + std::to_string(fetch.request.page) +
                                  " as the node that leads has sent it: " + why);
}

void take_part(const std::shared_ptr<PageFetch>& fetch, const Result<std::string>& part);

void ask_for_part(const std::shared_ptr<PageFetch>& fetch) {
  fetch->request.offset = static_cast<std::uint32_t>(fetch->bytes.size());
  fetch->request.size = fetch->page_size - fetch->request.offset;
  fetch->ask(fetch->request, [fetch](const Result<std::string>& part) { take_part(fetch, part); });
}

void take_part(const std::shared_ptr<PageFetch>& fetch, const Result<std::string>& part) {
  if (!part) return fetch->done(part.error());
  if (part.value().empty() || part.value().size() > fetch->request.size ||
      ++fetch->parts > kMostPageParts)
    return fetch->done(
        no_such_page(*fetch, "it has not " + std::to_string(fetch->page_size) + " bytes"));
  fetch->bytes += part.value();
  if (fetch->bytes.size() < fetch->page_size) return ask_for_part(fetch);
  if (page_hash(fetch->request.page, fetch->bytes) != fetch->request.hash)
    return fetch->done(no_such_page(*fetch, "it is not the page that belongs there"));
  fetch->done(std::move(fetch->bytes));
}

}  // namespace

std::string PageRequest::part_of(const std::string& page_bytes) const {
  if (offset >= page_bytes.size()) return {};
  return page_bytes.substr(offset, size);
}

void fetch_page(const AskForPage& ask, PageNumber page, std::uint64_t hash, std::uint32_t page_size,
                Callback<std::string> done) {
  auto fetch = std::make_shared<PageFetch>();
  fetch->ask = ask;
  fetch->request.page = page;
  fetch->request.hash = hash;
  fetch->page_size = page_size;
  fetch->done = std::move(done);
  ask_for_part(fetch);
}

}  // namespace cluster::sqlite
