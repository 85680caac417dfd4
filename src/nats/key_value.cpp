#include "nats/key_value.h"

#include <algorithm>
#include <optional>

#include "nats/bucket_name.h"

namespace cluster::nats {
namespace {

using std::chrono::seconds;

std::string key_fault(const std::string& key) {
  if (consists_of_alphanumerics_and("-/_=.", key) && key.front() != '.' && key.back() != '.' &&
      key.find("..") == std::string::npos)
    return {};
  return "\"" + key +
         "\" can't be a key: letters, digits and - / _ = . are allowed, no dot at the ends or "
         "beside another";
}

std::string stream_of(const std::string& bucket) { return "KV_" + bucket; }
std::string prefix_of(const std::string& bucket) { return "$KV." + bucket + "."; }

KvEntry entry_from(const std::string& bucket, StoredMessage message) {
  KvEntry entry;
  entry.key = message.subject.substr(std::min(prefix_of(bucket).size(), message.subject.size()));
  entry.revision = message.sequence;
  entry.time_ns = message.time_ns;
  auto operation = message.header("KV-Operation");
  auto marker = message.header("Nats-Marker-Reason");  // left by the server itself, from 2.11 on
  if (operation == "DEL" || marker == "Remove") {
    entry.operation = KvEntry::Operation::remove;
  } else if (operation == "PURGE" || marker == "MaxAge" || marker == "Purge") {
    entry.operation = KvEntry::Operation::purge;
  }
  entry.value = std::move(message.data);
  return entry;
}

}  // namespace

KvWatch::KvWatch(JetStream& jetstream, const std::string& bucket, const std::string& keys,
                 Handlers handlers) {
  OrderedConsumer::Handlers of_stream;
  of_stream.caught_up = std::move(handlers.caught_up);
  of_stream.rewound = std::move(handlers.rewound);
  of_stream.trouble = std::move(handlers.trouble);
  if (handlers.entry)
    of_stream.message = [bucket, entry = std::move(handlers.entry)](StoredMessage message) {
      entry(entry_from(bucket, std::move(message)));
    };
  consumer_ = std::make_unique<OrderedConsumer>(
      jetstream, stream_of(bucket), std::vector{prefix_of(bucket) + keys},
      StartAt{StartAt::Kind::last_per_subject, 0}, std::move(of_stream));
}

KeyValue::KeyValue(JetStream& jetstream, std::string bucket)
    : jetstream_(jetstream), bucket_(std::move(bucket)) {
  check_bucket_name(bucket_);
}

void KeyValue::ensure(const BucketConfig& config, Completion done) {
  // As every NATS client makes a bucket.
  StreamConfig stream;
  stream.name = stream_of(bucket_);
  stream.description = config.description;
  stream.subjects = {prefix_of(bucket_) + ">"};
  stream.replicas = config.replicas;
  stream.max_msgs_per_subject = std::clamp(config.history, 1, 64);
  stream.max_bytes = config.max_bytes;
  stream.max_msg_size = config.max_value_size;
  stream.duplicate_window = seconds(120);
  stream.allow_rollup = true;
  stream.allow_direct = true;
  stream.deny_delete = true;
  stream.discard_new = true;
  jetstream_.ensure_stream(stream, std::move(done));
}

void KeyValue::get(const std::string& key, Callback<KvEntry> done) {
  if (auto fault = key_fault(key); !fault.empty())
    return jetstream_.connection().defer(
        [done = std::move(done), fault] { done(Error(Errc::invalid_argument, fault)); });
  auto not_there =
      Error(Errc::not_found, "there is no key \"" + key + "\" in bucket \"" + bucket_ + "\"");
  jetstream_.last_message(
      stream_of(bucket_), prefix_of(bucket_) + key,
      [bucket = bucket_, not_there, done = std::move(done)](Result<StoredMessage> message) {
        if (!message) return done(message.error());
        auto entry = entry_from(bucket, std::move(message.value()));
        if (entry.operation != KvEntry::Operation::put) return done(not_there);
        done(std::move(entry));
      });
}

void KeyValue::store(const std::string& key, Message message, Expect expect, Duration timeout,
                     Callback<std::uint64_t> done) {
  if (auto fault = key_fault(key); !fault.empty())
    return jetstream_.connection().defer(
        [done = std::move(done), fault] { done(Error(Errc::invalid_argument, fault)); });
  message.subject = prefix_of(bucket_) + key;
  jetstream_.publish(std::move(message), expect, timeout,
                     [done = std::move(done)](Result<PubAck> ack) {
                       if (!ack) return done(ack.error());
                       done(ack.value().sequence);
                     });
}

void KeyValue::put(const std::string& key, std::string value, Callback<std::uint64_t> done) {
  Message message;
  message.data = std::move(value);
  store(key, std::move(message), {}, jetstream_.timeout(), std::move(done));
}

void KeyValue::update(const std::string& key, std::string value, std::uint64_t revision,
                      Callback<std::uint64_t> done) {
  update(key, std::move(value), revision, jetstream_.timeout(), std::move(done));
}

void KeyValue::update(const std::string& key, std::string value, std::uint64_t revision,
                      Duration timeout, Callback<std::uint64_t> done) {
  Message message;
  message.data = std::move(value);
  Expect expect;
  expect.last_subject_sequence = revision;
  store(key, std::move(message), expect, timeout, std::move(done));
}

void KeyValue::remove(const std::string& key, Callback<std::uint64_t> done) {
  Message message;
  message.headers.emplace_back("KV-Operation", "DEL");
  store(key, std::move(message), {}, jetstream_.timeout(), std::move(done));
}

std::unique_ptr<KvWatch> KeyValue::watch(const std::string& keys, KvWatch::Handlers handlers) {
  return std::unique_ptr<KvWatch>(new KvWatch(jetstream_, bucket_, keys, std::move(handlers)));
}

}  // namespace cluster::nats
