#include "sqlite/stream_message.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/number_text.h"

namespace cluster::sqlite {
namespace {

constexpr std::string_view kRecordVersion = "2";
constexpr std::size_t kMostPart = 1'000'000;
constexpr std::size_t kLeastPart = 1'024;

// What headers_of() gives and what says where the message is to stand, with all numbers at their
// longest; three of them name the writer.
std::size_t most_headers(const std::string& writer) { return 512 + 3 * writer.size(); }

struct Pair {
  std::uint64_t first = 0, second = 0;
};

// Two numbers with a separator between them.
std::optional<Pair> pair(std::string_view text, char separator, int base = 10) {
  const auto at = text.find(separator);
  if (at == std::string_view::npos) return std::nullopt;
  const auto first = number_from(text.substr(0, at), base),
             second = number_from(text.substr(at + 1), base);
  if (!first || !second) return std::nullopt;
  return Pair{*first, *second};
}

std::string_view find(const std::vector<nats::Header>& headers, std::string_view name) {
  for (const auto& [key, value] : headers)
    if (key == name) return value;
  return {};
}

Error corrupt(std::uint64_t sequence, std::string_view header, std::string_view value) {
  return Error(Errc::corrupt, "message " + std::to_string(sequence) +
                                  " of the WAL stream: header " + std::string(header) + " is \"" +
                                  std::string(value) + "\"");
}

}  // namespace

std::vector<nats::Header> headers_of(const StreamRecord& r) {
  std::string part = std::to_string(r.part);
  if (r.final) part += "/" + std::to_string(r.part);
  std::vector<nats::Header> headers{
      {"Nats-Msg-Id", r.id()},
      {"Cluster-Version", std::string(kRecordVersion)},
      {"Cluster-Epoch", std::to_string(r.epoch)},
      {"Cluster-Writer", r.writer},
      {"Cluster-Txid", std::to_string(r.first) + "-" + std::to_string(r.last)},
      {"Cluster-Hash", hex(r.before) + "-" + hex(r.hash)},
  };
  if (r.fence)
    headers.emplace_back("Cluster-Fence", std::to_string(r.epoch_before));
  else
    headers.emplace_back("Cluster-Part", part);
  return headers;
}

Result<StreamRecord> stream_record_from(const std::vector<nats::Header>& headers,
                                        std::uint64_t sequence) {
  StreamRecord record;
  record.sequence = sequence;
  // The server has checked what a record is to follow. A copy of one, published once more, would
  // stand elsewhere.
  const auto after = find(headers, "Nats-Expected-Last-Sequence");
  const auto after_id = find(headers, "Nats-Expected-Last-Msg-Id");
  if (after.empty() ? after_id.empty() : number_from(after) != sequence - 1)
    return corrupt(sequence, "Nats-Expected-Last-Sequence", after);
  const auto version = find(headers, "Cluster-Version");
  if (const auto v = number_from(version); !v || *v == 0)
    return corrupt(sequence, "Cluster-Version", version);
  if (version != kRecordVersion)
    return Error(Errc::incompatible, "message " + std::to_string(sequence) +
                                         " of the WAL stream has version " + std::string(version) +
                                         " of the format, known is " + std::string(kRecordVersion) +
                                         ": upgrade cpp-cluster on this node, or, where an earlier "
                                         "version wrote it, delete the stream");
  const auto epoch = find(headers, "Cluster-Epoch");
  record.epoch = number_from(epoch).value_or(0);
  if (record.epoch == 0) return corrupt(sequence, "Cluster-Epoch", epoch);
  record.writer = find(headers, "Cluster-Writer");
  if (record.writer.empty()) return corrupt(sequence, "Cluster-Writer", record.writer);
  const auto txid = find(headers, "Cluster-Txid");
  const auto range = pair(txid, '-');
  const auto fence = find(headers, "Cluster-Fence");
  record.fence = !fence.empty();
  if (!range || range->first > range->second || (!record.fence && range->first == 0) ||
      (record.fence && range->first != range->second))
    return corrupt(sequence, "Cluster-Txid", txid);
  record.first = range->first;
  record.last = range->second;
  const auto text_of_hashes = find(headers, "Cluster-Hash");
  const auto hashes = pair(text_of_hashes, '-', 16);
  if (!hashes) return corrupt(sequence, "Cluster-Hash", text_of_hashes);
  record.before = hashes->first;
  record.hash = hashes->second;
  if (record.fence) {
    const auto before = number_from(fence);
    if (!before || *before >= record.epoch) return corrupt(sequence, "Cluster-Fence", fence);
    record.epoch_before = *before;
    return record;
  }
  const auto part = find(headers, "Cluster-Part");
  record.final = part.find('/') != std::string_view::npos;
  const auto numbers = record.final ? pair(part, '/') : std::nullopt;
  const auto place =
      record.final ? (numbers && numbers->first == numbers->second ? std::optional(numbers->first)
                                                                   : std::nullopt)
                   : number_from(part);
  if (!place || *place == 0 || *place > 0xffffffffU) return corrupt(sequence, "Cluster-Part", part);
  record.part = static_cast<std::uint32_t>(*place);
  return record;
}

bool has_transactions(const StreamRecord& newest) {
  return newest.fence || newest.final ? newest.last > 0 : newest.first > 1;
}

std::size_t most_part(const std::string& writer, std::int64_t max_payload) {
  if (max_payload <= 0) return kMostPart;
  const auto payload = static_cast<std::size_t>(max_payload);
  if (payload < most_headers(writer) + kLeastPart) return 0;
  return std::min(kMostPart, payload - most_headers(writer));
}

bool fits(std::size_t bytes, const std::string& writer, std::int64_t max_payload) {
  return max_payload <= 0 || bytes + most_headers(writer) <= static_cast<std::size_t>(max_payload);
}

}  // namespace cluster::sqlite
