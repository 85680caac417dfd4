#include "nats/object_sweep.h"

#include <memory>
#include <set>

#include <nlohmann/json.hpp>

#include "core/json_fields.h"
#include "nats/stored_message.h"

namespace cluster::nats {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostAtOnce = 100;

// Looks at one id after the other.
struct Sweep : std::enable_shared_from_this<Sweep> {
  JetStream& jetstream;
  const std::string stream;
  const std::int64_t age_ns;
  const Callback<std::uint64_t> done;
  std::vector<std::string> subjects{};
  std::int64_t before_ns = 0;  // nothing was added since
  std::uint64_t freed = 0;

  Sweep(JetStream& js, std::string s, std::int64_t age, Callback<std::uint64_t> d)
      : jetstream(js), stream(std::move(s)), age_ns(age), done(std::move(d)) {}

  void next() {
    if (subjects.empty()) return done(freed);
    const std::string subject = std::move(subjects.back());
    subjects.pop_back();
    jetstream.last_message(
        stream, subject, [self = shared_from_this(), subject](Result<StoredMessage> last) {
          if (!last && last.error().errc() != Errc::not_found) return self->done(last.error());
          if (!last || last.value().time_ns > self->before_ns) return self->next();
          self->jetstream.purge(self->stream, subject, 0, [self](Result<std::uint64_t> purged) {
            if (!purged) return self->done(purged.error());
            ++self->freed;
            self->next();
          });
        });
  }
};

}  // namespace

void sweep_chunks(JetStream& jetstream, const std::string& bucket,
                  const std::vector<ObjectInfo>& objects, Duration age,
                  Callback<std::uint64_t> done) {
  std::set<std::string> known;
  for (const auto& object : objects) known.insert(object_chunk_subject(bucket, object.nuid));
  const auto age_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(age).count();
  auto sweep = std::make_shared<Sweep>(jetstream, object_stream(bucket), age_ns, done);
  const Json filter{{"subjects_filter", object_chunk_subject(bucket)}};
  jetstream.api("STREAM.INFO." + object_stream(bucket), filter.dump(),
                [sweep, known = std::move(known)](const Result<std::string>& text) {
                  if (!text) return sweep->done(text.error());
                  const auto json = Json::parse(text.value(), nullptr, false);
                  // The same servers stamp the chunks. Without their time there is no age.
                  const auto now = time_ns_from(text_in(json, "ts"));
                  if (!now) return sweep->done(0);
                  sweep->before_ns = *now - sweep->age_ns;
                  const Json::json_pointer place("/state/subjects");
                  if (json.is_object() && json.contains(place) && json.at(place).is_object())
                    for (const auto& [subject, count] : json.at(place).items())
                      if (!known.contains(subject) && sweep->subjects.size() < kMostAtOnce)
                        sweep->subjects.push_back(subject);
                  sweep->next();
                });
}

}  // namespace cluster::nats
