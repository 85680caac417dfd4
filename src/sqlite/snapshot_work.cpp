#include "sqlite/snapshot_work.h"

#include <cerrno>
#include <utility>

#include <unistd.h>

#include "sqlite/file.h"
#include "sqlite/file_merge.h"
#include "sqlite/stream_feed.h"
#include "sqlite/stream_files.h"
#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr PageNumber kReadAtOnce = 64;  // pages
constexpr const char* kImage = "the image of the database";
constexpr std::int64_t kMillisecond = 1'000'000;  // ns

void stop_if_asked(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(Errc::shutting_down, "snapshot: it was stopped");
}

// Reads ascending pages of an image, many at a time.
class ImageReader {
 public:
  explicit ImageReader(const DatabaseImage& image)
      : image_(image), page_size_(image.state.page_size) {}

  std::string_view page(PageNumber number) {
    if (number < begin_ || number >= begin_ + count_) fill(number);
    const std::string_view page =
        std::string_view(buffer_).substr(std::size_t{number - begin_} * page_size_, page_size_);
    if (page_hash(number, page) != image_.state.pages.at(number))
      throw Error(Errc::corrupt, std::string(kImage) + " at transaction " +
                                     std::to_string(image_.state.txid) + ": page " +
                                     std::to_string(number) +
                                     " is not what it was when it was copied");
    return page;
  }

 private:
  void fill(PageNumber from) {
    begin_ = from;
    count_ = std::min(kReadAtOnce, image_.state.pages.size() - from + 1);
    buffer_.resize(std::size_t{count_} * page_size_);
    const auto offset = std::int64_t{from - 1} * page_size_;
    if (read_up_to(image_.file.get(), buffer_.data(), buffer_.size(), offset, kImage) <
        buffer_.size())
      throw Error(Errc::corrupt, std::string(kImage) + ": it is too short");
  }

  const DatabaseImage& image_;
  const std::uint32_t page_size_;
  std::string buffer_;
  PageNumber begin_ = 0, count_ = 0;
};

// Writes what is merged as an object.
StoredFile store_merged(SnapshotStore& store, FileMerge& merge, StoredFile file,
                        const std::stop_token& stop) {
  file.min = merge.header().min_txid;
  file.max = merge.header().max_txid;
  merge.set_time(file.time_ns / kMillisecond);
  const auto sink = store.create(file, stop);
  merge.write([&](std::string_view bytes) {
    stop_if_asked(stop);
    sink->write(bytes);
  });
  file.size = sink->finish().size;
  return file;
}

}  // namespace

StoredAt place_of(SnapshotStore& store, const StreamRange& stream, const Files& files,
                  const DatabaseImage& image, std::stop_token stop) {
  const auto range = store.stream(stream.name, stop);
  if (!range || range->history != stream.history)
    throw Error(Errc::not_found, "stream " + stream.name + " is gone: somebody has deleted it");
  PlaceSearch search(image.state.txid, image.sequence, files);
  if (!search.found() && range->last < range->first) search.take_empty(range->server_ns);
  const std::uint64_t after = std::max(search.known().sequence, range->first - 1);
  StreamFeed feed(store, stream.name, after, search.found() ? after : range->last,
                  StreamFeed::What::headers, stop);
  while (!search.found()) {
    const auto message = feed.next();
    if (!message)
      throw Error(Errc::unavailable, "stream " + stream.name + " has no transaction " +
                                         std::to_string(image.state.txid) +
                                         " any more, nor what is behind it: it has lost its end");
    auto record = stream_record_from(message->headers, message->sequence);
    search.take(message->sequence, message->time_ns,
                record ? std::optional(std::move(record.value())) : std::nullopt);
  }
  return search.place();
}

StoredFile store_snapshot(SnapshotStore& store, const DatabaseImage& image,
                          const FileOrigin& origin,
                          const std::function<void(PageNumber, PageNumber)>& progress,
                          std::stop_token stop) {
  const DatabaseState& state = image.state;
  StoredFile file;
  file.level = kSnapshotLevel;
  file.min = 1;
  file.max = state.txid;
  file.time_ns = origin.at.time_ns;
  file.end = {origin.history, image.epoch, origin.at.sequence, state.pages.database()};
  file.led_ms = origin.led_ms;
  const auto sink = store.create(file, stop);
  LtxHeader header;
  header.page_size = state.page_size;
  header.commit = state.pages.size();
  header.min_txid = 1;
  header.max_txid = state.txid;
  header.timestamp_ms = file.time_ns / kMillisecond;
  LtxEncoder encoder(header, [&](std::string_view bytes) { sink->write(bytes); });
  ImageReader reader(image);
  for (PageNumber n = 1; n <= header.commit; ++n) {
    if (n == lock_page(header.page_size)) continue;
    if (n % kReadAtOnce == 1) {
      stop_if_asked(stop);
      if (progress) progress(n - 1, header.commit);
    }
    encoder.add(n, reader.page(n));
  }
  encoder.finish();
  file.size = sink->finish().size;
  if (progress) progress(header.commit, header.commit);
  return file;
}

std::optional<StoredFile> store_range(SnapshotStore& store, const StreamRange& stream,
                                      const StoredFile& start, std::int64_t led_ms,
                                      const SnapshotOptions& options, const std::string& folder,
                                      std::stop_token stop) {
  const CopyPosition position{start.end.epoch, start.max, start.end.hash};
  StreamFiles files(store, stream.name, position, {start.end.sequence, start.time_ns}, stream.last,
                    folder, stop);
  FileMerge merge(folder);
  StoredFile file;
  file.level = 1;
  file.led_ms = led_ms;
  std::uint64_t bytes = 0;
  while (bytes < options.merge_bytes) {
    stop_if_asked(stop);
    const auto next = files.next();
    if (!next) break;
    bytes += next->bytes->size();
    LtxDecoder decoder([&, source = next->bytes->source()](char* into, std::size_t most) {
      stop_if_asked(stop);
      return source(into, most);
    });
    merge.add(decoder);
    file.time_ns = next->time_ns;
    file.end = {stream.history, next->record.epoch, next->record.sequence, next->record.hash};
  }
  if (merge.empty()) return std::nullopt;
  return store_merged(store, merge, file, stop);
}

StoredFile store_merge(SnapshotStore& store, const PlannedMerge& planned, const std::string& folder,
                       std::stop_token stop, StoredFile& at) {
  FileMerge merge(folder);
  for (const auto& source : planned.sources) {
    stop_if_asked(stop);
    at = source;
    const auto object = store.open(source.name(), stop);
    LtxDecoder decoder([&](char* into, std::size_t most) {
      stop_if_asked(stop);
      return object->read(into, most);
    });
    try {
      merge.add(decoder);
    } catch (const Error& error) {
      throw Error(error.errc(), source.name() + ": " + error.what());
    }
  }
  at = {};
  StoredFile file = planned.sources.back();
  file.level = planned.level;
  return store_merged(store, merge, file, stop);
}

}  // namespace cluster::sqlite
