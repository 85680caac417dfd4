#include "sqlite/stream_reader.h"

#include "core/check.h"
#include "sqlite/mutants.h"

namespace cluster::sqlite {
namespace {

std::string range(const StreamRecord& r) {
  return r.first == r.last ? std::to_string(r.first)
                           : std::to_string(r.first) + " to " + std::to_string(r.last);
}

}  // namespace

StreamReader::Verdict StreamReader::next(const StreamRecord& record) {
  if (record.sequence <= sequence_) return {Kind::skip};
  if (record.epoch < epoch_)
    return {Kind::invalid, "its epoch is " + std::to_string(record.epoch) + ", behind epoch " +
                               std::to_string(epoch_)};
  sequence_ = record.sequence;
  epoch_ = record.epoch;
  return record.fence ? at_fence(record) : at_data(record);
}

StreamReader::Verdict StreamReader::at_fence(const StreamRecord& record) {
  // What its predecessor did not finish never counts.
  parts_.reset();
  if (mutant(StreamMutation::keep_divergence)) return {Kind::skip};
  // What is here was committed under that epoch or a later one: the fence is of the past.
  if (record.epoch <= position_.epoch) return {Kind::skip};
  if (position_.txid > record.last)
    return {Kind::diverged, "it holds transactions up to " + std::to_string(position_.txid) +
                                ", the stream goes on behind " + std::to_string(record.last)};
  if (position_.txid < record.last)
    return {Kind::gap, "it stands at transaction " + std::to_string(position_.txid) +
                           ", the stream begins behind " + std::to_string(record.last)};
  if (position_.hash != record.hash && !mutant(StreamMutation::skip_hash))
    return {Kind::diverged,
            "its content at transaction " + std::to_string(record.last) + " is another one"};
  return {Kind::skip};
}

StreamReader::Verdict StreamReader::at_data(const StreamRecord& record) {
  if (record.first == 0 || record.first > record.last || record.part == 0)
    return {Kind::invalid,
            "transactions " + range(record) + ", part " + std::to_string(record.part)};
  if (record.last <= position_.txid) {
    if (mutant(StreamMutation::keep_divergence)) return {Kind::skip};
    if (record.epoch > position_.epoch)
      return {Kind::diverged, "it has a transaction " + std::to_string(record.last) + " of epoch " +
                                  std::to_string(position_.epoch) + ", the stream one of epoch " +
                                  std::to_string(record.epoch)};
    if (record.last == position_.txid && record.final && record.hash != position_.hash)
      return {Kind::diverged,
              "its content at transaction " + std::to_string(record.last) + " is another one"};
    return {Kind::skip};
  }
  if (record.first <= position_.txid)
    return {Kind::diverged, "it stands at transaction " + std::to_string(position_.txid) +
                                ", within the stream's " + range(record)};
  if (record.first > position_.txid + 1 && !mutant(StreamMutation::accept_gap))
    return {Kind::gap, "it stands at transaction " + std::to_string(position_.txid) +
                           ", the stream has " + range(record)};
  if (record.before != position_.hash && !mutant(StreamMutation::skip_hash))
    return {Kind::diverged, "its content at transaction " + std::to_string(position_.txid) +
                                " is not what the stream goes on from"};
  const bool begins = record.part == 1;
  if (!begins) {
    const bool follows = parts_ && parts_->first == record.first && parts_->last == record.last &&
                         parts_->part + 1 == record.part && parts_->writer == record.writer;
    if (!follows && !mutant(StreamMutation::part_without_others)) {
      parts_.reset();
      return {Kind::gap, "part " + std::to_string(record.part) + " of transactions " +
                             range(record) + " without the parts before it"};
    }
  }
  if (!record.final) {
    parts_ = record;
    return {Kind::keep, {}, begins};
  }
  parts_.reset();
  return {Kind::apply, {}, begins};
}

void StreamReader::applied(const StreamRecord& record) {
  position_ = {record.epoch, record.last, record.hash};
}

Inheritance inheritance(const CopyPosition& position, const StreamRecord& fence,
                        std::optional<std::uint64_t> at_fence) {
  CLUSTER_CHECK(fence.fence);
  if (position.txid < fence.last) return Inheritance::behind;
  if (mutant(StreamMutation::keep_divergence)) return Inheritance::ahead;
  if (position.txid == fence.last)
    return position.hash == fence.hash || mutant(StreamMutation::skip_hash) ? Inheritance::whole
                                                                            : Inheritance::diverged;
  const bool nobody_between =
      position.epoch == fence.epoch_before || mutant(StreamMutation::inherit_across_epochs);
  return nobody_between && at_fence == fence.hash ? Inheritance::ahead : Inheritance::diverged;
}

}  // namespace cluster::sqlite
