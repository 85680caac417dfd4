// Pages of a database, each once. A bit for each page up to the highest.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "sqlite/checksum.h"

namespace cluster::sqlite {

class PageSet {
 public:
  void add(PageNumber number) {
    if (is_in_.size() <= number)
      is_in_.resize(std::max<std::size_t>(std::size_t{number} + 1, is_in_.size() * 2));
    if (is_in_[number]) return;
    is_in_[number] = true;
    numbers_.push_back(number);
  }
  void add(const std::vector<PageNumber>& numbers) {
    for (const PageNumber number : numbers) add(number);
  }
  /// In the order of their numbers from now on, until one is added.
  void sort() { std::sort(numbers_.begin(), numbers_.end()); }
  void clear() {
    for (const PageNumber number : numbers_) is_in_[number] = false;
    numbers_.clear();
  }
  bool has(PageNumber number) const { return number < is_in_.size() && is_in_[number]; }
  const std::vector<PageNumber>& numbers() const noexcept { return numbers_; }
  std::size_t size() const noexcept { return numbers_.size(); }

 private:
  std::vector<PageNumber> numbers_;
  std::vector<bool> is_in_;
};

}  // namespace cluster::sqlite
