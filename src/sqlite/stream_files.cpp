#include "sqlite/stream_files.h"

#include <utility>

#include "sqlite/stream_message.h"

namespace cluster::sqlite {

StreamFiles::StreamFiles(SnapshotStore& store, std::string stream, const CopyPosition& position,
                         const StoredAt& begin, std::uint64_t until, std::string folder,
                         std::stop_token stop)
    : stream_(std::move(stream)),
      folder_(std::move(folder)),
      reader_(position),
      time_(begin.time_ns),
      feed_(store, stream_, begin.sequence, until, StreamFeed::What::all, std::move(stop)) {}

std::optional<StreamFiles::File> StreamFiles::next() {
  while (auto message = feed_.next()) {
    const std::int64_t time_ns = time_.at(message->time_ns);
    const auto record = stream_record_from(message->headers, message->sequence);
    if (!record && is_foreign(record.error())) continue;
    if (!record) throw record.error();
    const auto verdict = reader_.next(record.value());
    using Kind = StreamReader::Kind;
    if (verdict.kind == Kind::skip) continue;
    if (verdict.kind != Kind::keep && verdict.kind != Kind::apply)
      throw Error(Errc::corrupt, "record " + std::to_string(message->sequence) + " of stream " +
                                     stream_ + " does not follow: " + verdict.why);
    if (verdict.begins || !parts_) parts_ = std::make_unique<Spill>(folder_);
    parts_->append(message->data);
    if (verdict.kind == Kind::keep) continue;
    reader_.applied(record.value());
    return File{record.value(), time_ns, std::move(parts_)};
  }
  return std::nullopt;
}

}  // namespace cluster::sqlite
