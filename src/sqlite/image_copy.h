// The file of an image while a database is copied into it, page by page, in the midst of changes:
// knows which pages it lacks. Reads and locks nothing itself.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/unique_fd.h"
#include "sqlite/checksum.h"

namespace cluster::sqlite {

class ImageCopy {
 public:
  /// `file`: empty, for reading and writing; `folder`: where it is, for errors.
  ImageCopy(UniqueFd file, std::string folder, std::uint32_t page_size);

  /// The page's content is another one from now on.
  void mark(PageNumber number);
  /// All pages up to `commit` must be copied (again).
  void mark_all(PageNumber commit);
  std::size_t missing() const noexcept { return missing_; }
  /// What is missing has changed since it was copied, and is little, or will not become less: the
  /// rest may be copied at once.
  bool nearly_complete() const noexcept;

  /// Copies up to `most` of the pages that are missing; `page` gives their content now. Pages
  /// behind `commit`, where the database ends now, are not wanted any more. Throws Error{system},
  /// and is of no use then.
  void copy(PageNumber commit, std::size_t most,
            const std::function<std::string_view(PageNumber)>& page);
  /// The file, when nothing is missing.
  UniqueFd finish(PageNumber commit);

 private:
  void write();

  UniqueFd file_;
  const std::string folder_;
  const std::uint32_t page_size_;
  std::vector<bool> lacks_;  // by number
  std::size_t missing_ = 0;
  PageNumber next_ = 1;  // goes round
  int rounds_ = 0;
  std::string bytes_;        // of pages that are adjacent
  PageNumber bytes_at_ = 0;  // the first of them
};

}  // namespace cluster::sqlite
