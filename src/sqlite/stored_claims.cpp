#include "sqlite/stored_claims.h"

#include <algorithm>
#include <utility>

#include "sqlite/stream_message.h"

namespace cluster::sqlite {
namespace {

constexpr std::uint64_t kMostPassed = 16;  // messages at a stream's beginning that are no records

// What is known of a stream's beginning: what ends before it can't be later than this.
struct Beginning {
  Txid last = 0;  // the last transaction before it
  std::uint64_t hash = 0;
  std::uint64_t epoch = 0;
};

std::optional<Beginning> beginning_of(const StreamRange& stream, const RecordAt& record_at) {
  for (std::uint64_t i = 0; i < kMostPassed && stream.first + i <= stream.last; ++i)
    if (const auto record = record_at(stream.first + i); record && record->epoch > 0)
      return Beginning{record->fence ? record->last : record->first - 1, record->before,
                       record->epoch};
  return std::nullopt;
}

std::string at(std::uint64_t sequence) { return "record " + std::to_string(sequence); }

std::string contradicted_by(const StreamRecord& record, const StoredFile& file) {
  if (record.epoch == 0) return at(record.sequence) + " of the stream is none of ours";
  if (!record.final && !record.fence)
    return at(record.sequence) + " of the stream does not end a file";
  if (record.last != file.max)
    return at(record.sequence) + " of the stream ends with transaction " +
           std::to_string(record.last);
  if (record.hash != file.end.hash)
    return "the database has another hash at " + at(record.sequence) + " of the stream";
  if (file.end.epoch > record.epoch)
    return at(record.sequence) + " of the stream is of epoch " + std::to_string(record.epoch);
  return {};
}

std::string contradicted_by(const Beginning& beginning, const StoredFile& file) {
  const std::string where = "where the stream begins, ";
  if (file.max > beginning.last)
    return where + "transaction " + std::to_string(beginning.last) + " is the last one";
  if (file.end.epoch > beginning.epoch)
    return where + "the epoch is " + std::to_string(beginning.epoch);
  if (file.max == beginning.last && file.end.hash != beginning.hash)
    return where + "the database has another hash";
  return {};
}

}  // namespace

void find_impossible(StoreListing& listing, const StreamRange& stream, const RecordAt& record_at,
                     std::vector<StoredFile>* known) {
  std::vector<StoredFile> right;
  std::optional<std::optional<Beginning>> beginning;
  const auto why_impossible = [&](const StoredFile& file) -> std::string {
    const std::uint64_t end = file.end.sequence;
    if (end > stream.last) return "the stream has no " + at(end);
    if (end >= stream.first) {
      const auto record = record_at(end);
      return record ? contradicted_by(*record, file) : std::string();
    }
    if (!beginning) beginning = beginning_of(stream, record_at);
    return *beginning ? contradicted_by(**beginning, file) : std::string();
  };
  std::erase_if(listing.files, [&](const StoredFile& file) {
    if (file.end.history != stream.history) return false;
    const bool seen = known != nullptr && file.end.sequence <= stream.last &&
                      std::find(known->begin(), known->end(), file) != known->end();
    const std::string why = seen ? std::string() : why_impossible(file);
    if (!why.empty())
      listing.foreign.push_back({file.name(), "what it claims can't be: " + why, file.size});
    else
      right.push_back(file);
    return !why.empty();
  });
  listing.led_ms = longest_led(listing);
  if (known != nullptr) *known = std::move(right);
}

namespace {

RecordAt records_of(SnapshotStore& store, const StreamRange& stream, const std::stop_token& stop) {
  return [&store, name = stream.name, stop](std::uint64_t sequence) -> std::optional<StreamRecord> {
    const auto message = store.message(name, sequence, stop);
    if (!message) return std::nullopt;
    auto record = stream_record_from(message->headers, sequence);
    if (!record && is_foreign(record.error())) return StreamRecord{.sequence = sequence};
    return record ? std::optional(std::move(record.value())) : std::nullopt;
  };
}

}  // namespace

KeptFiles kept_files(SnapshotStore& store, const std::string& stream, std::stop_token stop,
                     std::vector<StoredFile>* known) {
  KeptFiles kept;
  // In this order: what a file says that is listed was in the stream before.
  kept.listing = store.list(stop);
  kept.stream = store.stream(stream, stop);
  if (kept.stream)
    find_impossible(kept.listing, *kept.stream, records_of(store, *kept.stream, stop), known);
  return kept;
}

Files files_kept(SnapshotStore& store, const StreamRange& stream, std::stop_token stop) {
  auto listing = store.list(stop);
  // A file that was stored since the range was read ends behind it, and is none that is wanted.
  if (!stream.name.empty()) find_impossible(listing, stream, records_of(store, stream, stop));
  return std::move(listing.files);
}

}  // namespace cluster::sqlite
