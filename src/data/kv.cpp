// The public face of an app's keys and values.
#include "cluster/kv.h"

#include <algorithm>
#include <utility>

#include "data/kv_bucket.h"
#include "data/kv_watch.h"

namespace cluster {

std::optional<KvEntry> Kv::get(std::string_view key, Timeout timeout) const {
  return bucket_->get(key, timeout);
}

std::uint64_t Kv::put(std::string_view key, std::string_view value, Timeout timeout) {
  return put(key, value, KvWrite{.timeout = timeout});
}

std::uint64_t Kv::put(std::string_view key, std::string_view value, const KvWrite& options) {
  return bucket_->write(key, bucket_->value(value, options), {}, options.timeout);
}

std::uint64_t Kv::create(std::string_view key, std::string_view value, Timeout timeout) {
  return create(key, value, KvWrite{.timeout = timeout});
}

std::uint64_t Kv::create(std::string_view key, std::string_view value, const KvWrite& options) {
  return bucket_->create(key, value, options);
}

std::uint64_t Kv::update(std::string_view key, std::string_view value, std::uint64_t revision,
                         Timeout timeout) {
  return update(key, value, revision, KvWrite{.timeout = timeout});
}

std::uint64_t Kv::update(std::string_view key, std::string_view value, std::uint64_t revision,
                         const KvWrite& options) {
  nats::Expect expect;
  expect.last_subject_sequence = revision;
  return bucket_->write(key, bucket_->value(value, options), expect, options.timeout);
}

void Kv::remove(std::string_view key, Timeout timeout) {
  bucket_->write(key, {.headers = {{"KV-Operation", "DEL"}}}, {}, timeout);
}

void Kv::remove_revision(std::string_view key, std::uint64_t revision, Timeout timeout) {
  nats::Expect expect;
  expect.last_subject_sequence = revision;
  bucket_->write(key, {.headers = {{"KV-Operation", "DEL"}}}, expect, timeout);
}

void Kv::purge(std::string_view key, Timeout timeout) {
  bucket_->write(key, {.headers = {{"KV-Operation", "PURGE"}, {"Nats-Rollup", "sub"}}}, {},
                 timeout);
}

std::vector<std::string> Kv::keys(std::string_view prefix, std::size_t limit,
                                  Timeout timeout) const {
  std::vector<std::string> keys;
  for (auto& entry :
       bucket_->list({.prefix = std::string(prefix), .values = false, .limit = limit}, timeout))
    keys.push_back(std::move(entry.key));
  std::sort(keys.begin(), keys.end());
  return keys;
}

std::vector<KvEntry> Kv::entries(std::string_view prefix, std::size_t limit,
                                 Timeout timeout) const {
  auto entries = bucket_->list({.prefix = std::string(prefix), .limit = limit}, timeout);
  std::sort(entries.begin(), entries.end(),
            [](const KvEntry& a, const KvEntry& b) { return a.key < b.key; });
  return entries;
}

std::vector<KvEntry> Kv::history(std::string_view key, Timeout timeout) const {
  bucket_->check_key(key);
  return bucket_->list({.key = std::string(key), .all = true}, timeout);
}

KvWatch Kv::watch(std::string_view prefix, std::function<void(const KvEntry&)> handler,
                  KvWatchOptions options) {
  return KvWatch(bucket_->watch(prefix, std::move(handler), std::move(options)));
}

}  // namespace cluster
