#include "sqlite/spill.h"

#include <algorithm>
#include <cstring>

#include <unistd.h>

#include "sqlite/file.h"

namespace cluster::sqlite {

void Spill::append(std::string_view bytes) {
  if (!file_ && size_ + bytes.size() <= memory_limit_) {
    memory_ += bytes;
  } else {
    if (!file_) file_ = temporary_file(folder_);
    const auto in_file = static_cast<std::int64_t>(size_ - memory_.size());
    if (!memory_.empty()) {
      write_all(file_.get(), memory_, in_file, folder_);
      memory_ = {};
    }
    write_all(file_.get(), bytes, static_cast<std::int64_t>(size_), folder_);
  }
  size_ += bytes.size();
}

std::string Spill::read(std::uint64_t offset, std::size_t most) const {
  if (offset >= size_) return {};
  const std::size_t size = std::min<std::uint64_t>(most, size_ - offset);
  if (!file_) return memory_.substr(offset, size);
  std::string bytes(size, '\0');
  const std::string name = "a temporary file in " + folder_;
  if (read_up_to(file_.get(), bytes.data(), size, static_cast<std::int64_t>(offset), name) < size)
    throw Error(Errc::system, "read of " + name + ": it has been cut");
  return bytes;
}

ByteSource Spill::source() const {
  return [this, at = std::uint64_t{0}](char* into, std::size_t most) mutable {
    const std::string bytes = read(at, most);
    std::memcpy(into, bytes.data(), bytes.size());
    at += bytes.size();
    return bytes.size();
  };
}

}  // namespace cluster::sqlite
