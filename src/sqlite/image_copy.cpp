#include "sqlite/image_copy.h"

#include <utility>

#include <unistd.h>

#include "core/check.h"
#include "sqlite/file.h"

namespace cluster::sqlite {
namespace {

constexpr std::size_t kImageWriteSize = 256 * 1024;
constexpr std::size_t kLittleLeft = 1024 * 1024;  // bytes
constexpr int kMostImageRounds = 4;

}  // namespace

ImageCopy::ImageCopy(UniqueFd file, std::string folder, std::uint32_t page_size)
    : file_(std::move(file)), folder_(std::move(folder)), page_size_(page_size) {}

void ImageCopy::mark(PageNumber number) {
  if (number == lock_page(page_size_)) return;
  if (lacks_.size() <= number)
    lacks_.resize(std::max<std::size_t>(std::size_t{number} + 1, lacks_.size() * 2));
  if (lacks_[number]) return;
  lacks_[number] = true;
  ++missing_;
}

void ImageCopy::mark_all(PageNumber commit) {
  for (PageNumber n = 1; n <= commit; ++n) mark(n);
}

bool ImageCopy::nearly_complete() const noexcept {
  return missing_ == 0 || rounds_ >= kMostImageRounds ||
         (rounds_ > 0 && missing_ * page_size_ <= kLittleLeft);
}

void ImageCopy::copy(PageNumber commit, std::size_t most,
                     const std::function<std::string_view(PageNumber)>& page) {
  // Once round at most.
  for (std::size_t looked = 0; missing_ > 0 && most > 0 && looked < lacks_.size(); ++looked) {
    if (next_ >= lacks_.size()) {
      next_ = 1;
      ++rounds_;
    }
    const PageNumber n = next_++;
    if (!lacks_[n]) continue;
    lacks_[n] = false;
    --missing_;
    if (n > commit) continue;
    --most;
    if (n != bytes_at_ + bytes_.size() / page_size_ || bytes_.size() >= kImageWriteSize) write();
    if (bytes_.empty()) bytes_at_ = n;
    bytes_ += page(n);
  }
  write();
}

void ImageCopy::write() {
  if (bytes_.empty()) return;
  write_all(file_.get(), bytes_, std::int64_t{bytes_at_ - 1} * page_size_,
            "an image of the database, a nameless file in " + folder_);
  bytes_.clear();
}

UniqueFd ImageCopy::finish(PageNumber commit) {
  CLUSTER_CHECK(missing_ == 0);
  if (::ftruncate(file_.get(), static_cast<off_t>(commit) * page_size_) != 0)
    throw file_error("truncation of an image in", folder_);
  return std::move(file_);
}

}  // namespace cluster::sqlite
